"""Sums over the routing of many tokens, from which every number of the report follows.

A trace of 1,000 tokens of 8x7B holds 256,000 router logits; a report on a million tokens cannot
keep them. So each sequence is added to sums of a fixed size as it comes, and dropped. Sums of
different texts add up to those of all texts.

Everything is tensor arithmetic; the cost is far below that of the model. Dimension letters: T
tokens of a sequence, L layers, E experts, A experts per token, K kinds of token, B buckets of
positions.
"""

from typing import Self

import torch
from torch import Tensor

from mixtral.model import RouterTrace

POSITION_STARTS = (0, 1, 4, 16, 64, 256, 1024, 4096, 16384)
"""First position of each bucket; the first token of a sequence, ``<s>``, is alone in its own."""


class RouterCounts:
    """Sums over the tokens of one text, all on the CPU.

    Args:
        num_layers: L.
        num_experts: E.
        num_kinds: K, kinds of token.

    Attributes:
        num_tokens: Tokens added.
        num_pairs: Pairs of consecutive tokens in one sequence.
        visits: Tokens that each expert computed, [L, E], int64.
        first: Tokens whose best expert it was, [L, E], int64.
        together: Tokens that visited both experts, [L, E, E], int64; visits on the diagonal.
        same_first: Pairs with the same best expert, [L], int64.
        overlap: Pairs with at least one expert in common, [L], int64.
        entropy: Sum over tokens of the entropy of the router's softmax, in nats, [L], float64.
        probability: Sum over tokens of the router's softmax, [L, E], float64.
        kind_tokens: Tokens of each kind, [K], int64.
        kind_visits: ``visits`` by kind, [K, L, E], int64.
        position_tokens: Tokens in each bucket of positions, [B], int64.
        position_visits: ``visits`` by bucket, [B, L, E], int64.
    """

    def __init__(self, *, num_layers: int, num_experts: int, num_kinds: int) -> None:
        layers, experts, buckets = num_layers, num_experts, len(POSITION_STARTS)
        self.num_tokens = 0
        self.num_pairs = 0
        self.visits = _integers(layers, experts)
        self.first = _integers(layers, experts)
        self.together = _integers(layers, experts, experts)
        self.same_first = _integers(layers)
        self.overlap = _integers(layers)
        self.entropy = torch.zeros(layers, dtype=torch.float64)
        self.probability = torch.zeros(layers, experts, dtype=torch.float64)
        self.kind_tokens = _integers(num_kinds)
        self.kind_visits = _integers(num_kinds, layers, experts)
        self.position_tokens = _integers(buckets)
        self.position_visits = _integers(buckets, layers, experts)

    def add(self, trace: RouterTrace, kinds: Tensor) -> None:
        """Add one whole sequence.

        Args:
            trace: Its routing, from position 0 on, on any device. Where a layer uses fewer experts
                than another, its free places in ``expert_ids`` are -1.
            kinds: Kind of each token, [T], int64, from 0 to K - 1.
        """
        expert_ids = trace.expert_ids.cpu()  # [T, L, A]
        visited = visits_of(expert_ids, num_experts=self.visits.shape[1])  # [T, L, E]
        tokens = len(visited)
        best = expert_ids[..., 0]  # [T, L]
        self.num_tokens += tokens
        self.num_pairs += tokens - 1
        self.visits += visited.sum(dim=0)
        self.first += visits_of(best[..., None], num_experts=visited.shape[2]).sum(dim=0)
        self.together += _count_together(visited)
        self.same_first += (best[1:] == best[:-1]).sum(dim=0)
        self.overlap += (visited[1:] & visited[:-1]).any(dim=2).sum(dim=0)
        self._add_softmax(trace.router_logits.cpu())
        starts = torch.tensor(POSITION_STARTS)
        buckets = torch.bucketize(torch.arange(tokens), starts, right=True) - 1
        _add_groups(self.kind_tokens, self.kind_visits, kinds, visited)
        _add_groups(self.position_tokens, self.position_visits, buckets, visited)

    def __iadd__(self, other: Self) -> Self:
        """Add the sums of another text, in place."""
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)
        return self

    def _add_softmax(self, router_logits: Tensor) -> None:
        log_probs = router_logits.double().log_softmax(dim=-1)  # [T, L, E]
        probs = log_probs.exp()
        # A probability of 0 has the logarithm -inf and adds nothing to the entropy.
        self.entropy -= (probs * log_probs.clamp_min(-1e30)).sum(dim=(0, 2))
        self.probability += probs.sum(dim=0)


def visits_of(expert_ids: Tensor, *, num_experts: int) -> Tensor:
    """Return which experts each token visits, [T, L, E], bool, for ids [T, L, A]; -1 is none."""
    tokens, layers, _ = expert_ids.shape
    visited = torch.zeros(tokens, layers, num_experts + 1, dtype=torch.bool)
    free = expert_ids < 0
    visited.scatter_(2, expert_ids.masked_fill(free, num_experts), True)
    return visited[..., :num_experts]


def _count_together(visited: Tensor) -> Tensor:
    # Counts below 2^24 are exact in float32, and a sequence is shorter than that.
    by_layer = visited.permute(1, 0, 2).float()  # [L, T, E]
    return (by_layer.transpose(1, 2) @ by_layer).round().long()


def _add_groups(tokens: Tensor, visits: Tensor, groups: Tensor, visited: Tensor) -> None:
    """Add each token to the sums of its group, in place."""
    tokens += groups.bincount(minlength=len(tokens))
    membership = torch.zeros(len(tokens), len(groups))  # [groups, T]
    membership[groups, torch.arange(len(groups))] = 1
    sums = membership @ visited.flatten(1).float()  # exact, as above
    visits += sums.round().long().view_as(visits)


def _integers(*shape: int) -> Tensor:
    return torch.zeros(shape, dtype=torch.int64)
