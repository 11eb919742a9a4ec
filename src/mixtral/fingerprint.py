"""Tells files apart by what is in them, not by where they lie: whole hashes, and quick ones.

``hash_file`` reads every byte; data of a measurement is named by it. ``fingerprint`` is for
weights: a file of up to 64 MiB is read whole; of a larger one the size and 256 evenly spaced pieces
count, so that the weights of an 8x7B take seconds and not minutes. Two folders with the same
fingerprint hold the same model, unless somebody changed bytes between the pieces by hand.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path

_PIECE_BYTES = 2**18
_NUM_PIECES = 256
_NO_WEIGHTS = (".md", ".txt", ".png")


def hash_file(path: Path) -> str:
    """Return the sha256 of a file, 64 hexadecimal digits.

    Raises:
        OSError: It cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint(path: Path) -> str:
    """Return a hash of a file, or of the files in a folder, 64 hexadecimal digits; see the module.

    Of a folder everything counts that decides a model, weights, config and tokenizer, and not what
    only describes it; files whose name begins with a dot are left out.

    Raises:
        OSError: A file cannot be read.
    """
    digest = hashlib.sha256()
    for file in _files_of(path) if path.is_dir() else [path]:
        size = file.stat().st_size
        digest.update(f"{'' if file == path else file.name} {size}\n".encode())
        with file.open("rb") as stream:
            for begin in _piece_begins(size):
                stream.seek(begin)
                digest.update(stream.read(_PIECE_BYTES))
    return digest.hexdigest()


def _files_of(folder: Path) -> list[Path]:
    found = (path for path in folder.iterdir() if path.is_file() and path.name[0] != ".")
    return sorted(path for path in found if path.suffix.lower() not in _NO_WEIGHTS)


def _piece_begins(size: int) -> Iterator[int]:
    if size <= _NUM_PIECES * _PIECE_BYTES:
        yield from range(0, size, _PIECE_BYTES)
    else:
        last = size - _PIECE_BYTES
        yield from (last * piece // (_NUM_PIECES - 1) for piece in range(_NUM_PIECES))
