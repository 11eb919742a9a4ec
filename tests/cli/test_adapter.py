"""``mixtral adapter``: what it prints and writes, and how it fails."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from mixtral.checkpoint import open_checkpoint, quantize_checkpoint
from mixtral.checkpoint.base_weights import base_digest
from mixtral.checkpoint.peft import write_adapter
from mixtral.config import read_config_file
from mixtral.model.adapter import Adapter
from mixtral.quantization import RECIPES
from tests.adapters_for_tests import random_adapter
from tests.cli.conftest import Run


@pytest.fixture(scope="session")
def adapter(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an adapter for the tiny model, which it names."""
    config = read_config_file(tiny / "config.json")
    found = random_adapter(config, "expert 3 of layer 0")
    folder = tmp_path_factory.mktemp("adapters") / "small"
    write_adapter(folder, Adapter(matrices=found.matrices, base_model=str(tiny)), config)
    return folder


def test_merge_writes_a_model_and_says_so(
    run: Run, tiny: Path, adapter: Path, tmp_path: Path
) -> None:
    target = tmp_path / "merged"
    result = run("adapter", "merge", tiny, adapter, target)
    assert result.exit_code == 0, result.stderr
    assert result.stdout.startswith(f"wrote {target}: {tiny} with {adapter} merged into it, ")
    assert open_checkpoint(target).config == open_checkpoint(tiny).config


def test_merge_reports_in_json(run: Run, tiny: Path, adapter: Path, tmp_path: Path) -> None:
    result = run("adapter", "merge", tiny, adapter, tmp_path / "merged", "--json")
    values = json.loads(result.stdout)
    assert values["target"] == str(tmp_path / "merged")
    assert values["bytes"] == sum(f.stat().st_size for f in (tmp_path / "merged").iterdir())


def test_info_shows_what_is_adapted(run: Run, tiny: Path, adapter: Path) -> None:
    result = run("adapter", "info", adapter)
    assert result.exit_code == 0, result.stderr
    assert f"base model: {tiny}" in result.stdout.replace("\n", " ")
    rows = [line.split() for line in result.stdout.splitlines()]
    assert ["experts", "3", "of", "12", "3", "2", "1.0K"] in rows
    assert ["router", "0", "of", "1", "-", "-", "0"] in rows


def test_info_in_json_counts_parameters(run: Run, tiny: Path, adapter: Path) -> None:
    values = json.loads(run("adapter", "info", adapter, "--model", tiny, "--json").stdout)
    assert values["parameters"] == 3 * 3 * (16 + 96)
    assert values["targets"]["experts"]["ranks"] == [3]
    assert values["targets"]["attention"] == {
        "adapted": 0,
        "linears": 4,
        "ranks": [],
        "scales": [],
        "parameters": 0,
    }


def test_info_of_an_adapter_for_another_model_is_one_line(run: Run, adapter: Path) -> None:
    result = run("adapter", "info", adapter, "--model", "8x7b")
    assert result.exit_code == 2
    assert "Is it for another model?" in result.stderr
    assert result.stderr.count("\n") == 1


def test_info_asks_for_a_base_that_is_not_here(run: Run, tiny: Path, tmp_path: Path) -> None:
    config = read_config_file(tiny / "config.json")
    matrices = random_adapter(config, "router").matrices
    for number, (base, message) in enumerate(
        (
            ("some/where", "names the base model 'some/where', which is not here"),
            ("/no/such/folder", "names the base model '/no/such/folder', which is not here"),
            (None, "does not say what its base model is; name it by --model"),
        )
    ):
        folder = tmp_path / str(number)
        write_adapter(folder, Adapter(matrices=matrices, base_model=base), config)
        result = run("adapter", "info", folder)
        assert result.exit_code == 2
        assert message in result.stderr


def test_packed_base_is_refused_in_one_line(
    run: Run, tiny: Path, adapter: Path, tmp_path: Path
) -> None:
    quantize_checkpoint(tiny, tmp_path / "packed", RECIPES["int8"])
    result = run("adapter", "merge", tmp_path / "packed", adapter, tmp_path / "merged")
    assert result.exit_code == 2
    assert "is packed as int8; an adapter is merged into unquantised weights" in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("name", ["random:nano", "nowhere"])
def test_base_without_a_folder_is_refused(
    run: Run, name: str, adapter: Path, tmp_path: Path
) -> None:
    result = run("adapter", "merge", name, adapter, tmp_path / "merged")
    assert result.exit_code == 2
    assert repr(name) in result.stderr


def test_merge_onto_what_is_there_is_refused(
    run: Run, tiny: Path, adapter: Path, tmp_path: Path
) -> None:
    file = tmp_path / "file"
    file.write_text("mine")
    for target in (tiny, adapter, file, file / "below"):
        before = {path: path.stat().st_mtime_ns for path in (*tiny.iterdir(), *adapter.iterdir())}
        result = run("adapter", "merge", tiny, adapter, target)
        assert result.exit_code == 2, target
        assert str(target) in result.stderr
        assert result.stderr.count("\n") == 1
        assert {path: path.stat().st_mtime_ns for path in before} == before
    assert file.read_text() == "mine"


def test_merge_into_another_model_than_the_adapter_s_warns_in_one_line(
    run: Run, tiny: Path, tmp_path: Path
) -> None:
    config = read_config_file(tiny / "config.json")
    found = Adapter(matrices=random_adapter(config, "router").matrices, base_model="nano")
    for digest, lines in ((base_digest(tiny), 0), ("0" * 64, 1)):
        adapter, target = tmp_path / f"adapter-{lines}", tmp_path / f"merged-{lines}"
        write_adapter(adapter, replace(found, base_digest=digest), config)
        result = run("adapter", "merge", tiny, adapter, target)
        assert result.exit_code == 0, result.stderr
        assert result.stderr.count("\n") == lines
        if lines:
            assert result.stderr.startswith(
                f"warning: the adapter in {adapter} was trained on nano"
            )
            assert str(tiny) in result.stderr


def test_folder_that_is_not_there_is_named_as_that(run: Run, tiny: Path, tmp_path: Path) -> None:
    result = run("adapter", "merge", tiny, tmp_path / "soon", tmp_path / "merged")
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1
    assert f"{tmp_path / 'soon'} does not exist; a LoRA adapter is a folder" in result.stderr
