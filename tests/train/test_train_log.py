"""Where the numbers of a run go: log.jsonl and TensorBoard."""

import logging
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mixtral.train.run_folder import RunFolder
from mixtral.train.train_log import TrainLog

RECORD = {
    "step": 4,
    "loss": 1.25,
    "valid_loss": None,
    "expert_load": [[0.123456789, 0.876543211]],
    "router_entropy": [0.5],
}


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    return {
        tag: [(event.step, event.value) for event in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
    }


def test_numbers_reach_log_and_tensorboard(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    log = TrainLog(folder, first_step=0, use_tensorboard=True)
    log.write(RECORD)
    log.close()
    assert folder.read_log() == [{**RECORD, "expert_load": [[0.12346, 0.87654]]}]
    found = scalars(tmp_path)
    assert sorted(found) == ["expert_load/0/0", "expert_load/0/1", "loss", "router_entropy/0"]
    assert found["loss"] == [(4, 1.25)]


def test_resumed_run_replaces_what_tensorboard_has_past_its_first_step(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    for first, value in ((0, 1.0), (2, 5.0)):
        log = TrainLog(folder, first_step=first, use_tensorboard=True)
        for step in range(first, 4):
            log.write({"step": step, "loss": value})
        log.close()
        time.sleep(1.1)  # TensorBoard orders files by the second in their names
    assert scalars(tmp_path)["loss"] == [(0, 1.0), (1, 1.0), (2, 5.0), (3, 5.0)]


def test_missing_tensorboard_is_said_and_the_log_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delitem(sys.modules, "mixtral.train.event_file", raising=False)
    monkeypatch.setitem(sys.modules, "tensorboard.compat.proto.event_pb2", None)
    folder = RunFolder(tmp_path)
    with caplog.at_level(logging.WARNING):
        log = TrainLog(folder, first_step=0, use_tensorboard=True)
    log.write(RECORD)
    log.close()
    assert "pip install 'mixtral[train]'" in caplog.text
    assert len(folder.read_log()) == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full is of Linux")
@pytest.mark.parametrize("num_written", [0, 2])
def test_full_disk_of_tensorboard_is_one_warning_and_the_log_goes_on(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    num_written: int,
) -> None:
    folder = RunFolder(tmp_path)
    with Path("/dev/full").open("ab") as full:
        if num_written == 0:
            monkeypatch.setattr(Path, "open", on_full_disk(Path.open))
        log = TrainLog(folder, first_step=0, use_tensorboard=True)
        for step in range(4):
            if step == num_written > 0:
                assert log._board is not None
                os.dup2(full.fileno(), log._board._file.fileno())
            log.write({"step": step, "loss": 1.0})
        log.close()
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "cannot be written: No space left on device" in caplog.text
    assert [record["step"] for record in folder.read_log()] == [0, 1, 2, 3]
    if num_written:
        assert scalars(tmp_path)["loss"] == [(0, 1.0), (1, 1.0)]


def on_full_disk(opened: Callable[..., Any]) -> Callable[..., Any]:
    """Return ``Path.open`` for a disk without room for TensorBoard's files."""

    def open_file(path: Path, *arguments: Any, **named: Any) -> Any:
        is_board = "tfevents" in path.name
        return opened(Path("/dev/full") if is_board else path, *arguments, **named)

    return open_file
