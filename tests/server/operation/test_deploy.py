"""docs/deploy.md and the files in deploy/ say what is so."""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import get_type_hints

import pytest
import yaml

from mixtral.cli.options import ModelOptions
from mixtral.server.keys import read_key_file
from mixtral.server.settings import ServerSettings
from mixtral.server.sources import Sources, flag_of, variable_of
from tests.server.operation.settings_table import PAGE, with_table

DEPLOY = PAGE.parents[1] / "deploy"
SETTINGS = {**get_type_hints(ServerSettings), **get_type_hints(ModelOptions)}


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(), re.DOTALL)


def read(file: Path) -> ServerSettings:
    types = get_type_hints(ModelOptions)
    return Sources(given={}, environ={}, file=file, model_types=types).settings()


def test_table_of_settings_is_that_of_today() -> None:
    page = PAGE.read_text()
    assert page == with_table(page), "run python -m tests.server.operation.settings_table"


def test_every_option_and_variable_in_the_text_exists() -> None:
    text = PAGE.read_text() + "".join(
        file.read_text() for file in DEPLOY.rglob("*") if file.is_file()
    )
    flags = {flag_of(name) for name in SETTINGS} | {"--config"}
    ours = re.findall(r"(?:serve|`)[^`\n]* (--[a-z-]+)|`(--[a-z-]+)", text)
    others = {"--quantization", "--deploy-hook"}
    assert {(a or b).replace("--no-", "--") for a, b in ours} - others <= flags
    variables = {variable_of(name) for name in SETTINGS} | {"MIXTRAL_CONFIG"}
    assert set(re.findall(r"MIXTRAL_[A-Z_]*[A-Z]", text)) <= variables


def test_examples_of_files_can_be_read(tmp_path: Path) -> None:
    file = tmp_path / "example.toml"
    settings, keys = blocks("toml")
    file.write_text(settings)
    assert read(file).host == "0.0.0.0"
    file.write_text(keys)
    assert [key.name for key, _ in read_key_file(file)] == ["alice", "batch-jobs"]


def test_files_to_start_with_can_be_read() -> None:
    settings = read(DEPLOY / "mixtral.toml")
    model = tomllib.loads((DEPLOY / "mixtral.toml").read_text())["model"]
    assert settings.aliases_for(Path(model).name)["chat"] == Path(model).name
    assert [key.name for key, _ in read_key_file(DEPLOY / "keys.toml")] == [
        "alice",
        "prometheus",
        "batch-jobs",
    ]


def test_supervisors_wait_longer_than_the_server_drains() -> None:
    unit = (DEPLOY / "mixtral.service").read_text()
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    grace = compose["services"]["mixtral"]["stop_grace_period"]
    match = re.search(r"^TimeoutStopSec=(\d+)$", unit, re.MULTILINE)
    assert match is not None
    for seconds in (int(match[1]), int(grace.removesuffix("s"))):
        assert seconds >= ServerSettings().drain_timeout_s + 15


def test_metrics_of_page_and_alerts_exist() -> None:
    from mixtral.server.metrics import Metrics

    source = Path(sys.modules[Metrics.__module__].__file__ or "").read_text()
    known = set(re.findall(r'\(\s*"([a-z_]+)",', source))
    text = PAGE.read_text() + (DEPLOY / "alerts.yml").read_text()
    named = {re.sub("_(total|bucket)$", "", n) for n in re.findall(r"mixtral_([a-z_]+)", text)}
    assert named <= known
    rules = yaml.safe_load((DEPLOY / "alerts.yml").read_text())["groups"][0]["rules"]
    assert all({"alert", "expr", "for", "annotations"} <= set(rule) for rule in rules)
    assert yaml.safe_load((DEPLOY / "prometheus.yml").read_text())["scrape_configs"]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    unit = tmp_path / "mixtral.service"
    text = (DEPLOY / "mixtral.service").read_text()
    text = text.replace("/opt/mixtral/bin/mixtral", sys.executable)
    unit.write_text(re.sub(r"^(User|Group)=.*\n", "", text, flags=re.MULTILINE))
    result = subprocess.run(
        ["systemd-analyze", "verify", unit], capture_output=True, text=True, timeout=30
    )
    assert (result.returncode, result.stderr) == (0, "")
