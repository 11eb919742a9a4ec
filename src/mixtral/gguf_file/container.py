"""The part of a GGUF file before the weights: metadata, and a description of each tensor.

A file is, little-endian throughout:

    "GGUF"  uint32 version  uint64 tensors  uint64 fields
    fields:   string key, uint32 type, value
    tensors:  string name, uint32 axes, uint64 sizes (last axis first), uint32 type, uint64 offset
    zeros up to a multiple of the alignment, then the weights; offsets count from here

where a string is a uint64 length and UTF-8, and an array is a uint32 type, a uint64 count and the
values. Versions 2 and 3 are the same for little-endian files; 1 and big-endian files are refused.
Large models come in several files, NAME-00001-of-00003.gguf, each complete in itself; the first
one's metadata count. Whichever of them is named, all are read.

Nothing here trusts the file: a count or length that does not fit into it is an error, not an
allocation. Source: ggml-org/ggml, docs/gguf.md.
"""

import re
import struct
import sys
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from mixtral.errors import CheckpointError
from mixtral.gguf_file.block_types import BLOCK_TYPES_BY_CODE, BlockType

Value = bool | int | float | str | Sequence[int] | Sequence[float] | Sequence[str]
"""What a field of the metadata can hold."""

MAGIC = b"GGUF"
VERSION = 3
ALIGNMENT = 32
"""Every tensor begins at a multiple of it, unless general.alignment says otherwise."""

STRING, ARRAY, BOOL = 8, 9, 7
SCALARS: Mapping[int, str] = {
    0: "B",
    1: "b",
    2: "H",
    3: "h",
    4: "I",
    5: "i",
    6: "f",
    BOOL: "?",
    10: "Q",
    11: "q",
    12: "d",
}
"""Types of single numbers, as ``struct`` spells them."""

# Vocabulary and merges of the largest known tokenizers take 20 MB.
_MAX_HEADER_BYTES = 1 << 26
_MAX_AXES = 4
_SPLIT = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.gguf")
_AGAIN = "Download or copy it again."


@dataclass(frozen=True, kw_only=True, slots=True)
class GgufTensor:
    """One tensor of a file, described but not read."""

    path: Path
    """The file it is in."""
    name: str
    kind: BlockType
    shape: tuple[int, ...]
    """In our order, [rows, columns]; the file lists the columns first."""
    offset: int
    """Where its bytes begin in the file."""

    @property
    def num_bytes(self) -> int:
        """Bytes that it takes."""
        return self.kind.bytes_of(self.shape)


@dataclass(frozen=True, kw_only=True, slots=True)
class GgufFile:
    """The description of a model in one GGUF file, or in all parts of a split one."""

    path: Path
    """The file that was named."""
    metadata: Mapping[str, Value]
    tensors: Mapping[str, GgufTensor]
    """By name, in the order of the file."""


def read_gguf(path: Path) -> GgufFile:
    """Read the description of a GGUF file and of its other parts where it is split.

    Raises:
        CheckpointError: A file is missing, cut, damaged, or of another version or format.
    """
    parts = _parts(path)
    files = [_read_file(part) for part in parts]
    tensors: dict[str, GgufTensor] = {}
    for file in files:
        for name, tensor in file.tensors.items():
            if name in tensors:
                raise CheckpointError(
                    f"{file.path}: tensor {name} is also in {tensors[name].path.name}; "
                    "these are not parts of one model."
                )
            tensors[name] = tensor
    metadata = files[0].metadata
    count = metadata.get("split.count", 1)
    if count not in (0, len(parts)):
        raise CheckpointError(
            f"{path} is one of {count} parts; they must be named "
            "NAME-00001-of-00003.gguf and so on, and lie in one folder."
        )
    return GgufFile(path=path, metadata=metadata, tensors=tensors)


def _parts(path: Path) -> list[Path]:
    match = _SPLIT.fullmatch(path.name)
    if match is None:
        return [path]
    stem, total = match[1], int(match[3])
    parts = [path.with_name(f"{stem}-{n + 1:05d}-of-{match[3]}.gguf") for n in range(total)]
    for part in parts:
        if not part.is_file():
            raise CheckpointError(
                f"{part} does not exist; {path.name} needs all {total} parts in one folder."
            )
    return parts or [path]


def _read_file(path: Path) -> GgufFile:
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            return _read_header(_Cursor(path, file, size))
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} does not exist. {_AGAIN}") from error
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}.") from error


