"""Writes a report into a folder; each file appears whole or not at all, results.json last.

results.json   what, when, with which versions, settings and hashes, and every number
report.md      the tables, as they are printed
index.html     the page, which needs no other file
*.png, *.svg   the pictures, where matplotlib is installed
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mixtral.errors import ConfigError
from mixtral.reports.markdown import markdown
from mixtral.reports.page import report_page
from mixtral.reports.pictures import DrawnPicture, draw
from mixtral.reports.report import Picture, Report
from mixtral.whole_file import write_whole

RESULTS_FILE = "results.json"
"""Every number of a report."""


def check_folder(folder: Path, *, kind: str) -> None:
    """Check that a report can go into a folder, before the minutes of work and not after them.

    Raises:
        ConfigError: It is a file, or holds a report of another kind.
    """
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"out is {folder}, which is a file; name a folder.")
    try:
        found = json.loads((folder / RESULTS_FILE).read_text(encoding="utf-8")).get("kind", kind)
    except (OSError, ValueError, AttributeError):
        return  # There is none, or it is no report; then it is overwritten like any leftover.
    if found != kind:
        raise ConfigError(f"{folder} has a report of {found}; name another folder for {kind}.")


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
    write_whole(folder / "report.md", text)
    write_whole(folder / "index.html", page(drawn or ()))
    write_whole(folder / RESULTS_FILE, json_text(results))
    return drawn is not None


def json_text(values: Mapping[str, Any]) -> str:
    """Return results as they are written; a number that is none is a bug of ours."""
    return json.dumps(values, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
