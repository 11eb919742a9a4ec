"""What a training run keeps on disk: a log, one resumable state, the models it makes.

The state is copied in memory and written by a thread while training goes on: to a temporary name,
synced and renamed, so a run killed at any moment leaves the old state or the new one whole. Log
lines past the state are dropped on resume.
"""

import json
import os
import pickle
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mixtral.errors import CheckpointError, ConfigError
from mixtral.folder_lock import FolderLock

_DAMAGED = (OSError, RuntimeError, ValueError, EOFError, KeyError, TypeError)


class RunFolder:
    """Files of one run.

    Args:
        path: Folder; made where it is missing, and locked until ``close``.

    Raises:
        ConfigError: It cannot be made, or another process trains in it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.log_path = path / "log.jsonl"
        self.state_path = path / "state.pt"
        self._writing: threading.Thread | None = None
        self._failure: CheckpointError | None = None
        self.saved_step: int | None = None
        """Step from which the last state that was written or read goes on."""
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(
                f"output is {path}, which cannot be made: {error.strerror or error}."
            ) from error
        self._lock = FolderLock(path)
        if not self._lock.is_held:
            raise ConfigError(
                f"another training is at work in {path}; wait for it, or name another output."
            )

    def close(self) -> None:
        """Wait for the state under way, then let another run use the folder."""
        if self._writing is not None:
            self._writing.join()
        self._lock.release()

    def append_log(self, record: dict[str, Any]) -> None:
        """Add one line to the log.

        Raises:
            CheckpointError: The disk is full.
        """
        try:
            with self.log_path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
        except OSError as error:
            raise self._cannot_write(self.log_path) from error

    def read_log(self) -> list[dict[str, Any]]:
        """Return the lines of the log; a last line cut by a crash is left out."""
        if not self.log_path.exists():
            return []
        records = []
        for line in self.log_path.read_text(encoding="utf-8").splitlines():
            try:
                records.append(json.loads(line))
            except ValueError:
                break
        return records

    def save_state(self, state: dict[str, Any]) -> None:
        """Copy the resumable state and write it in one piece, in the background.

        Waits for the state before it, should that still be under way.

        Raises:
            CheckpointError: The disk has no room for it, or the state before could not be written.
        """
        self.wait()
        needed = sum(tensor.numel() * tensor.element_size() for tensor in _tensors(state))
        free = shutil.disk_usage(self.path).free
        if free < needed:
            raise CheckpointError(
                f"{self.path} has {free / 1e6:.0f} MB free; a state takes {needed / 1e6:.0f} MB. "
                "Free some space and start again: the run resumes from the last state."
            )
        self._writing = threading.Thread(target=self._write_state, args=(_copy(state),))
        self._writing.start()

    def wait(self) -> None:
        """Wait until the state under way is on disk.

        Raises:
            CheckpointError: It could not be written.
        """
        if self._writing is not None:
            self._writing.join()
            self._writing = None
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure

    def _write_state(self, state: dict[str, Any]) -> None:
        temporary = self.state_path.with_suffix(".tmp")
        try:
            with temporary.open("wb") as file:
                torch.save(state, file)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self.state_path)
            self.saved_step = state["step"]
        except (OSError, RuntimeError) as error:
            # torch hides the reason of a failed write; a full disk is the usual one.
            temporary.unlink(missing_ok=True)
            self._failure = self._cannot_write(self.state_path)
            self._failure.__cause__ = error

    def _cannot_write(self, path: Path) -> CheckpointError:
        free = shutil.disk_usage(self.path).free
        return CheckpointError(
            f"{path} cannot be written; its disk has {free / 1e6:.0f} MB left. "
            "Free some space and start again: the run resumes from the last state."
        )

    def load_state(self) -> dict[str, Any] | None:
        """Return the saved state, or None where there is none, and drop log lines past it.

        Raises:
            CheckpointError: The file is damaged.
        """
        self.state_path.with_suffix(".tmp").unlink(missing_ok=True)
        if not self.state_path.exists():
            return None
        try:
            state: dict[str, Any] = torch.load(self.state_path, weights_only=True)
            step, _ = int(state["step"]), state["recipe"]
        except (*_DAMAGED, pickle.UnpicklingError) as error:
            raise CheckpointError(
                f"{self.state_path} is damaged ({type(error).__name__}); delete it and "
                f"{self.log_path.name} to start anew."
            ) from error
        self.drop_log_past(step)
        self.saved_step = step
        return state

    def drop_log_past(self, step: int) -> None:
        """Take lines of steps that will be run again out of the log."""
        kept = [record for record in self.read_log() if record["step"] < step]
        temporary = self.log_path.with_suffix(".tmp")
        temporary.write_text("".join(json.dumps(r) + "\n" for r in kept), encoding="utf-8")
        temporary.replace(self.log_path)


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (dict, list, tuple)):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _tensors(part)


def _copy(value: Any) -> Any:
    """Copy a state, tensors to the CPU, so that training may change its own meanwhile."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {key: _copy(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_copy(part) for part in value)
    return value
