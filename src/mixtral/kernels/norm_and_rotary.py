"""RMSNorm and rotary embedding as autograd functions: few passes over memory, little kept.

Next to the matmuls of a small model these two cost time by memory alone. The backward pass that
autograd makes of the norm's formula reads and writes a dozen tensors of the size of its input and
takes ten times as long as the one here (4,096 x 256, one core), which keeps the input alone. With
r = 1 / sqrt(mean(x^2) + eps) of a row, y = r w x, and the gradient g of y (arXiv:1910.07467,
equation 4, differentiated)::

    dw = sum over rows of r (g x)
    dx = r w g - x r^3 (w . g x) / D

Rotary embedding turns pairs of channels by an angle; its gradient is the same turn backwards
(arXiv:2104.09864, section 3.2.1), so nothing of size T is kept but the tables.

Both are for float32, and float64 where tests want it; narrower types go through ``reference.py``,
whose formulas these are. Differentiable once. Letters as there.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def fits(x: Tensor, *others: Tensor) -> bool:
    """Return whether a gradient is wanted of tensors of one type, float32 or float64."""
    tensors = (x, *others)
    return (
        torch.is_grad_enabled()
        and x.dtype in (torch.float32, torch.float64)
        and all(t.dtype == x.dtype for t in tensors)
        and any(t.requires_grad for t in tensors)
    )


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """As ``reference.rms_norm``, to the bit in float32, with a backward pass of its own.

    Args:
        x: Token states, [T, D], float32 or float64.
        weight: [D], same dtype.
        eps: Added to the mean square.

    Returns:
        [T, D], dtype of ``x``.
    """
    out: Tensor = _RmsNorm.apply(x, weight, eps)  # type: ignore[no-untyped-call]
    return out


def apply_rotary(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """As ``reference.apply_rotary``, within rounding, with a backward pass of its own.

    Args:
        x: Queries or keys, [T, H, K], float32 or float64.
        cos, sin: [T, K / 2], same dtype; they get no gradient.

    Returns:
        [T, H, K], dtype of ``x``.
    """
    out: Tensor = _Rotary.apply(x, cos, sin)  # type: ignore[no-untyped-call]
    return out


class _RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        out = x.square()
        scale = torch.rsqrt(out.mean(dim=-1, keepdim=True) + eps)  # [T, 1]
        ctx.save_for_backward(x, weight, scale)
        return torch.mul(x, scale, out=out).mul_(weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, scale = ctx.saved_tensors
        wants_x, wants_weight, _ = ctx.needs_input_grad
        product = grads[0] * x  # [T, D]; becomes dx
        weight_grad = torch.mv(product.T, scale[:, 0]) if wants_weight else None
        if not wants_x:
            return None, weight_grad, None
        pull = torch.mv(product, weight)[:, None] * scale**3 / x.shape[1]  # [T, 1]
        x_grad = torch.mul(grads[0], weight, out=product).mul_(scale)
        return x_grad.addcmul_(x, pull, value=-1), weight_grad, None


class _Rotary(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _turn(x, cos, sin, direction=1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return _turn(grads[0], *ctx.saved_tensors, direction=-1), None, None


def _turn(x: Tensor, cos: Tensor, sin: Tensor, *, direction: int) -> Tensor:
    """Turn channels i and i + K / 2 of [T, H, K] by an angle, or back."""
    cos, sin = cos[:, None], sin[:, None]
    out = torch.empty_like(x, memory_format=torch.contiguous_format)
    (first, second), (out_first, out_second) = x.chunk(2, dim=-1), out.chunk(2, dim=-1)
    torch.mul(first, cos, out=out_first).addcmul_(second, sin, value=-direction)
    torch.mul(second, cos, out=out_second).addcmul_(first, sin, value=direction)
    return out
