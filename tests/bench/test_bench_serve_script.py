"""benchmarks/serve.py: parts are merged, goals judged, and the page has a section on serving."""

import importlib.util
import json
import sys
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from mixtral.bench.serve_http import Target
from mixtral.bench.serve_load import Load
from mixtral.bench.serve_measure import ServedModel, measure_serve
from mixtral.bench.serve_prompts import BodyOptions, PromptOptions
from mixtral.bench.serve_session import ServeOptions, ServeSession
from tests.bench.serve_for_tests import FakeServer, running

ROOT = Path(__file__).resolve().parents[2]
SPREAD = {"median": 0.93, "min": 0.9, "max": 0.97}
VALUES = {
    "throughput": 0.93,
    "overhead": 3.5,
    "beside": 1.6,
    "prefix": 0.07,
    "memory": 1.01,
    "streams": 1.2,
    "structured": 0.96,
}


@pytest.fixture(autouse=True)
def _scripts_find_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))


def load_script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"script_{name}", ROOT / f"benchmarks/{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def served_result() -> dict[str, Any]:
    options = ServeOptions(
        loads=[Load(concurrency=2)],
        prompts=PromptOptions(prompt_tokens=5, new_tokens=4),
        body=BodyOptions(model="m"),
        requests=4,
        warmup=0,
    )
    model = ServedModel(name="random:8x7b", engine="mixtral")
    with running(FakeServer()) as server, ServeSession(Target.parse(server.url)) as session:
        return measure_serve(session, options, model).to_json()["results"][0]


def part(name: str, result: dict[str, Any]) -> dict[str, Any]:
    spreads = (
        "ratio overhead_ms offline_tokens_per_s served_tokens_per_s offline_step_ms served_step_ms "
        "chunk_ms ttft_ms first_ttft_ms second_ttft_ms free_tokens_per_s schema_tokens_per_s"
    )
    course = [{"requests": n, "rss_bytes": 400_000_000 + n} for n in (500, 10_000)]
    return {
        "value": VALUES[name],
        "repeats": 5,
        "model": "random:8x7b",
        "layers": 2,
        "format": "int4",
        "threads": 2,
        "sizes": asdict(load_script("serve_parts").Plan()),
        "probes": {"read_gb_per_s": 33.0, "int8_gops": 900.0, "bf16_gflops": 400.0},
        "other_processes": 0.01,
        "results": [result] if name == "throughput" else [],
        "course": course,
        "served_model": "random:nano",
        "tpot_ms": {"p50": 100.0, "p90": 110.0, "p99": 120.0, "mean": 101.0, "max": 130.0},
        **dict.fromkeys(spreads.split(), SPREAD),
    }


def test_parts_are_merged_and_shown_with_their_goals(tmp_path: Path) -> None:
    script, report = load_script("serve"), load_script("report")
    path, result = tmp_path / "results" / "serve.json", served_result()
    names = list(script.PARTS)
    assert names == list(VALUES)
    for name in [*reversed(names), "beside"]:
        script.merge(path, name, part(name, result))
    values = json.loads(path.read_text())
    assert list(values["parts"]) == names
    assert [r["work"] for r in values["results"]] == ["serve"]
    assert all(found["commit"] == values["commit"] for found in values["parts"].values())
    page = report.write_report({"serve": values})
    lines = page.splitlines()
    for line in (
        "| served throughput, 32 streams, int4, of the engine at batch 32 | 93.0% | >= 90% |  "
        "| met |",
        "| serving overhead of a lone stream, per token | 3.50 ms | <= 3 ms |  | **missed** |",
        "| first token beside a 2,000-token prefill, in full chunks (median) | 1.60 | <= 2 |  "
        "| met |",
        "| server memory after 10,000 requests over 500 | 101.0% | <= 102% |  | met |",
    ):
        assert line in lines
    assert "## Serving" in lines
    assert "random:nano: 400.0 MB after 500, 400.0 MB after 10,000" in page
    assert "| throughput | 2 | 4 |" in page
    assert "## Steps" not in lines


def test_serving_goals_are_not_judged_on_a_tiny_model() -> None:
    result = served_result()
    parts = {name: part(name, result) | {"model": "random:nano"} for name in VALUES}
    goals = load_script("goals").GOALS
    assert [g.text for g in goals if g.find({"serve": {"parts": parts}}) is not None] == []
