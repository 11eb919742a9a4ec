"""The chosen experts of a layer as one autograd function: forward and backward by expert.

Tokens are sorted by expert once. Each expert that somebody chose runs one matmul per weight on all
of its tokens, forward and backward; what is element by element runs once over all experts' rows.
An expert that nobody chose is never read and gets no gradient at all, rather than one of zeros.

With s = silu(w1 x), u = w3 x, h = s * u and y = p * w2 h for routing weight p and gradient g of
the output, the backward pass needs a = w2^T g [F] alone: dp = a . h, dh = p a, du = dh * s and
ds = dh * u. So the outputs of the experts, [T * A, D], are not kept; w1 x and w3 x are, and the
rest is made again. SwiGLU: arXiv:2002.05202, equation 6; Mixtral: arXiv:2401.04088, section 2.1.
Letters as in ``reference.py``; N = T * A rows, one per token and chosen expert.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional


@dataclass(frozen=True, kw_only=True, slots=True)
class ExpertOrder:
    """Token-expert pairs sorted by expert; within an expert by token."""

    pairs: Tensor
    """Which pair, of T * A in token order, stands at each place, [N], int64."""
    places: Tensor
    """Where each pair stands: the inverse, [N], int64."""
    token_ids: Tensor
    """Token at each place, [N], int64."""
    counts: list[int]
    """Rows of each expert, E numbers that sum to N."""

    @classmethod
    def of(cls, expert_ids: Tensor, num_experts: int) -> "ExpertOrder":
        """Sort the pairs of ``expert_ids``, [T, A], int64."""
        flat = expert_ids.flatten()
        pairs = flat.argsort(stable=True)
        places = torch.empty_like(pairs)
        places[pairs] = torch.arange(len(pairs), device=pairs.device)
        return cls(
            pairs=pairs,
            places=places,
            token_ids=pairs.div(expert_ids.shape[1], rounding_mode="floor"),
            counts=torch.bincount(flat, minlength=num_experts).tolist(),
        )

    def busy(self) -> Iterator[tuple[int, slice]]:
        """Yield each expert that has rows, with its rows."""
        begin = 0
        for expert, count in enumerate(self.counts):
            if count:
                yield expert, slice(begin, begin + count)
            begin += count


def moe(
    x: Tensor,
    routing_weights: Tensor,
    expert_ids: Tensor,
    w1: Sequence[Tensor],
    w2: Sequence[Tensor],
    w3: Sequence[Tensor],
) -> Tensor:
    """As ``grouped.moe``, with a backward pass of its own; differentiable once.

    Each token's outputs are added in the order of ``expert_ids``, in float32 or wider.

    Args:
        x: Token states, [T, D].
        routing_weights: [T, A], float32; float64 where ``x`` is.
        expert_ids: [T, A], int64.
        w1, w3: E tensors [F, D], dtype of ``x``.
        w2: E tensors [D, F], dtype of ``x``.

    Returns:
        [T, D], dtype of ``x``.
    """
    out: Tensor = _Moe.apply(x, routing_weights, expert_ids, *w1, *w2, *w3)  # type: ignore[no-untyped-call]
    return out


class _Moe(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, routing_weights: Tensor, expert_ids: Tensor, *weights: Tensor
    ) -> Tensor:
        w1, w2, w3 = _thirds(weights)
        order = ExpertOrder.of(expert_ids, len(w1))
        states = x.index_select(0, order.token_ids)  # [N, D]
        gate = x.new_empty(len(states), w1[0].shape[0])  # [N, F]
        up = torch.empty_like(gate)
        for expert, rows in order.busy():
            torch.mm(states[rows], w1[expert].T, out=gate[rows])
            torch.mm(states[rows], w3[expert].T, out=up[rows])
        hidden = functional.silu(gate).mul_(up)
        outputs = states  # its memory serves again
        for expert, rows in order.busy():
            torch.mm(hidden[rows], w2[expert].T, out=outputs[rows])
        ctx.save_for_backward(x, routing_weights, gate, up, *weights)
        ctx.order = order
        return _sum_pairs(outputs, order, routing_weights).to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, routing_weights, gate, up, *weights = ctx.saved_tensors
        order: ExpertOrder = ctx.order
        w1, w2, w3 = _thirds(weights)
        wants = ctx.needs_input_grad[3:]
        wants_w1, wants_w2, wants_w3 = _thirds(wants)
        out_grad = grads[0].index_select(0, order.token_ids)  # [N, D]
        back = torch.empty_like(gate)  # w2^T g, [N, F]
        for expert, rows in order.busy():
            torch.mm(out_grad[rows], w2[expert], out=back[rows])
        shares = routing_weights.flatten().index_select(0, order.pairs)[:, None]  # [N, 1]
        silu = functional.silu(gate)
        hidden = silu * up
        routing_grad = (back * hidden).sum(1, dtype=routing_weights.dtype)
        back = back.mul_(shares)
        hidden = hidden.mul_(shares)
        up_grad = silu.mul_(back)
        gate_grad = torch.ops.aten.silu_backward(back.mul_(up), gate)
        states = x.index_select(0, order.token_ids)
        found: list[Tensor | None] = [None] * len(weights)
        num_experts = len(w1)
        for expert, rows in order.busy():
            if wants_w1[expert]:
                found[expert] = gate_grad[rows].T @ states[rows]
            if wants_w2[expert]:
                found[num_experts + expert] = out_grad[rows].T @ hidden[rows]
            if wants_w3[expert]:
                found[2 * num_experts + expert] = up_grad[rows].T @ states[rows]
            # Its memory serves again, for the gradient of the states.
            torch.mm(gate_grad[rows], w1[expert], out=out_grad[rows])
            out_grad[rows].addmm_(up_grad[rows], w3[expert])
        routing_grad = routing_grad.index_select(0, order.places).view_as(routing_weights)
        x_grad = _sum_pairs(out_grad, order, torch.ones_like(routing_weights)).to(x.dtype)
        return (x_grad, routing_grad, None, *found)


def _thirds(items: Sequence[Any]) -> tuple[Sequence[Any], Sequence[Any], Sequence[Any]]:
    size = len(items) // 3
    return items[:size], items[size : 2 * size], items[2 * size :]


def _sum_pairs(rows: Tensor, order: ExpertOrder, shares: Tensor) -> Tensor:
    """Add rows [N, D] of each token times its shares [T, A]: [T, D], dtype of the shares."""
    places = order.places.view_as(shares)
    if rows.dtype == shares.dtype:  # one pass: no [T, A, D] in between
        return functional.embedding_bag(places, rows, mode="sum", per_sample_weights=shares)
    by_token = rows[places].to(shares.dtype)  # [T, A, D]
    return torch.bmm(shares[:, None], by_token).squeeze(1)
