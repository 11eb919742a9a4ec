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
        lines = self._whole_lines()
        if not lines:
            self._append({"settings": dict(settings)})
            return []
        self._require_same(_parse(self._path, 1, lines[0]).get("settings"), settings)
        return [_trial(self._path, number, line) for number, line in enumerate(lines[1:], start=2)]

    def _append(self, value: Mapping[str, Any]) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(value, ensure_ascii=False) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def _whole_lines(self) -> list[str]:
        """Return the lines, and cut off what a killed run left of its last one."""
        try:
            content = self._path.read_bytes()
        except FileNotFoundError:
            return []
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            os.truncate(self._path, whole)
        # Not splitlines: an answer may hold characters that it takes for line ends.
        return content[:whole].decode(errors="replace").split("\n")[:-1]

    def _require_same(self, found: object, wanted: Mapping[str, Any]) -> None:
        known = found if isinstance(found, dict) else {}
        for name, value in wanted.items():
            if known.get(name) != value:
                raise ConfigError(
                    f"{self._path} has answers with {name} {known.get(name)!r}, and now it is "
                    f"{value!r}; name another folder, or take the same settings."
                )


def _parse(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except ValueError:
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
