"""The adapter of a layer's experts as transformers 5 and PEFT hold it: all experts in one pair.

transformers 5 keeps the experts of a layer in two parameters, gate_up_proj [E, 2F, D] (rows of w1,
then rows of w3) and down_proj [E, D, F]. PEFT adapts such a parameter with one pair of 2-D
matrices for all experts (``ParamWrapper``, huggingface/peft 0.21.2, tuners/lora/layer.py):

    A [E * R, in]     row e * R + i is row i of expert e's A
    B [out, R * E]    column i * E + e is column i of expert e's B

with the same rank R for every expert. Separate w1 and w3 of rank r become one pair of rank 2r
whose A is theirs one below the other and whose B is block-diagonal, which is exact:

    [w1]   [B1  0] [A1]
    [w3] + [ 0 B3] [A3]

Smaller ranks, and experts without an adapter, are filled up with zeros. Back again, a B of that
form falls apart into w1 and w3; any other one is w1 and w3 that share A. Components of which A and
B are zero are dropped, so what was packed here comes back as it was. PEFT has one scale per pair:
where ours differ, B takes the difference.

Letters: E experts, F width of an expert, D hidden, R rank.
"""

from collections import Counter
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from mixtral.model.adapter import LoraMatrices


def pack_experts(
    experts: Sequence[Mapping[str, LoraMatrices]],
    linears: Sequence[str],
    shapes: Mapping[str, tuple[int, int]],
) -> LoraMatrices:
    """Join the matrices of one layer's experts into the pair of one parameter.

    Args:
        experts: For each expert, linear -> matrices; a linear may be missing, not all of them.
        linears: The linears whose rows the parameter holds, in order: w1 and w3, or w2 alone.
        shapes: Linear -> (out, in).

    Returns:
        A [E * R, in] and B [out, R * E], float32, with the most common scale.
    """
    present = [e[linear] for e in experts for linear in linears if linear in e]
    scale = Counter(matrices.scale for matrices in present).most_common(1)[0][0]
    rank = max(matrices.rank for matrices in present)
    a_parts, b_parts = [], []
    for expert in experts:
        padded = [_padded(expert.get(name), shapes[name], rank, scale) for name in linears]
        a_parts.append(torch.cat([a for a, _ in padded]))
        b_parts.append(torch.block_diag(*(b for _, b in padded)))
    return LoraMatrices(a=torch.cat(a_parts), b=torch.stack(b_parts, dim=2).flatten(1), scale=scale)


def unpack_experts(
    pair: LoraMatrices, linears: Sequence[str], num_experts: int
) -> list[dict[str, LoraMatrices]]:
    """Take the pair of one parameter apart; the inverse of ``pack_experts``.

    Args:
        pair: A [E * R, in] and B [out, R * E], with out a multiple of the number of linears.
        linears: The linears whose rows the parameter holds, in order.
        num_experts: E.

    Returns:
        For each expert, linear -> matrices, float32; a linear that gains nothing is left out.
    """
    a = pair.a.float().unflatten(0, (num_experts, -1))  # [E, R, in]
    b = pair.b.float().unflatten(1, (-1, num_experts)).permute(2, 0, 1)  # [E, out, R]
    rows = b.chunk(len(linears), dim=1)
    rank = a.shape[1]
    parts = [slice(0, rank)] * len(linears)
    if len(linears) == 2 and rank % 2 == 0:
        first, second = slice(0, rank // 2), slice(rank // 2, rank)
        if not (rows[0][..., second].any() or rows[1][..., first].any()):
            parts = [first, second]
    experts: list[dict[str, LoraMatrices]] = []
    for e in range(num_experts):
        found: dict[str, LoraMatrices] = {}
        for linear, part, block in zip(linears, parts, rows, strict=True):
            own_a, own_b = a[e, part], block[e, :, part]
            used = own_a.any(dim=1) | own_b.any(dim=0)
            if used.any():
                found[linear] = LoraMatrices(
                    a=own_a[used], b=own_b[:, used].contiguous(), scale=pair.scale
                )
        experts.append(found)
    return experts


def _padded(
    matrices: LoraMatrices | None, shape: tuple[int, int], rank: int, scale: float
) -> tuple[Tensor, Tensor]:
    a, b = torch.zeros(rank, shape[1]), torch.zeros(shape[0], rank)
    if matrices is not None:
        a[: matrices.rank] = matrices.a
        b[:, : matrices.rank] = matrices.b
        if matrices.scale != scale:
            b *= matrices.scale / scale
    return a, b
