"""What a training run keeps on disk: a log, one resumable state, the models it makes.

The state is copied in memory and written by a thread while training goes on: to a temporary name,
synced and renamed, so a run killed at any moment leaves the old state or the new one whole. Log
lines past the state are dropped on resume. ``run.json`` says whose files these are.
"""

import contextlib
import errno
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
from mixtral.train.run_identity import RunIdentity

STATE_FILE = "state.pt"
"""What a stopped run of one process goes on from."""
_RESULTS = ("model", "best", "adapter")
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
        self.state_path = path / STATE_FILE
        self.identity_path = path / "run.json"
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
        try:
            self._lock = FolderLock(path)
        except OSError as error:
            raise ConfigError(
                f"output is {path}, which cannot be opened: {error.strerror or error}."
            ) from error
        if not self._lock.is_held:
            raise ConfigError(
                f"another training is at work in {path}; wait for it, or name another output."
            )

    def close(self) -> None:
        """Wait for the state under way, then let another run use the folder."""
        if self._writing is not None:
            self._writing.join()
        self._lock.release()

    def claim(self, identity: RunIdentity, state_settings: str | None) -> None:
        """Make sure that what is here is of this run, or nothing, and note whose it is.

        Args:
            identity: This run's.
            state_settings: ``recipe`` of the state that is here; None where there is none.

        Raises:
            ConfigError: The folder holds a state or a model of another run.
            CheckpointError: It cannot be noted: the disk is full, or the folder read-only.
        """
        noted = RunIdentity.read(self.identity_path)
        kept = [name for name in _RESULTS if (self.path / name).exists()]
        if noted is None and state_settings is None:
            kept += [self.log_path.name] if self.log_path.exists() else []
            if kept:
                raise ConfigError(
                    f"{self.path / kept[0]} exists, and no state of its run is beside it; name "
                    "another output, or move it away."
                )
        begun = [] if state_settings is None else [RunIdentity.from_state(state_settings)]
        if noted is not None and (begun or kept):
            begun.append(noted)
        for before in begun:
            if difference := identity.difference(before):
                raise ConfigError(
                    f"{self.path} holds a run with other settings: {difference}; undo that, name "
                    "another output folder, or delete this one to start anew."
                )
        self._replace_text(self.identity_path, identity.text())

    def append_log(self, record: dict[str, Any]) -> None:
        """Add one line to the log.

        Raises:
            CheckpointError: The disk is full.
        """
        try:
            with self.log_path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
        except OSError as error:
            raise self._cannot_write(self.log_path, error) from error

    def read_log(self) -> list[dict[str, Any]]:
        """Return the lines of the log; a last line cut by a crash is left out."""
        return read_log(self.log_path) if self.log_path.exists() else []

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
            self._failure = self._cannot_write(self.state_path, error)
            self._failure.__cause__ = error

    def _cannot_write(self, path: Path, error: Exception) -> CheckpointError:
        if isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            return CheckpointError(
                f"{path} cannot be written: {error.strerror}. Allow it, or name another output."
            )
        free = shutil.disk_usage(self.path).free
        return CheckpointError(
            f"{path} cannot be written; its disk has {free / 1e6:.0f} MB left. "
            "Free some space and start again: the run resumes from the last state."
        )

    def load_state(self) -> dict[str, Any] | None:
        """Return the saved state, or None where there is none.

        Raises:
            CheckpointError: The file is damaged.
        """
        self.state_path.with_suffix(".tmp").unlink(missing_ok=True)
        if not self.state_path.exists():
            return None
        try:
            state: dict[str, Any] = torch.load(self.state_path, weights_only=True)
            step, _ = int(state["step"]), dict(json.loads(state["recipe"]))
        except (*_DAMAGED, pickle.UnpicklingError) as error:
            raise CheckpointError(
                f"{self.state_path} is damaged ({type(error).__name__}); delete it and "
                f"{self.log_path.name} to start anew."
            ) from error
        self.saved_step = step
        return state

    def drop_log_past(self, step: int) -> None:
        """Take lines of steps that will be run again out of the log.

        Raises:
            CheckpointError: The disk is full, or the folder read-only.
        """
        if not self.log_path.exists():
            return
        kept = [record for record in self.read_log() if record["step"] < step]
        self._replace_text(self.log_path, "".join(json.dumps(r) + "\n" for r in kept))

    def _replace_text(self, path: Path, text: str) -> None:
        temporary = path.with_suffix(".tmp")
        try:
            with temporary.open("w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except OSError as error:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise self._cannot_write(path, error) from error


def read_log(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a log; a last line cut by a crash is left out.

    Raises:
        OSError: It cannot be read.
    """
    records = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            records.append(json.loads(line))
        except ValueError:
            break
    return records


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
