"""What a training run keeps on disk: a log, one resumable state, the best model's loss.

The state is written to a temporary name, synced and renamed, so a run killed at any moment
leaves the old state or the new one whole. Log lines past the state are dropped on resume.
"""

import json
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import torch

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
        """Let another run use the folder."""
        self._lock.release()

    def append_log(self, record: dict[str, Any]) -> None:
        """Add one line to the log."""
        with self.log_path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

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
        """Write the resumable state in one piece.

        Raises:
            CheckpointError: The disk has no room for it.
        """
        temporary = self.state_path.with_suffix(".tmp")
        needed = 2 * self.state_path.stat().st_size if self.state_path.exists() else 0
        free = shutil.disk_usage(self.path).free
        if free < needed:
            raise CheckpointError(
                f"{self.path} has {free / 1e6:.0f} MB free; a state takes {needed / 2e6:.0f} MB. "
                "Free some space and start again: the run resumes from the last state."
            )
        try:
            with temporary.open("wb") as file:
                torch.save(state, file)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self.state_path)
        except (OSError, RuntimeError) as error:
            # torch hides the reason of a failed write; a full disk is the usual one.
            free = shutil.disk_usage(self.path).free
            temporary.unlink(missing_ok=True)
            raise CheckpointError(
                f"{self.state_path} cannot be written; its disk has {free / 1e6:.0f} MB left. "
                "Free some space and start again: the run resumes from the last state."
            ) from error

    def load_state(self) -> dict[str, Any] | None:
        """Return the saved state, or None where there is none, and drop log lines past it.

        Raises:
            CheckpointError: The file is damaged.
        """
        if not self.state_path.exists():
            return None
        try:
            state: dict[str, Any] = torch.load(self.state_path, weights_only=True)
            step, _ = state["step"], state["recipe"]
            kept = [record for record in self.read_log() if record["step"] < step]
        except (*_DAMAGED, pickle.UnpicklingError) as error:
            raise CheckpointError(
                f"{self.state_path} is damaged ({type(error).__name__}); delete it and "
                f"{self.log_path.name} to start anew."
            ) from error
        temporary = self.log_path.with_suffix(".tmp")
        temporary.write_text("".join(json.dumps(r) + "\n" for r in kept), encoding="utf-8")
        temporary.replace(self.log_path)
        return state
