"""Which tokens each expert gets more often than its share of all tokens would explain.

The most frequent tokens of an expert are those of the language: commas everywhere. So tokens are
ranked by how surprising their visits are: visits * ln(visits / expected), where ``expected`` is
what the token would give an expert of this load (a term of the G-test). Rare tokens cannot
score high.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class TopToken:
    """One token among those that an expert gets remarkably often."""

    token_id: int
    """The token."""
    text: str
    """Its text, or its id where the model has no tokenizer."""
    visits: int
    """Times that it visited the expert."""
    share: float
    """Share of its occurrences that visited the expert."""


class TokenVisits:
    """Visits by token id, layer and expert: 4 V L E bytes, 33 MB for 8x7B.

    Args:
        vocab_size: V.
        num_layers: L.
        num_experts: E.
    """

    def __init__(self, *, vocab_size: int, num_layers: int, num_experts: int) -> None:
        self._shape = (vocab_size, num_layers, num_experts)
        self._visits = torch.zeros(vocab_size * num_layers * num_experts, dtype=torch.int32)
        self._occurrences = torch.zeros(vocab_size, dtype=torch.int64)

    @property
    def num_distinct(self) -> int:
        """Token ids that occurred."""
        return int((self._occurrences > 0).sum())

    def add(self, token_ids: Sequence[int], visited: Tensor) -> None:
        """Add one sequence: T ids and which experts they visited, [T, L, E], bool."""
        _, layers, experts = self._shape
        ids = torch.tensor(token_ids)
        self._occurrences += ids.bincount(minlength=len(self._occurrences))
        rows, layer, expert = visited.nonzero(as_tuple=True)
        places = (ids[rows] * layers + layer) * experts + expert
        self._visits.index_add_(0, places, torch.ones(len(places), dtype=torch.int32))

    def top(self, layer: int, *, count: int, name: Callable[[int], str]) -> list[list[TopToken]]:
        """Return the most remarkable tokens of each expert of a layer, best first.

        Args:
            layer: From 0.
            count: Most tokens per expert.
            name: Returns the text of a token id.

        Returns:
            E lists; one is shorter where fewer tokens visit the expert more often than expected.
        """
        visits = self._visits.view(self._shape)[:, layer].double()  # [V, E]
        load = visits.sum(dim=0) / visits.sum().clamp_min(1)
        expected = visits.sum(dim=1, keepdim=True) * load
        ratio = torch.where(visits > 0, visits / expected.clamp_min(1e-300), 1.0)
        scores, ids = (visits * ratio.log()).topk(min(count, len(visits)), dim=0)
        return [
            [
                self._describe(token_id, int(visits[token_id, expert]), name)
                for token_id, score in zip(
                    ids[:, expert].tolist(), scores[:, expert].tolist(), strict=True
                )
                if score > 0
            ]
            for expert in range(visits.shape[1])
        ]

    def _describe(self, token_id: int, visits: int, name: Callable[[int], str]) -> TopToken:
        share = visits / int(self._occurrences[token_id])
        return TopToken(token_id=token_id, text=name(token_id), visits=visits, share=share)
