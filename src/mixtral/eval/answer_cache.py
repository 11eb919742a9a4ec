"""Answers of a model on disk, so that a run that was killed goes on where it was.

One line of JSON per answer: the sha256 of what was asked, and what came. The file belongs to one
model and one way of asking; its first line says which, and another model is refused.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from mixtral.errors import ConfigError
from mixtral.eval.headed_lines import drop_half_line, read_lines, to_line


class AnswerCache:
    """Answers by what was asked.

    Args:
        path: File of the answers, made where there is none; None keeps them in memory alone.
        asked_of: What the answers depend on beside the question: the model, its format, the seed.

    Raises:
        ConfigError: The file has answers of something else, or is no such file.
    """

    def __init__(self, path: Path | None = None, asked_of: Mapping[str, Any] | None = None) -> None:
        self._answers: dict[str, Any] = {}
        self._file = None
        if path is None:
            return
        # As it reads when it comes back from the file.
        header = json.loads(json.dumps({"asked_of": dict(asked_of or {})}))
        if path.exists():
            self._read(path, header)
            drop_half_line(path)
        self._file = path.open("a", encoding="utf-8")
        if not path.stat().st_size:
            self._write(header)

    def __enter__(self) -> Self:
        """Do nothing; the file is open already."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Put everything on disk and close the file."""
        if self._file is not None:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()

    def __contains__(self, key: str) -> bool:
        """Whether there is an answer."""
        return key in self._answers

    def __getitem__(self, key: str) -> Any:
        """Return an answer."""
        return self._answers[key]

    def __len__(self) -> int:
        """Count the answers."""
        return len(self._answers)

    def __setitem__(self, key: str, answer: Any) -> None:
        """Keep an answer, a JSON value; it survives the end of the process."""
        self._answers[key] = answer
        self._write({"key": key, "answer": answer})

    def _write(self, line: Mapping[str, Any]) -> None:
        if self._file is not None:
            self._file.write(to_line(line))
            self._file.flush()

    def _read(self, path: Path, header: Mapping[str, Any]) -> None:
        lines = read_lines(path, header)
        if lines and json.loads(lines[0]) != header:
            raise ConfigError(
                f"{path} has the answers of another model or with other settings; name another "
                "folder, or remove the file."
            )
        for number, line in enumerate(lines[1:], start=2):
            try:
                answered = json.loads(line)
                self._answers[answered["key"]] = answered["answer"]
            except (ValueError, KeyError, TypeError, RecursionError):
                raise ConfigError(
                    f"{path}, line {number} is damaged; remove the line, or the file."
                ) from None


def question_key(*parts: Any) -> str:
    """Return the sha256 of what was asked, JSON values, 64 hexadecimal digits."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
