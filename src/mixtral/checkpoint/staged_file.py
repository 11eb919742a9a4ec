"""Write one file whole or not at all.

Bytes go to ``.NAME.XXXXXXXX.partial`` beside the target, which is renamed when everything is on
disk. A failure or Ctrl-C removes it; what a killed process leaves is removed by the next attempt
to write the same target. ``staging`` does the same for a folder of files.
"""

import errno
import logging
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from mixtral.checkpoint.staging import sync_folder
from mixtral.errors import CheckpointError
from mixtral.folder_lock import FolderLock

logger = logging.getLogger(__name__)


@contextmanager
def staged_file(target: Path) -> Iterator[BinaryIO]:
    """Give a new file beside the target; rename it at the end, remove it on any failure.

    Raises:
        CheckpointError: The target exists, another process writes it, or the disk is full.
    """
    target = target.absolute()
    lock: FolderLock | None = None
    staging = target.parent / f".{target.name}.{secrets.token_hex(4)}.partial"
    try:
        _require_free_name(target)
        target.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(target)
        with staging.open("xb") as file:
            lock = FolderLock(staging)
            yield file
            file.flush()
            os.fsync(file.fileno())
        _require_free_name(target)
        staging.rename(target)
        sync_folder(target.parent)
    except OSError as error:
        staging.unlink(missing_ok=True)
        if error.errno == errno.ENOSPC:
            raise CheckpointError(
                f"the disk of {target.parent} is full; free some space and try again."
            ) from error
        raise CheckpointError(f"{target} cannot be written: {error.strerror or error}.") from error
    except BaseException:
        staging.unlink(missing_ok=True)
        raise
    finally:
        if lock is not None:
            lock.release()


def _require_free_name(target: Path) -> None:
    if target.exists() or target.is_symlink():
        raise CheckpointError(f"{target} exists; choose another target or remove it.")


def _remove_leftovers(target: Path) -> None:
    """Remove what a killed process left of this target; a living one has it locked."""
    pattern = re.compile(rf"\.{re.escape(target.name)}\.[0-9a-f]{{8}}\.partial")
    for leftover in [p for p in target.parent.iterdir() if pattern.fullmatch(p.name)]:
        if not leftover.is_file():
            continue
        lock = FolderLock(leftover)
        if not lock.is_held:
            raise CheckpointError(
                f"another process is writing {target}; wait for it, or choose another target."
            )
        logger.warning("removing %s, which a stopped process left behind", leftover)
        leftover.unlink(missing_ok=True)
        lock.release()
