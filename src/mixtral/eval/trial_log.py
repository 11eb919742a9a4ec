"""The answers of a grid on disk, one JSON line each, so that a killed run goes on.

The first line of ``trials.jsonl`` says what was measured. Answers to other settings are no answers
here: a folder with another first line is refused, not mixed. Lengths, depths and cases are not
among the settings, so a later run may ask for more of them.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mixtral.errors import ConfigError
from mixtral.eval.headed_lines import drop_half_line, read_lines, to_line
from mixtral.eval.passkey_grid import Trial
from mixtral.folder_lock import FolderLock

LOG_FILE = "trials.jsonl"


class TrialLog:
    """The answers in a folder, old and new; ``trials`` has those of earlier runs.

    Args:
        folder: Where they are; made if it is not there.
        settings: What is measured, as JSON values.

    Raises:
        ConfigError: The folder is in use, is a file, or has answers to other settings.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        if folder.exists() and not folder.is_dir():
            raise ConfigError(f"out is {folder}, which is a file; name a folder.")
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = FolderLock(folder)
        if not self._lock.is_held:
            raise ConfigError(f"another run writes to {folder}; wait for it, or name another one.")
        self._path = folder / LOG_FILE
        try:
            self.trials: list[Trial] = self._read(settings)
        except BaseException:
            self.close()
            raise

    def append(self, trial: Trial) -> None:
        """Write one answer; it is on disk when this returns."""
        self._append(asdict(trial))

    def close(self) -> None:
        """Let another run write to the folder."""
        self._lock.release()

    def _read(self, settings: Mapping[str, Any]) -> list[Trial]:
        trials = read_trials(self._path, settings)
        if self._path.exists():
            drop_half_line(self._path)
        if not self._path.exists() or not self._path.stat().st_size:
            self._append({"settings": dict(settings)})
        return trials

    def _append(self, value: Mapping[str, Any]) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.write(to_line(value))
            file.flush()
            os.fsync(file.fileno())


def read_trials(path: Path, settings: Mapping[str, Any]) -> list[Trial]:
    """Return the answers in a file, none where it is not there; nothing is written.

    Args:
        path: The file.
        settings: What is measured, as JSON values.

    Raises:
        ConfigError: It has answers to other settings, or is damaged or somebody else's.
    """
    lines = read_lines(path, {"settings": dict(settings)})
    if lines:
        _require_same(path, json.loads(lines[0])["settings"], settings)
    return [_trial(path, number, line) for number, line in enumerate(lines[1:], start=2)]


def _require_same(path: Path, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    for name, value in wanted.items():
        if found.get(name) != value:
            raise ConfigError(
                f"{path} has answers with {name} {found.get(name)!r}, and now it is {value!r}; "
                "name another folder, or take the same settings."
            )


def _parse(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise ConfigError(f"{path}, line {number} is damaged; remove the line or name another one.")
    return value


def _trial(path: Path, number: int, line: str) -> Trial:
    try:
        return Trial(**_parse(path, number, line))
    except TypeError:
        raise ConfigError(
            f"{path}, line {number} is no answer of this version; name another folder."
        ) from None
