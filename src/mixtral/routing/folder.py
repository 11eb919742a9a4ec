"""Writes the router report: a folder that appears whole or not at all, see ``reports/folder``."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mixtral.checkpoint.staging import staged
from mixtral.errors import CheckpointError, ConfigError
from mixtral.fingerprint import fingerprint
from mixtral.model_source import ModelSource
from mixtral.reports.folder import write_files
from mixtral.reports.report import Picture


def write_report(
    target: Path,
    *,
    results: Mapping[str, Any],
    text: str,
    page: str,
    pictures: Sequence[Picture],
) -> bool:
    """Write a report.

    Args:
        target: Folder to write; it must not exist, or be empty.
        results: Everything, as one JSON object.
        text: The tables, Markdown.
        page: The page; it has charts of its own.
        pictures: What to draw beside it.

    Returns:
        Whether the pictures were drawn; they are not without matplotlib.

    Raises:
        ConfigError: The folder is in use, or cannot be written.
    """
    try:
        with staged(target) as folder:
            return write_files(
                folder, results=results, text=text, pictures=pictures, page=lambda _: page
            )
    except CheckpointError as error:
        raise ConfigError(str(error)) from error


def require_free_folder(target: Path) -> None:
    """Check that a report can be written, before the minutes of work.

    Raises:
        ConfigError: The name is taken.
    """
    if target.is_symlink() or (target.exists() and not _is_empty_folder(target)):
        raise ConfigError(
            f"{target} exists and is not an empty folder; choose another, or remove it."
        )


def describe_source(source: ModelSource, name: str) -> dict[str, Any]:
    """Return which weights were run: a name with their format, and a fingerprint.

    Random weights have none; their name says everything.
    """
    path = source.gguf or source.folder
    return {"name": name, "fingerprint": None if path is None else fingerprint(path)}


def _is_empty_folder(path: Path) -> bool:
    return path.is_dir() and not any(path.iterdir())
