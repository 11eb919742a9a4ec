"""A model folder appears whole or not at all.

Files are written to ``.NAME.XXXXXXXX.partial`` beside the target, and the folder is renamed when
everything is on disk. A failure removes it, unless a long job has noted finished files in it. If
the process is killed, what is left has no config and does not load, or is whole and lacks its name.

What the next attempt at the same target does with such a leftover depends on its X. They are
random for a quick job: the leftover is removed. A long job derives them from what it is about to
write (its fingerprint): then it finds its own leftover and goes on from there, also after Ctrl-C
or on a disk that was full, and removes those of other jobs. A lock on the folder keeps two
processes apart.
"""

import errno
import json
import logging
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mixtral.checkpoint.folder import TOKENIZER_FILES
from mixtral.errors import CheckpointError
from mixtral.folder_lock import FolderLock

logger = logging.getLogger(__name__)

PROGRESS_FILE = "progress.json"
"""What a long job has finished; it is gone when the folder gets its name."""

UNFINISHED = ".part"
"""What the name of a file ends in while a long job writes it."""


@contextmanager
def staged(target: Path, *, fingerprint: str | None = None) -> Iterator[Path]:
    """Give a folder beside the target; rename it at the end.

    A failure removes it, unless it holds ``PROGRESS_FILE``: then its finished files stay.

    Args:
        target: Where the files shall be; it must not exist, or be empty.
        fingerprint: Hexadecimal digits that are the same for the same job; its leftover is then
            given again. None is for a job that always starts over.

    Raises:
        CheckpointError: The target is in use, or the disk is full.
    """
    target = target.absolute()
    _require_free_name(target)
    mark = (fingerprint or secrets.token_hex(4))[:8]
    staging = target.parent / f".{target.name}.{mark}.partial"
    try:
        _remove_leftovers(target, keep=staging)
        staging.mkdir(parents=True, exist_ok=fingerprint is not None)
        lock = _lock(staging, target)
    except OSError as error:
        raise _explain(target, error) from error
    try:
        _require_free_name(target)  # Whoever held the lock before may have written it.
        yield staging
        sync_folder(staging)
        if target.exists():
            target.rmdir()
        staging.rename(target)
        sync_folder(target.parent)
    except OSError as error:
        raise _explain(target, error, is_kept=_clear_unfinished(staging)) from error
    except BaseException:
        _clear_unfinished(staging)
        raise
    finally:
        lock.release()


def copy_tokenizer(source: Path, target: Path) -> None:
    """Copy the files of a tokenizer from one folder to another."""
    for file in sorted(source.iterdir()):
        if TOKENIZER_FILES.fullmatch(file.name):
            shutil.copyfile(file, target / file.name)


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Write a JSON object to disk; a reader sees all of it or what was there before."""
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(json.dumps(values, indent=2) + "\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def sync_folder(path: Path) -> None:
    """Wait until the names in a folder are on disk."""
    if os.name != "posix":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _lock(folder: Path, target: Path) -> FolderLock:
    lock = FolderLock(folder)
    if not lock.is_held:
        raise CheckpointError(
            f"another process is writing {target}; wait for it, or choose another target."
        )
    return lock


def _remove_leftovers(target: Path, *, keep: Path) -> None:
    """Remove what a killed process left of this target; a living one has it locked."""
    pattern = re.compile(rf"\.{re.escape(target.name)}\.[0-9a-f]{{8}}\.partial")
    if not target.parent.is_dir():
        return
    for leftover in [p for p in target.parent.iterdir() if pattern.fullmatch(p.name)]:
        lock = _lock(leftover, target)
        if leftover != keep:
            logger.warning("removing %s, which a stopped process left behind", leftover)
            if leftover.is_file():
                leftover.unlink()
            shutil.rmtree(leftover, ignore_errors=True)
        lock.release()


def _clear_unfinished(staging: Path) -> bool:
    """Remove what the next attempt cannot use; return whether anything is left for it."""
    if not (staging / PROGRESS_FILE).exists():
        shutil.rmtree(staging, ignore_errors=True)
        return False
    for file in staging.glob(f"*{UNFINISHED}"):
        file.unlink(missing_ok=True)
    logger.warning("%s keeps what is done; the same command goes on with it", staging)
    return True


def _require_free_name(target: Path) -> None:
    try:
        if target.is_dir() and not any(target.iterdir()):
            return
        is_taken = target.exists() or target.is_symlink()
    except OSError as error:
        raise _explain(target, error) from error
    if is_taken:
        raise CheckpointError(
            f"{target} exists and is not an empty folder; choose another target or remove it."
        )


def _explain(target: Path, error: OSError, *, is_kept: bool = False) -> CheckpointError:
    if error.errno == errno.ENOSPC:
        what = "the same command goes on with what is done" if is_kept else "try again"
        return CheckpointError(f"the disk of {target.parent} is full; free some space, and {what}.")
    return CheckpointError(
        f"{target} cannot be written: {error.strerror or error}. Choose another target."
    )
