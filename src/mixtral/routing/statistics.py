"""From sums to the numbers of the report; each function says what its number means.

Entropies are in nats. With E experts an entropy is at most ln E (2.08 for 8): a router whose
softmax has it cannot tell the experts apart, a load that has it is even.

Source of the repetition numbers: Mixtral of Experts, arXiv:2401.04088, section 5 and table 5.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from mixtral.routing.counts import RouterCounts


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerStatistics:
    """How one layer routed the tokens of a text."""

    load: list[float]
    """Share of the token-expert pairs that each expert got, E values with the sum 1."""
    first_load: list[float]
    """Share of the tokens whose best expert it was, E values with the sum 1."""
    imbalance: float
    """Largest load over the mean load: 1 is even, E is everything to one expert."""
    variation: float
    """Standard deviation of the loads over their mean: 0 is even."""
    load_entropy: float
    """Entropy of ``load``, in nats."""
    router_entropy: float
    """Mean over tokens of the entropy of the softmax over all experts, in nats."""
    mean_probability: list[float]
    """Mean over tokens of that softmax, E values with the sum 1."""
    same_first: float | None
    """Share of consecutive tokens with the same best expert; None without a pair."""
    same_first_by_load: float
    """What ``same_first`` would be if each token drew its best expert from ``first_load``."""
    same_any: float | None
    """Share of consecutive tokens with at least one expert in common."""
    together: list[list[float]]
    """Share of the tokens of expert i that also visited expert j, E lists of E; 1 where i = j."""

    def as_dict(self) -> dict[str, Any]:
        """Return all fields."""
        return asdict(self)


def layer_statistics(counts: RouterCounts) -> list[LayerStatistics]:
    """Return the statistics of each layer, L entries.

    Args:
        counts: Sums over at least one token.
    """
    tokens, pairs = counts.num_tokens, counts.num_pairs
    found = []
    for layer, visits in enumerate(counts.visits):
        load = _shares(visits)
        first_load = _shares(counts.first[layer])
        together = counts.together[layer] / visits.clamp_min(1)[:, None]
        found.append(
            LayerStatistics(
                load=load.tolist(),
                first_load=first_load.tolist(),
                imbalance=imbalance(load),
                variation=variation(load),
                load_entropy=entropy(load),
                router_entropy=float(counts.entropy[layer]) / tokens,
                mean_probability=(counts.probability[layer] / tokens).tolist(),
                same_first=int(counts.same_first[layer]) / pairs if pairs else None,
                same_first_by_load=float(first_load.square().sum()),
                same_any=int(counts.overlap[layer]) / pairs if pairs else None,
                together=together.tolist(),
            )
        )
    return found


def imbalance(load: Tensor) -> float:
    """Return the largest of E loads over their mean."""
    return float(load.max() / load.double().mean())


def variation(load: Tensor) -> float:
    """Return the standard deviation of E loads over their mean (coefficient of variation)."""
    wide = load.double()
    return float(wide.std(correction=0) / wide.mean())


def entropy(shares: Tensor) -> float:
    """Return the entropy of shares that sum to 1, in nats."""
    return float(torch.special.entr(shares.double()).sum())


def random_same_first(num_experts: int) -> float:
    """Return how often consecutive tokens share their best expert if all are drawn evenly.

    >>> random_same_first(8)
    0.125
    """
    return 1 / num_experts


def random_same_any(num_experts: int, num_experts_per_tok: int) -> float:
    """Return how often consecutive tokens share any expert if all are drawn evenly.

    Two draws of A from E have nothing in common with probability C(E - A, A) / C(E, A). The
    paper rounds the value for 8 and 2 to 46 %.

    >>> round(random_same_any(8, 2), 4)
    0.4643
    """
    experts, chosen = num_experts, num_experts_per_tok
    return 1 - math.comb(experts - chosen, chosen) / math.comb(experts, chosen)


def mutual_information(visits: Tensor) -> list[float]:
    """Return how much the group of a token tells about its experts, in nats, per layer.

    0 where every group has the same load; at most the entropy of the load. Few tokens per group
    make it larger than it is, by about (groups - 1)(E - 1) / 2 per token-expert pair.

    Args:
        visits: Visits by group, [groups, L, E].
    """
    joint = visits.double() / visits.sum(dim=(0, 2), keepdim=True).clamp_min(1)
    by_group, by_expert = joint.sum(dim=2, keepdim=True), joint.sum(dim=0, keepdim=True)
    expected = by_group * by_expert
    ratio = torch.where(joint > 0, joint / expected.clamp_min(1e-300), 1.0)
    information: list[float] = (joint * ratio.log()).sum(dim=(0, 2)).tolist()
    return information


def group_loads(visits: Tensor) -> list[list[list[float]]]:
    """Return the load within each group, groups x L x E; zeros where a group has no token."""
    loads: list[list[list[float]]] = _shares(visits).tolist()
    return loads


def mean(values: Sequence[float]) -> float:
    """Return the mean of some values."""
    return math.fsum(values) / len(values)


def _shares(visits: Tensor) -> Tensor:
    wide = visits.double()
    return wide / wide.sum(dim=-1, keepdim=True).clamp_min(1)
