"""Lines of JSON that a later run goes on with; the first one, the header, says what they are about.

A user may keep a file of the same name in the folder that is named for a report. So nothing is
written to a file, and nothing cut from it, before its first line is known to be a header of ours.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mixtral.errors import ConfigError


def read_lines(path: Path, header: Mapping[str, Any]) -> list[str]:
    """Return the whole lines of a file, the header first; none where it is not there or empty.

    Args:
        path: The file; it stays as it is.
        header: An object with one field, as a new file begins; what the field says may differ.

    Raises:
        ConfigError: The file is somebody else's.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return []
    # Not splitlines: an answer may hold characters that it takes for line ends.
    lines = content.decode(errors="replace").split("\n")
    is_ours = _is_header(lines[0], header) if len(lines) > 1 else _is_begun(lines[0], header)
    if not is_ours:
        raise ConfigError(
            f"{path} is no file of answers; name another folder, or move the file away."
        )
    return lines[:-1]


def drop_half_line(path: Path) -> None:
    """Cut off what a killed run left of its last line, of a file that ``read_lines`` took."""
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        os.truncate(path, whole)


def to_line(value: Mapping[str, Any]) -> str:
    """Return an object as one line."""
    return json.dumps(value, ensure_ascii=False) + "\n"


def _is_header(line: str, header: Mapping[str, Any]) -> bool:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return False
    if not isinstance(found, dict) or set(found) != set(header):
        return False
    return all(isinstance(value, dict) for value in found.values())


def _is_begun(line: str, header: Mapping[str, Any]) -> bool:
    """Whether a run was killed while it wrote this very header."""
    return to_line(header).startswith(line)
