"""Write the part of a GGUF file before the weights; ``container`` says what it looks like."""

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from mixtral.gguf_file.block_types import BlockType
from mixtral.gguf_file.container import ALIGNMENT, ARRAY, BOOL, MAGIC, SCALARS, STRING, VERSION

UINT32, INT32, FLOAT32 = 4, 5, 6
"""Types of numbers that a field may be written as."""


@dataclass(frozen=True, slots=True)
class Field:
    """One field of the metadata with the type that readers expect; arrays hold that type."""

    kind: int
    value: bool | int | float | str | Sequence[int] | Sequence[float] | Sequence[str]


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedTensor:
    """A tensor that is going to be written."""

    name: str
    kind: BlockType
    shape: tuple[int, ...]
    """In our order, [rows, columns]."""


def text(value: str) -> Field:
    """Return a field that holds a text."""
    return Field(STRING, value)


def uint32(value: int) -> Field:
    """Return a field that holds a count or an id."""
    return Field(UINT32, value)


def float32(value: float) -> Field:
    """Return a field that holds a number."""
    return Field(FLOAT32, value)


def boolean(value: bool) -> Field:
    """Return a field that holds true or false."""
    return Field(BOOL, value)


def encode_header(
    fields: dict[str, Field], tensors: Sequence[PlannedTensor]
) -> tuple[bytes, dict[str, int], int]:
    """Lay out a file.

    Returns:
        The bytes before the weights, where each tensor begins, and the size of the whole file.
    """
    parts = [MAGIC, struct.pack("<IQQ", VERSION, len(tensors), len(fields))]
    for key, field in fields.items():
        parts += [_string(key), _field(field)]
    places, offset = {}, 0
    for tensor in tensors:
        places[tensor.name] = offset
        sizes = tensor.shape[::-1]
        parts.append(_string(tensor.name))
        parts.append(struct.pack(f"<I{len(sizes)}Q", len(sizes), *sizes))
        parts.append(struct.pack("<IQ", tensor.kind.code, offset))
        offset = _aligned(offset + tensor.kind.bytes_of(tensor.shape))
    head = b"".join(parts)
    head = head.ljust(_aligned(len(head)), b"\0")
    return head, {name: len(head) + place for name, place in places.items()}, len(head) + offset


def _field(field: Field) -> bytes:
    kind, value = field.kind, field.value
    if isinstance(value, str):
        return struct.pack("<I", STRING) + _string(value)
    if isinstance(value, Sequence):
        head = struct.pack("<IIQ", ARRAY, kind, len(value))
        if kind == STRING:
            return head + b"".join(_string(str(item)) for item in value)
        return head + struct.pack(f"<{len(value)}{SCALARS[kind]}", *value)
    return struct.pack("<I" + SCALARS[kind], kind, value)


def _string(value: str) -> bytes:
    raw = value.encode("utf-8")
    return struct.pack("<Q", len(raw)) + raw


def _aligned(offset: int) -> int:
    return -(-offset // ALIGNMENT) * ALIGNMENT
