"""The plain specification: one short PyTorch function per operation of the model.

Each function is the formula of the paper and nothing else: no caches, no grouping, no fused
operators, loops where a loop is the clearest. Every faster version in this package is tested
against these; they are also the fallback that always works.

Dimension letters: T tokens, S sequences, D hidden, H query heads, G KV heads, K head dim,
E experts, A experts per token, F expert FFN dim. Tokens of several sequences lie flat, one after
the other; ``starts`` gives the sequence boundaries as S + 1 offsets into T.

Sources: RMSNorm, arXiv:1910.07467; rotary embedding, arXiv:2104.09864; grouped-query attention,
arXiv:2305.13245; SwiGLU, arXiv:2002.05202; Mixtral, arXiv:2401.04088, section 2.
"""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Scale each row to unit root mean square, then by a learned weight.

    Args:
        x: Token states, [T, D], any float dtype; the mean is taken in float32.
        weight: [D], dtype of ``x``.
        eps: Added to the mean square.

    Returns:
        [T, D], dtype of ``x``.
    """
    wide = x.float()
    scale = torch.rsqrt(wide.square().mean(dim=-1, keepdim=True) + eps)
    return (wide * scale).to(x.dtype) * weight


def rotary_tables(positions: Tensor, head_dim: int, theta: float) -> tuple[Tensor, Tensor]:
    """Return cosine and sine of every position and frequency.

    Frequency i is theta ** (-2 i / K) (arXiv:2104.09864, section 3.2.2).

    Args:
        positions: [T], integer.
        head_dim: K, even.
        theta: Base of the frequencies.

    Returns:
        Two tensors [T, K / 2], float32.
    """
    exponents = torch.arange(0, head_dim, 2, dtype=torch.float32, device=positions.device)
    frequencies = 1.0 / theta ** (exponents / head_dim)
    angles = positions.float()[:, None] * frequencies
    return angles.cos(), angles.sin()


def apply_rotary(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn channel i of each head together with channel i + K / 2 (Hugging Face's split halves).

    Args:
        x: Queries or keys, [T, H, K].
        cos, sin: [T, K / 2], float32.

    Returns:
        [T, H, K], dtype of ``x``.
    """
    first, second = x.float().chunk(2, dim=-1)
    cos, sin = cos[:, None], sin[:, None]
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1).to(x.dtype)


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    starts: Sequence[int],
    window: int | None = None,
) -> Tensor:
    """Causal grouped-query attention inside each sequence, by the plain formula.

    Args:
        query: [T, H, K].
        key, value: [T, G, K], with H a multiple of G.
        starts: Sequence boundaries, S + 1 offsets from 0 to T.
        window: Positions that a query sees, itself included; None sees all before it.

    Returns:
        [T, H, K], dtype of ``query``. Scores and softmax are float32.
    """
    groups = query.shape[1] // key.shape[1]
    out = torch.empty_like(query)
    for begin, end in pairwise(starts):
        q = query[begin:end].float()
        k = key[begin:end].float().repeat_interleave(groups, dim=1)
        v = value[begin:end].float().repeat_interleave(groups, dim=1)
        scores = torch.einsum("qhk,chk->hqc", q, k) / math.sqrt(query.shape[-1])
        distance = torch.arange(end - begin)[:, None] - torch.arange(end - begin)
        hidden = distance < 0 if window is None else (distance < 0) | (distance >= window)
        scores = scores.masked_fill(hidden.to(scores.device), float("-inf"))
        out[begin:end] = torch.einsum("hqc,chk->qhk", scores.softmax(dim=-1), v).to(out.dtype)
    return out


def swiglu(x: Tensor, w1: Tensor, w2: Tensor, w3: Tensor) -> Tensor:
    """One expert: w2 (silu(w1 x) * (w3 x)) (arXiv:2002.05202, equation 6).

    Args:
        x: [T, D].
        w1, w3: [F, D].
        w2: [D, F].

    Returns:
        [T, D], dtype of ``x``.
    """
    return (torch.nn.functional.silu(x @ w1.T) * (x @ w3.T)) @ w2.T


def route(router_logits: Tensor, num_experts_per_tok: int) -> tuple[Tensor, Tensor]:
    """Choose the best experts of each token and weigh them by a softmax over their logits alone.

    This equals a softmax over all experts, renormalised over the chosen ones
    (arXiv:2401.04088, section 2.1).

    Args:
        router_logits: [T, E], float32.
        num_experts_per_tok: A, with 1 <= A <= E.

    Returns:
        Routing weights, [T, A], float32, largest first, and expert ids, [T, A], int64.

    Raises:
        ValueError: A is outside 1..E.
    """
    if not 1 <= num_experts_per_tok <= router_logits.shape[-1]:
        raise ValueError(
            f"num_experts_per_tok is {num_experts_per_tok}; "
            f"it must be from 1 to {router_logits.shape[-1]}."
        )
    best, expert_ids = router_logits.topk(num_experts_per_tok, dim=-1)
    return best.softmax(dim=-1), expert_ids


def moe(
    x: Tensor,
    gate: Tensor,
    w1: Sequence[Tensor],
    w2: Sequence[Tensor],
    w3: Sequence[Tensor],
    num_experts_per_tok: int,
) -> Tensor:
    """Send each token to its best experts and add their outputs, weighted by the router.

    One token at a time, as in the paper; no token is dropped.

    Args:
        x: Token states, [T, D].
        gate: Router weight, [E, D]; logits are float32.
        w1, w3: E tensors [F, D], or one stacked [E, F, D].
        w2: E tensors [D, F], or one stacked [E, D, F].
        num_experts_per_tok: A, with 1 <= A <= E.

    Returns:
        [T, D], dtype of ``x``.

    Raises:
        ValueError: A is outside 1..E.
    """
    routing_weights, expert_ids = route(x.float() @ gate.float().T, num_experts_per_tok)
    out = torch.zeros_like(x)
    for token in range(x.shape[0]):
        state = x[token : token + 1]
        total = torch.zeros_like(state, dtype=torch.float32)
        for weight, expert in zip(routing_weights[token], expert_ids[token].tolist(), strict=True):
            total += weight * swiglu(state, w1[expert], w2[expert], w3[expert]).float()
        out[token] = total.to(x.dtype)[0]
    return out
