"""A report as one folder that appears whole or not at all.

results.json   settings, versions, sha256 of model files and texts, every number
report.md      the tables
index.html     the page, which needs no other file
*.png, *.svg   the pictures, where matplotlib is installed
"""

import json
import logging
import os
import platform
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

import mixtral
from mixtral.checkpoint.staging import staged
from mixtral.errors import CheckpointError, ConfigError
from mixtral.model_source import ModelSource
from mixtral.routing.texts import file_hashes

logger = logging.getLogger(__name__)


def write_report(
    target: Path,
    *,
    results: Mapping[str, Any],
    markdown: str,
    page: str,
    draw: Callable[[Path], object],
) -> bool:
    """Write a report.

    Args:
        target: Folder to write; it must not exist, or be empty.
        results: Everything, as one JSON object.
        markdown: The tables.
        page: The page.
        draw: Draws the pictures into the folder that it is given.

    Returns:
        Whether the pictures were drawn; they are not without matplotlib.

    Raises:
        ConfigError: The folder is in use, or cannot be written.
    """
    try:
        with staged(target) as folder:
            text = json.dumps(results, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
            (folder / "results.json").write_text(text, encoding="utf-8")
            (folder / "report.md").write_text(markdown, encoding="utf-8")
            (folder / "index.html").write_text(page, encoding="utf-8")
            is_drawn = _drawn(draw, folder)
            for file in folder.iterdir():
                _sync(file)
            return is_drawn
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


def provenance(source: ModelSource, texts: Iterable[Path]) -> dict[str, Any]:
    """Return what a number depends on: versions, and the sha256 of all files.

    Args:
        source: The model; random weights have no files.
        texts: Files that were read.
    """
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": versions(),
        "model_sha256": dict(file_hashes(model_files(source))),
        "text_sha256": dict(file_hashes(texts)),
    }


def versions() -> dict[str, str]:
    """Return the versions of what computed the report."""
    return {
        "mixtral": mixtral.__version__,
        "torch": str(torch.__version__),
        "python": platform.python_version(),
        "machine": platform.machine(),
    }


def model_files(source: ModelSource) -> list[Path]:
    """Return the files of a model, those in its folder or the GGUF file."""
    if source.gguf is not None:
        return [source.gguf]
    if source.folder is None:
        return []
    names = source.folder.iterdir()
    return sorted(file for file in names if file.is_file() and not file.name.startswith("."))


def _sync(file: Path) -> None:
    with file.open("rb+") as stream:
        os.fsync(stream.fileno())


def _is_empty_folder(path: Path) -> bool:
    return path.is_dir() and not any(path.iterdir())


def _drawn(draw: Callable[[Path], object], folder: Path) -> bool:
    try:
        draw(folder)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != "matplotlib":
            raise
        logger.warning(
            "no pictures were drawn, matplotlib is missing: pip install 'mixtral[train]'"
        )
        return False
    return True
