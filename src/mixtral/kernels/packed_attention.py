"""Attention over packed sequences as one autograd function: the CPU's float32 training path.

PyTorch's operator takes sequences of one length and, on a CPU, reaches a third of the matmul
speed; ``cpu/csrc/packed_attention.h`` takes sequences of any lengths in one call. Everything else
(other types, other devices, no library) goes through ``scaled_dot_product_attention`` in
``grouped.py``. Idea: FlashAttention-2, arXiv:2307.08691.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mixtral.kernels.cpu_training import TrainingKernels, fits_kernels, load_training_kernels


def fits(query: Tensor, key: Tensor, value: Tensor) -> bool:
    """Return whether ``attend`` can run: float32 on the CPU, and the library is there."""
    return fits_kernels(query, key, value) and load_training_kernels() is not None


def attend(
    query: Tensor, key: Tensor, value: Tensor, starts: Sequence[int], window: int | None = None
) -> Tensor:
    """Causal grouped-query attention inside each sequence; meaning of ``reference.attention``.

    Differentiable once. The bits of a sequence depend neither on the others nor on the threads.

    Args:
        query: [T, H, K], float32 on the CPU.
        key, value: [T, G, K], likewise.
        starts: Sequence boundaries, S + 1 offsets from 0 to T.
        window: Positions that a query sees, itself included; None sees all before it.

    Returns:
        [T, H, K], float32.
    """
    out: Tensor = _Attend.apply(query, key, value, tuple(starts), window)  # type: ignore[no-untyped-call]
    return out


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        starts: tuple[int, ...],
        window: int | None,
    ) -> Tensor:
        query, key, value = query.contiguous(), key.contiguous(), value.contiguous()
        out, log_sums = _kernels().attention(query, key, value, starts, window)
        ctx.save_for_backward(query, key, value, out, log_sums)
        ctx.starts, ctx.window = starts, window
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, out, log_sums = ctx.saved_tensors
        found = _kernels().attention_backward(
            grads[0].contiguous(), query, key, value, out, log_sums, ctx.starts, ctx.window
        )
        return (*found, None, None)


def _kernels() -> TrainingKernels:
    kernels = load_training_kernels()
    assert kernels is not None, "attend() needs fits()"
    return kernels
