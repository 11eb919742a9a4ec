"""The model's operations with PyTorch's own fused operators: the default on every device.

Same signatures and results as ``reference.py``, within rounding. Two ideas:

* ``moe`` sorts the tokens by expert, so that each expert that somebody chose runs once, on all of
  its tokens together; an expert that nobody chose costs nothing and there is no loop over tokens.
  Each token's outputs are added in the order of expert ids, whatever else is in the batch.
* ``attention`` hands each sequence to ``scaled_dot_product_attention``, which picks the flash
  kernel of the CPU or GPU; ``cached_attention`` does so for new tokens over the block KV cache.
  In float32 on a CPU all sequences go to ``packed_attention.py`` in one call.

Where gradients are wanted, ``moe`` is an autograd function with a backward pass of its own
(``moe_training.py``), and in float32 so are the norm and the rotary embedding
(``norm_and_rotary.py``). Dimension letters as in ``reference.py``, and P block size, N blocks, C
context tokens of one sequence.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional

from mixtral.kernels import moe_training, norm_and_rotary, packed_attention, reference


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """As ``reference.rms_norm``; the same bits with and without gradients.

    Args:
        x: Token states, [T, D], any float dtype.
        weight: [D], dtype of ``x``.
        eps: Added to the mean square.

    Returns:
        [T, D], dtype of ``x``.
    """
    if norm_and_rotary.fits(x, weight):
        return norm_and_rotary.rms_norm(x, weight, eps)
    return reference.rms_norm(x, weight, eps)


def apply_rotary(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """As ``reference.apply_rotary``.

    Args:
        x: Queries or keys, [T, H, K], any float dtype.
        cos, sin: [T, K / 2], float32.

    Returns:
        [T, H, K], dtype of ``x``.
    """
    if norm_and_rotary.fits(x, cos, sin):
        return norm_and_rotary.apply_rotary(x, cos, sin)
    return reference.apply_rotary(x, cos, sin)


def moe(
    x: Tensor,
    routing_weights: Tensor,
    expert_ids: Tensor,
    w1: Sequence[Tensor],
    w2: Sequence[Tensor],
    w3: Sequence[Tensor],
) -> Tensor:
    """Run each chosen expert once on its tokens and add the weighted outputs.

    Args:
        x: Token states, [T, D].
        routing_weights: [T, A], float32.
        expert_ids: [T, A], int64.
        w1, w3: E tensors [F, D].
        w2: E tensors [D, F].

    Returns:
        [T, D], dtype of ``x``; summed in float32.
    """
    wants_gradient = any(t.requires_grad for t in (x, routing_weights, *w1, *w2, *w3))
    if torch.is_grad_enabled() and wants_gradient:
        return moe_training.moe(x, routing_weights, expert_ids, w1, w2, w3)

    def run(expert: int, states: Tensor) -> Tensor:
        gate = functional.linear(states, w1[expert])
        hidden = functional.silu(gate) * functional.linear(states, w3[expert])
        return functional.linear(hidden, w2[expert])

    return visit_experts(x, routing_weights, expert_ids, len(w1), run)


def visit_experts(
    x: Tensor,
    routing_weights: Tensor,
    expert_ids: Tensor,
    num_experts: int,
    run: Callable[[int, Tensor], Tensor],
) -> Tensor:
    """Run experts of any kind, each chosen one once on its tokens, and add the weighted outputs.

    Args:
        x: Token states, [T, D].
        routing_weights: [T, A], float32.
        expert_ids: [T, A], int64.
        num_experts: E.
        run: (expert, its token states [N, D]) -> its outputs, [N, D]; not called without tokens.

    Returns:
        [T, D], dtype of ``x``; summed in float32.
    """
    num_experts_per_tok = expert_ids.shape[1]
    order = expert_ids.flatten().argsort(stable=True)  # [T * A], sorted by expert
    token_ids = order.div(num_experts_per_tok, rounding_mode="floor")
    counts = torch.bincount(expert_ids.flatten(), minlength=num_experts).tolist()
    states = x.index_select(0, token_ids).split(counts)
    parts = [run(expert, part) for expert, part in enumerate(states) if counts[expert]]
    weights = routing_weights.flatten().index_select(0, order)
    weighted = torch.cat(parts).float() * weights[:, None]  # [T * A, D]
    out = torch.zeros(x.shape, dtype=torch.float32, device=x.device)
    return out.index_add(0, token_ids, weighted).to(x.dtype)


def moe_stacked(
    x: Tensor,
    routing_weights: Tensor,
    expert_ids: Tensor,
    w1: Tensor,
    w2: Tensor,
    w3: Tensor,
) -> Tensor:
    """As ``moe``, with the experts stacked and one grouped matmul for all of them.

    Nothing is read back from the device, so a GPU's queue never runs dry.

    Args:
        x: Token states, [T, D], bfloat16.
        routing_weights: [T, A], float32.
        expert_ids: [T, A], int64.
        w1, w3: [E, F, D], bfloat16.
        w2: [E, D, F], bfloat16.

    Returns:
        [T, D], dtype of ``x``; summed in float32.
    """
    num_experts_per_tok = expert_ids.shape[1]
    order = expert_ids.flatten().argsort(stable=True)
    token_ids = order.div(num_experts_per_tok, rounding_mode="floor")
    counts = torch.zeros(w1.shape[0], dtype=torch.int32, device=x.device)
    counts.index_add_(0, expert_ids.flatten(), torch.ones_like(order, dtype=torch.int32))
    ends = counts.cumsum(0, dtype=torch.int32)
    states = x.index_select(0, token_ids)
    hidden = functional.silu(functional.grouped_mm(states, w1.transpose(1, 2), offs=ends))
    hidden = hidden * functional.grouped_mm(states, w3.transpose(1, 2), offs=ends)
    outputs = functional.grouped_mm(hidden, w2.transpose(1, 2), offs=ends)
    weights = routing_weights.flatten().index_select(0, order)
    unsorted = torch.empty_like(outputs, dtype=torch.float32)
    unsorted.index_copy_(0, order, outputs.float() * weights[:, None])
    return unsorted.view(x.shape[0], num_experts_per_tok, -1).sum(1).to(x.dtype)


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    starts: Sequence[int],
    window: int | None = None,
) -> Tensor:
    """Causal grouped-query attention inside each sequence, through the fused operator.

    Args:
        query: [T, H, K].
        key, value: [T, G, K].
        starts: Sequence boundaries, S + 1 offsets from 0 to T.
        window: Positions that a query sees, itself included; None sees all before it.

    Returns:
        [T, H, K], dtype of ``query``.
    """
    if packed_attention.fits(query, key, value):
        return packed_attention.attend(query, key, value, starts, window)
    lengths = [end - begin for begin, end in pairwise(starts)]
    if len(set(lengths)) == 1:  # equal lengths: one call for all sequences
        q, k, v = (t.unflatten(0, (-1, lengths[0])) for t in (query, key, value))
        return _causal_attention(q, k, v, window).flatten(0, 1)
    # Split, not sliced: the gradient of a slice is as large as the whole tensor.
    sequences = zip(*(t.split(lengths) for t in (query, key, value)), strict=True)
    parts = [_causal_attention(q[None], k[None], v[None], window)[0] for q, k, v in sequences]
    return torch.cat(parts)


def cached_attention(
    query: Tensor, key: Tensor, value: Tensor, window: int | None = None
) -> Tensor:
    """Attention of the newest tokens of one sequence over its whole context.

    Args:
        query: The last T tokens, [T, H, K].
        key, value: All C tokens, [C, G, K], C >= T; the last T belong to ``query``.
        window: Positions that a query sees, itself included; None sees all before it.

    Returns:
        [T, H, K], dtype of ``query``.
    """
    if window is not None:
        # Keys that no query of this step sees need not be read.
        first = max(0, key.shape[0] - query.shape[0] - window + 1)
        key, value = key[first:], value[first:]
    return _causal_attention(query[None], key[None], value[None], window)[0]


def padded_decode_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    context_lens: Tensor,
    window: int | None = None,
) -> Tensor:
    """One new token for each of S sequences in a single call, contexts padded to the longest.

    For devices where a call per sequence costs more than the padding.

    Args:
        query: [S, H, K].
        key, value: [S, C, G, K], positions past ``context_lens`` hold anything finite.
        context_lens: [S], int64.
        window: Positions that a query sees, itself included; None sees all before it.

    Returns:
        [S, H, K], dtype of ``query``.
    """
    positions = torch.arange(key.shape[1], device=key.device)
    visible = positions < context_lens[:, None]  # [S, C]
    if window is not None:
        visible &= positions >= context_lens[:, None] - window
    out = functional.scaled_dot_product_attention(
        query.unsqueeze(2),
        key.transpose(1, 2),
        value.transpose(1, 2),
        attn_mask=visible[:, None, None],
        enable_gqa=query.shape[1] != key.shape[2],
    )
    return out.squeeze(2)


def _causal_attention(query: Tensor, key: Tensor, value: Tensor, window: int | None) -> Tensor:
    """Attention [B, T, H, K] over [B, C, G, K], query t standing at position C - T + t."""
    num_new, context = query.shape[1], key.shape[1]
    needs_window = window is not None and context > window
    is_square = num_new == context
    if num_new == 1 and not needs_window:
        return _decode_attention(query, key, value)
    mask = None
    if needs_window or not is_square:
        mask = _visible(num_new, context, window if needs_window else None, query.device)
    out = functional.scaled_dot_product_attention(
        query.transpose(1, 2),
        key.transpose(1, 2),
        value.transpose(1, 2),
        attn_mask=mask,
        is_causal=mask is None,
        enable_gqa=query.shape[2] != key.shape[2],
    )
    return out.transpose(1, 2)


def _decode_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """One query per sequence: its heads of one KV group stand in as that group's queries."""
    batch, _, heads, head_dim = query.shape
    groups = key.shape[2]
    out = functional.scaled_dot_product_attention(
        query.reshape(batch, groups, heads // groups, head_dim),
        key.transpose(1, 2),
        value.transpose(1, 2),
    )
    return out.reshape(batch, 1, heads, head_dim)


def _visible(num_new: int, context: int, window: int | None, device: torch.device) -> Tensor:
    positions = torch.arange(context - num_new, context, device=device)
    distance = positions[:, None] - torch.arange(context, device=device)
    return distance >= 0 if window is None else (distance >= 0) & (distance < window)


route = reference.route
