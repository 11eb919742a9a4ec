"""Writes a report into a folder; each file appears whole or not at all, results.json last.

results.json   what, when, with which versions, settings and hashes, and every number
report.md      the tables, as they are printed
index.html     the page, which needs no other file
*.png, *.svg   the pictures, where matplotlib is installed
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from mixtral.errors import ConfigError
from mixtral.reports.markdown import markdown
from mixtral.reports.page import report_page
from mixtral.reports.pictures import DrawnPicture, draw
from mixtral.reports.report import Picture, Report
from mixtral.whole_file import write_whole

RESULTS_FILE = "results.json"
"""Every number of a report."""
_TABLES = "report.md"
_PAGE = "index.html"


def check_folder(folder: Path, *, kind: str) -> None:
    """Check that a report can go into a folder, before the minutes of work and not after them.

    The folder is made if it is not there.

    Raises:
        ConfigError: It is a file, cannot be written, or holds files that would be overwritten and
            are no report of this kind.
    """
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"out is {folder}, which is a file; name a folder.")
    found = _kind_of(folder / RESULTS_FILE)
    if found not in (None, kind):
        raise ConfigError(f"{folder} has a report of {found}; name another folder for {kind}.")
    taken = [name for name in (_PAGE, _TABLES, RESULTS_FILE) if (folder / name).exists()]
    if found is None and taken:
        raise ConfigError(
            f"{folder} has {' and '.join(taken)}, and no whole report of {kind} to write over; "
            "name another folder."
        )
    check_writable(folder)


def check_writable(folder: Path) -> None:
    """Check that files can be made in a folder; it is made if it is not there.

    Raises:
        ConfigError: They cannot.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ConfigError(
            f"{folder} cannot be written: {error.strerror or error}. Name another folder."
        ) from error


def check_file(name: str, path: Path) -> None:
    """Check that results can go into a file, before the minutes of work and not after them.

    Raises:
        ConfigError: It is a folder or device, or its folder is not there or cannot be written.
    """
    if path.exists() and not path.is_file():  # Writing would put a file in the place of a device.
        kind = "folder" if path.is_dir() else "device"
        raise ConfigError(f"{name} is {path}, which is a {kind}; name a file.")
    if not path.absolute().parent.is_dir():
        raise ConfigError(f"{path.parent} is no folder; make it, or name another file.")
    check_writable(path.absolute().parent)


def write_report(folder: Path, report: Report) -> bool:
    """Write a report; the folder is made if it is not there.

    Returns:
        Whether the pictures were drawn; they are not without matplotlib.

    Raises:
        OSError: A file cannot be written.
    """
    return write_files(
        folder,
        results=report.as_dict(),
        text=markdown(report.blocks),
        pictures=report.pictures,
        page=lambda drawn: report_page(report, drawn),
    )


def write_files(
    folder: Path,
    *,
    results: Mapping[str, Any],
    text: str,
    pictures: Sequence[Picture],
    page: Callable[[Sequence[DrawnPicture]], str],
) -> bool:
    """Write a report whose page is made by the caller.

    Args:
        folder: Where; made if it is not there.
        results: Everything, as one JSON object.
        text: The tables, Markdown.
        pictures: What to draw.
        page: Returns the page, given the pictures that could be drawn.

    Returns:
        Whether the pictures were drawn; they are not without matplotlib.

    Raises:
        OSError: A file cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    drawn = draw(pictures, folder)
    write_whole(folder / _TABLES, text)
    write_whole(folder / _PAGE, page(drawn or ()))
    write_whole(folder / RESULTS_FILE, json_text(results))
    return drawn is not None


def json_text(values: Mapping[str, Any]) -> str:
    """Return results as they are written; a number that is none is a bug of ours."""
    return json.dumps(values, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _kind_of(file: Path) -> str | None:
    """Return what a report is about; None where there is none, or it is none of ours."""
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    kind = values.get("kind") if isinstance(values, dict) else None
    return kind if isinstance(kind, str) else None
