"""Runs of the Trainer on several processes: same losses as one, from parts of the same weights."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from mixtral.train.parallel import ParallelContext
from mixtral.train.parallel_settings import ParallelSettings
from tests.models_for_tests import tiny_model
from tests.train import parallel_runs_for_tests as scenarios
from tests.train.parallel_for_tests import run_processes

STAGES = ("trainer", "stopped", "loaded")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(params=["data", "expert"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def runs(folder: Path) -> dict[str, Any]:
    alone = ParallelContext.from_environment(ParallelSettings())
    scenarios.write_runs(folder)
    return {
        "one": scenarios.trainer(alone, folder / "alone"),
        "data": run_processes(STAGES, folder / "data"),
        "expert": run_processes(STAGES, folder / "expert", expert_parallel=2),
    }


@pytest.mark.parametrize("stage", ["pretrain", "dpo"])
def test_trainer_of_two_processes_has_the_losses_of_one(
    runs: dict[str, Any], stage: str, kind: str
) -> None:
    for result in runs[kind]:
        assert result["trainer"][stage] == pytest.approx(runs["one"][stage], rel=1e-3)
    # Only the first process writes a log, of what all of them counted.
    entropy = runs[kind][0]["trainer"][f"{stage} entropy"]
    assert entropy == pytest.approx(runs["one"][f"{stage} entropy"], rel=1e-3)
    assert len(entropy) > 4


def test_stopped_trainer_of_two_processes_goes_on_as_if_never_stopped(
    runs: dict[str, Any], kind: str
) -> None:
    for result in runs[kind]:
        losses = result["trainer"]["pretrain"][:-1]  # without the held-out one
        assert result["stopped"] == {"before": losses[:3], "saved_step": 2, "after": losses[2:]}


def test_split_weights_are_those_of_a_whole_model_however_they_are_stored(
    runs: dict[str, Any], kind: str
) -> None:
    for result in runs[kind]:
        assert result["loaded"]["weights"] == []
        if kind == "data":  # split experts add up in another order
            assert result["loaded"]["states"] == []


@pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="no /proc here, which tells a process's memory"
)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_process_takes_memory_for_its_part_of_a_model_and_one_layer(
    tmp_path: Path, dtype: str
) -> None:
    config = {"hidden_size": 256, "intermediate_size": 256, "num_hidden_layers": 16}
    scenarios.write_model(tmp_path / "model", tiny_model(**config), dtype)  # 53 MB in float32
    for result in run_processes(["loading"], tmp_path / "run"):
        assert 0.4 < result["loading"]["share"] < 0.8


def test_reference_scored_by_two_processes_is_that_of_one(
    runs: dict[str, Any], folder: Path, kind: str
) -> None:
    ours, theirs = (
        sorted((folder / name / "dpo" / "reference").iterdir()) for name in ("alone", kind)
    )
    assert [file.name for file in ours] == [file.name for file in theirs]
    for one, two in zip(ours, theirs, strict=True):
        torch.testing.assert_close(load_file(two)["log_probs"], load_file(one)["log_probs"])


def test_several_processes_do_not_begin_anew_where_one_has_begun(
    runs: dict[str, Any], folder: Path
) -> None:
    shutil.copytree(folder / "alone" / "pretrain", folder / "one")
    before = (folder / "one" / "log.jsonl").read_text()
    for result in run_processes(["going_on_from_one"], folder / "going on"):
        assert "holds the state of one process, and there are 2" in result["error"]
    assert (folder / "one" / "log.jsonl").read_text() == before
