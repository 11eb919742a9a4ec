"""Blocks of weights to tensors and back, a few rows at a time.

The ``gguf`` package knows every block format in numpy (about 200 million weights per second and
core); this file feeds it. It works on rows, so that beside one matrix there is never more than a
few megabytes in memory, and it refuses what a format cannot hold: infinities, NaN, and in formats
whose scale is a float16, numbers beyond that.
"""

from collections.abc import Iterator
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mixtral.checkpoint.containers import DTYPES, cast
from mixtral.errors import CheckpointError
from mixtral.gguf_file.block_types import STORED_DTYPES, BlockType

# 4 million weights: a float32 copy below 20 MB, and progress several times a second.
_CHUNK_WEIGHTS = 1 << 22
_MAX_FLOAT16 = 65504.0


def decode_blocks(
    raw: npt.NDArray[np.uint8],
    kind: BlockType,
    *,
    shape: tuple[int, ...],
    dtype: torch.dtype,
    where: str,
) -> Tensor:
    """Return the weights of some blocks.

    Args:
        raw: The bytes, [rows * bytes of a row].
        kind: A type with scales.
        shape: Shape of the weights, [rows, columns] or [columns].
        dtype: Type of the result; the formats themselves give float32.
        where: File and tensor, for messages.

    Raises:
        CheckpointError: A weight is infinite or NaN.
    """
    columns = shape[-1]
    rows = raw.reshape(-1, columns // kind.weights * kind.num_bytes)
    found = torch.empty((len(rows), columns), dtype=dtype)
    for begin, end in _chunks(len(rows), columns):
        # Damaged scales overflow; the result is looked at below.
        with np.errstate(all="ignore"):
            values = gguf.dequantize(rows[begin:end], _quant_type(kind))
        _require_finite(values, where)
        found[begin:end] = torch.from_numpy(values).to(dtype)
    return found.view(shape)


def encode_blocks(tensor: Tensor, kind: BlockType, name: str) -> Iterator[bytes | memoryview]:
    """Yield the bytes of a tensor in a format, some rows at a time.

    Args:
        tensor: [rows, columns] or [columns], on any device.
        kind: One of the types that ``gguf`` can quantise to, or one without scales.
        name: For messages.

    Raises:
        CheckpointError: A value is not finite, or too large for the format.
    """
    matrix = tensor.detach().reshape(-1, tensor.shape[-1])
    for begin, end in _chunks(*matrix.shape):
        rows = matrix[begin:end].cpu()
        if kind.name in STORED_DTYPES:
            plain = cast(rows, DTYPES[STORED_DTYPES[kind.name]], name).contiguous()
            yield plain.view(-1).view(torch.uint8).numpy().data
            continue
        values = rows.float().contiguous().numpy()
        _require_float16_scale(values, kind, name)
        yield gguf.quantize(values, _quant_type(kind)).tobytes()


def _quant_type(kind: BlockType) -> gguf.GGMLQuantizationType:
    return gguf.GGMLQuantizationType(kind.code)


def _chunks(rows: int, columns: int) -> Iterator[tuple[int, int]]:
    step = max(1, _CHUNK_WEIGHTS // columns)
    for begin in range(0, rows, step):
        yield begin, min(rows, begin + step)


def _require_finite(values: npt.NDArray[Any], where: str) -> None:
    # The two ends of the range show every infinity and NaN without an array of answers.
    if not (np.isfinite(values.min()) and np.isfinite(values.max())):
        raise CheckpointError(
            f"{where} has weights that are infinite or NaN; the file is damaged. "
            "Download or copy it again."
        )


def _require_float16_scale(values: npt.NDArray[Any], kind: BlockType, name: str) -> None:
    largest = max(abs(float(values.min())), abs(float(values.max())))
    if not largest <= _MAX_FLOAT16:
        raise CheckpointError(
            f"tensor {name} holds the value {largest:g}, which {kind.name} (up to 65504) cannot "
            "hold; use bf16."
        )
