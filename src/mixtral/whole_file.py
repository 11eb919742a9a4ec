"""Writes one file whole or not at all: a reader sees what was there before, or all that is new.

Bytes go to a hidden file beside the target, are on disk before it gets the name, and are removed on
any failure. Nothing is locked; who comes last wins.
"""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """Give a file to write to; it gets its name when the body has ended without a failure.

    Raises:
        OSError: It cannot be written; what was there before is still there.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_whole(path: Path, text: str) -> None:
    """Write a text in UTF-8; line ends stay as they are.

    Raises:
        OSError: It cannot be written; what was there before is still there.
    """
    with whole_file(path) as file:
        file.write(text.encode())