class _Cursor:
    """Reads a header from front to back, never past the end of the file."""

    def __init__(self, path: Path, file: BinaryIO, size: int) -> None:
        self.path, self.size, self.at = path, size, 0
        self._file = file

    def take(self, count: int) -> bytes:
        """Return the next bytes."""
        if self.at + count > self.size:
            raise CheckpointError(
                f"{self.path} is cut inside its header: byte {self.at + count} is needed, "
                f"the file has {self.size}. {_AGAIN}"
            )
        if self.at + count > _MAX_HEADER_BYTES:
            raise CheckpointError(
                f"{self.path} is damaged: its header would have more than {_MAX_HEADER_BYTES} "
                f"bytes. {_AGAIN}"
            )
        self.at += count
        found = self._file.read(count)
        if len(found) < count:
            raise CheckpointError(f"{self.path} was cut while it was read. {_AGAIN}")
        return found

    def number(self, code: str) -> int:
        """Return the next whole number."""
        value: int = struct.unpack("<" + code, self.take(struct.calcsize("<" + code)))[0]
        return value

    def string(self) -> str:
        """Return the next text."""
        raw = self.take(self.number("Q"))
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError as error:
            raise CheckpointError(
                f"{self.path} is damaged: a text that ends at byte {self.at} is not UTF-8. {_AGAIN}"
            ) from error

    def value(self, kind: int, key: str) -> Value:
        """Return the next value of a field."""
        if kind == STRING:
            return self.string()
        if kind == ARRAY:
            return self._array(key)
        if kind not in SCALARS:
            raise CheckpointError(
                f"{self.path} is damaged: field {key} has type {kind}; known are 0 to 12. {_AGAIN}"
            )
        code = "<" + SCALARS[kind]
        value: bool | int | float = struct.unpack(code, self.take(struct.calcsize(code)))[0]
        return value

    def _array(self, key: str) -> Value:
        kind, count = self.number("I"), self.number("Q")
        if kind == STRING:
            # Every text takes 8 bytes at least, which ends an absurd count at the end of the file.
            return [self.string() for _ in range(count)]
        if kind not in SCALARS:
            raise CheckpointError(
                f"{self.path}: field {key} is an array of type {kind}; "
                "arrays of numbers and of texts are known."
            )
        code = "B" if kind == BOOL else SCALARS[kind]
        values = array(code)
        values.frombytes(self.take(count * values.itemsize))
        if sys.byteorder == "big":
            values.byteswap()
        return values


def _read_header(cursor: _Cursor) -> GgufFile:
    path = cursor.path
    num_tensors = _check_start(cursor)
    metadata: dict[str, Value] = {}
    for _ in range(cursor.number("Q")):
        key = cursor.string()
        if key in metadata:
            raise CheckpointError(f"{path} is damaged: field {key!r} occurs twice. {_AGAIN}")
        metadata[key] = cursor.value(cursor.number("I"), key)
    described: dict[str, tuple[BlockType, tuple[int, ...], int]] = {}
    for _ in range(num_tensors):
        name = cursor.string()
        if name in described:
            raise CheckpointError(f"{path} is damaged: tensor {name!r} occurs twice. {_AGAIN}")
        described[name] = _describe(cursor, name)
    alignment = _alignment(path, metadata)
    start = -(-cursor.at // alignment) * alignment
    tensors = {}
    for name, (kind, shape, offset) in described.items():
        tensors[name] = GgufTensor(
            path=path, name=name, kind=kind, shape=shape, offset=start + offset
        )
    _check_places(path, cursor.size, tensors, alignment)
    return GgufFile(path=path, metadata=metadata, tensors=tensors)


def _check_start(cursor: _Cursor) -> int:
    """Check magic and version; return the number of tensors."""
    path = cursor.path
    magic = cursor.take(4) if cursor.size >= 4 else b""
    if magic != MAGIC:
        raise CheckpointError(f"{path} is not a GGUF file: it begins with {magic!r}, not b'GGUF'.")
    version = cursor.number("I")
    if version & 0xFFFF == 0:
        raise CheckpointError(
            f"{path} is a big-endian GGUF file; convert it with "
            "`gguf-convert-endian FILE little` of the gguf package."
        )
    if version not in (2, VERSION):
        raise CheckpointError(
            f"{path} is GGUF version {version}; 2 and 3 are supported. Convert the model again."
        )
    return cursor.number("Q")


def _describe(cursor: _Cursor, name: str) -> tuple[BlockType, tuple[int, ...], int]:
    path, axes = cursor.path, cursor.number("I")
    if not 1 <= axes <= _MAX_AXES:
        raise CheckpointError(f"{path} is damaged: tensor {name} has {axes} axes. {_AGAIN}")
    shape = tuple(reversed([cursor.number("Q") for _ in range(axes)]))
    code, offset = cursor.number("I"), cursor.number("Q")
    kind = BLOCK_TYPES_BY_CODE.get(code)
    if kind is None:
        known = ", ".join(kind.name for kind in BLOCK_TYPES_BY_CODE.values())
        raise CheckpointError(f"{path}: tensor {name} has quant type {code}; known are {known}.")
    if 0 in shape or shape[-1] % kind.weights:
        raise CheckpointError(
            f"{path}: tensor {name} has shape {list(shape)} in {kind.name}; no size may be 0, and "
            f"the last must be a multiple of {kind.weights}."
        )
    return kind, shape, offset


def _alignment(path: Path, metadata: Mapping[str, Value]) -> int:
    alignment = metadata.get("general.alignment", ALIGNMENT)
    if not isinstance(alignment, int) or alignment < 1 or alignment & (alignment - 1):
        raise CheckpointError(
            f"{path} has general.alignment {alignment!r}; it must be a power of two."
        )
    return alignment


def _check_places(path: Path, size: int, tensors: Mapping[str, GgufTensor], alignment: int) -> None:
    end, previous = 0, ""
    for tensor in sorted(tensors.values(), key=lambda tensor: tensor.offset):
        if tensor.offset % alignment:
            raise CheckpointError(
                f"{path} is damaged: tensor {tensor.name} begins at byte {tensor.offset}, which is "
                f"no multiple of {alignment}. {_AGAIN}"
            )
        if tensor.offset < end:
            raise CheckpointError(
                f"{path} is damaged: tensor {tensor.name} overlaps {previous}. {_AGAIN}"
            )
        end, previous = tensor.offset + tensor.num_bytes, tensor.name
        if end > size:
            raise CheckpointError(
                f"{path} is cut: tensor {tensor.name} ends at byte {end}, "
                f"the file has {size}. {_AGAIN}"
            )
