"""Products with a packed weight that let gradients through: adapters over a low-bit base.

The weight W [N, K] is frozen and stays packed, the very bytes that are served. Both directions
multiply with what the bytes stand for (``formats.py``), so there is no other rounding to train
against, and only the states get a gradient (QLoRA, arXiv:2305.14314, section 3):

    forward    y = x W^T
    backward   dx = dy W

W is decoded a few rows at a time, into one tile that is used again, so that memory does not depend
on its size. Nothing is kept for the backward pass, which decodes again: on an AVX2 processor that
adds 4 % to the product of 128 tokens and up to a third to that of 16, and what would be kept is
seven times as large as the packed int4 weight.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mixtral.kernels import formats
from mixtral.kernels.cpu import load_library
from mixtral.kernels.formats import PANEL_ROWS

# 16 MB of float32. Each product is a region of threads that ends with the slowest of them: where
# other processes run, a quarter of this takes twice the time; elsewhere it makes no difference.
_TILE_WEIGHTS = 1 << 22
# A GPU wants fewer, larger launches; decoding there takes some 24 bytes per weight for a moment.
_TILE_WEIGHTS_GPU = 1 << 24


def low_bit_linear(x: Tensor, packed: Tensor, *, rows: int, cols: int) -> Tensor:
    """Multiply states with a packed weight, ``x @ W.T``, differentiable in the states.

    float32 states are multiplied in float32. bfloat16 states meet tiles rounded to bfloat16 where
    the device multiplies bfloat16 itself, and float32 tiles elsewhere.

    Args:
        x: [T, K], float32, bfloat16 or float16.
        packed: [ceil(N / 32), bytes of a panel], uint8, on the device of ``x``; the shape tells
            the format.
        rows, cols: N and K.

    Returns:
        [T, N], dtype of ``x``.

    Raises:
        ConfigError: No format of [N, K] has this packed shape.
        ValueError: ``x`` is not [T, K].
    """
    if x.dim() != 2 or x.shape[1] != cols:
        raise ValueError(f"x has shape {list(x.shape)}; it must be [T, {cols}].")
    name = formats.format_of_packed(packed, rows=rows, cols=cols)
    out: Tensor = _LowBitProduct.apply(x, packed, name, rows)  # type: ignore[no-untyped-call]
    return out


def dequantize(
    packed: Tensor, *, rows: int, cols: int, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Decode a packed weight in the fastest way of this machine; ``formats`` is the specification.

    Args:
        packed: [ceil(N / 32), bytes of a panel], uint8; the shape tells the format.
        rows, cols: N and K.
        dtype: Type of the result; the values are rounded from float32.

    Returns:
        [N, K], on the device of ``packed``.

    Raises:
        ConfigError: No format of [N, K] has this packed shape.
    """
    name = formats.format_of_packed(packed, rows=rows, cols=cols)
    weight = torch.empty(rows, cols, dtype=dtype, device=packed.device)
    for begin, tile in _tiles(packed, name, rows=rows, cols=cols, dtype=dtype):
        weight[begin : begin + len(tile)] = tile
    return weight


class _LowBitProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, packed: Tensor, name: str, rows: int) -> Tensor:
        ctx.save_for_backward(packed)
        ctx.name, ctx.cols = name, x.shape[1]
        dtype = _product_dtype(x)
        states = x.to(dtype)
        out = states.new_empty(x.shape[0], rows)
        if x.shape[0]:
            for begin, tile in _tiles(packed, name, rows=rows, cols=ctx.cols, dtype=dtype):
                torch.mm(states, tile.T, out=out[:, begin : begin + len(tile)])
        return out.to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, None, None, None]:
        (packed,) = ctx.saved_tensors
        grad = grads[0]
        if not ctx.needs_input_grad[0]:
            return None, None, None, None
        dtype = _product_dtype(grad)
        outer = grad.to(dtype)
        tokens, rows = grad.shape
        # float32 whatever the tiles are: a sum of many tiles would be rounded once for each.
        total = torch.zeros(tokens, ctx.cols, dtype=torch.float32, device=grad.device)
        if tokens:
            for begin, tile in _tiles(packed, ctx.name, rows=rows, cols=ctx.cols, dtype=dtype):
                part = outer[:, begin : begin + len(tile)]
                if dtype == torch.float32:
                    total.addmm_(part, tile)
                else:
                    total += part @ tile
        return total.to(grad.dtype), None, None, None


def _tiles(
    packed: Tensor, name: str, *, rows: int, cols: int, dtype: torch.dtype
) -> Iterator[tuple[int, Tensor]]:
    """Yield the first row and the values of each tile, [rows of the tile, K].

    A tile is overwritten by the next one.
    """
    weights = _TILE_WEIGHTS_GPU if packed.is_cuda else _TILE_WEIGHTS
    height = max(PANEL_ROWS, weights // cols // PANEL_ROWS * PANEL_ROWS)
    library = None if packed.is_cuda else load_library()
    if library is not None:
        library.set_threads(torch.get_num_threads())
        buffer = torch.empty(min(height, rows), cols, dtype=torch.float32, device="cpu")
    for begin in range(0, rows, height):
        count = min(height, rows - begin)
        panels = packed[begin // PANEL_ROWS : -(-(begin + count) // PANEL_ROWS)]
        if library is not None:
            tile = library.dequantize(panels, name, buffer[:count])
        else:
            tile = formats.dequantize(panels, name, rows=count, cols=cols)
        yield begin, tile.to(dtype)


def _product_dtype(x: Tensor) -> torch.dtype:
    """The type in which this device multiplies states of this type at full speed."""
    if x.dtype == torch.float32 or x.is_cuda:
        return x.dtype
    library = load_library()
    has_bfloat16 = library is not None and "avx512bf16" in library.usable_levels
    return x.dtype if x.dtype == torch.bfloat16 and has_bfloat16 else torch.float32
