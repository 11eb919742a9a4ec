"""deploy/grafana: the dashboard asks for metrics and labels that ``/metrics`` has."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from prometheus_client.parser import text_string_to_metric_families

from mixtral.engine import StepReport
from mixtral.server.logs import RequestRecord
from tests.server.engine_for_tests import get, make_service

DEPLOY = Path(__file__).parents[2] / "deploy"
DASHBOARD = json.loads((DEPLOY / "grafana" / "mixtral.json").read_text())
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text())


def served() -> dict[str, set[str]]:
    """Names of all samples of a server that did something, with their labels."""
    service = make_service()
    step = StepReport(num_sequences=1, num_tokens=2, num_prefill_tokens=1, step_s=0.1)
    service.metrics.observe_step(step)
    service.metrics.observe_generation(ttft_s=0.1, tpot_s=0.1, e2e_s=1)
    record = RequestRecord(request_id="r", method="GET", path="/", status=200)
    service.metrics.observe_request(record)
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(get(service, "/metrics").text):
        for sample in family.samples:
            found.setdefault(sample.name, {"instance", "job"}).update(sample.labels)
    return found


def expressions() -> Iterator[tuple[str, str]]:
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"]


def test_every_expression_asks_for_metrics_that_there_are() -> None:
    known = served()
    for title, expr in expressions():
        names = re.findall(r"\bmixtral_\w+", expr)
        assert names, title
        assert set(names) <= set(known), title


def test_every_label_belongs_to_a_metric_of_its_expression() -> None:
    known = served()
    for title, expr in expressions():
        has = set().union(*(known[name] for name in re.findall(r"\bmixtral_\w+", expr)))
        grouped = re.findall(r"by \(([^)]*)\)", expr)
        used = {label.strip() for labels in grouped for label in labels.split(",")}
        used |= set(re.findall(r"([a-z_]+)\s*(?:=~|!~|!=|=)\s*\"", expr))
        assert used <= has, title
        assert expr.count("(") == expr.count(")"), title
        assert expr.count('instance=~"$instance"') == len(re.findall(r"mixtral_\w+", expr)), title


def test_legends_name_labels_that_the_expression_keeps() -> None:
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", ()):
            for label in re.findall(r"{{(\w+)}}", target["legendFormat"]):
                assert re.search(rf"by \([^)]*\b{label}\b", target["expr"]), panel["title"]


def test_no_metric_is_left_out() -> None:
    asked = {name for _, expr in expressions() for name in re.findall(r"\bmixtral_\w+", expr)}
    ignored = {"_created", "_bucket", "_sum", "_count"}
    plain = {name for name in served() if not name.endswith(tuple(ignored))}
    assert plain <= asked
    histograms = {name.removesuffix("_sum") for name in served() if name.endswith("_sum")}
    assert all(any(name in other for other in asked) for name in histograms)


def test_panels_have_places_of_their_own() -> None:
    taken: dict[tuple[int, int], str] = {}
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert taken.setdefault((x, y), panel["title"]) == panel["title"]
    numbers = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(numbers)) == len(numbers)


def test_compose_mounts_files_that_are_there_where_the_provisioning_looks() -> None:
    services = COMPOSE["services"]
    mounts = {}
    for name in ("prometheus", "grafana"):
        assert services[name]["profiles"] == ["watch"]
        for volume in services[name]["volumes"]:
            source, target, *_ = volume.split(":")
            mounts[target] = source
            if source.startswith("./") and not source.startswith("./etc/"):
                assert (DEPLOY / source).is_file()
            elif not source.startswith("./"):
                assert source in COMPOSE["volumes"]
    provider = read_yaml("dashboards.yml")["providers"][0]
    assert f"{provider['options']['path']}/mixtral.json" in mounts
    source = read_yaml("datasources.yml")["datasources"][0]
    assert source["url"] == "http://prometheus:9090"
    assert all(port.startswith("127.0.0.1:") for port in services["grafana"]["ports"])


def test_prometheus_in_compose_does_what_its_file_says() -> None:
    inline = yaml.safe_load(COMPOSE["configs"]["prometheus"]["content"])
    plain = yaml.safe_load((DEPLOY / "prometheus.yml").read_text())
    assert inline["scrape_configs"][0].pop("static_configs") == [{"targets": ["mixtral:8000"]}]
    assert plain["scrape_configs"][0].pop("static_configs")
    assert inline == plain


def read_yaml(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((DEPLOY / "grafana" / name).read_text())
    return found
