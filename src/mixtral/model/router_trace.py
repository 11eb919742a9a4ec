"""What the routers of one forward pass decided, for reports and for the load-balancing loss."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

ExpertLoad = NDArray[np.int64]
"""Visits per layer and expert, [L, E]."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RouterTrace:
    """Routing of T tokens in L layers over E experts, A of them per token."""

    expert_ids: Tensor
    """Chosen experts, best first, [T, L, A], int64; -1 where a layer chooses fewer than A."""
    routing_weights: Tensor
    """Their weights, each row sums to 1, [T, L, A], float32."""
    router_logits: Tensor
    """Logits of all experts, [T, L, E], float32."""

    def expert_load(self) -> ExpertLoad:
        """Return how often each expert was visited, [L, E], int64."""
        layers, experts = self.router_logits.shape[1:]
        ids = self.expert_ids.cpu().numpy()
        places = ids + np.arange(layers)[None, :, None] * experts
        visits = np.bincount(places[ids >= 0], minlength=layers * experts)
        return visits.reshape(layers, experts)


class RouterRecorder:
    """Collects the routing of each layer during a forward pass."""

    def __init__(self) -> None:
        self._layers: list[tuple[Tensor, Tensor, Tensor]] = []

    def add(self, expert_ids: Tensor, routing_weights: Tensor, router_logits: Tensor) -> None:
        """Note one layer: [T, A], [T, A] and [T, E]."""
        self._layers.append((expert_ids, routing_weights, router_logits))

    @property
    def router_logits(self) -> list[Tensor]:
        """Logits of each layer so far, L tensors [T, E], with their gradients."""
        return [logits for _, _, logits in self._layers]

    @property
    def expert_ids(self) -> list[Tensor]:
        """Chosen experts of each layer so far, L tensors [T, A]."""
        return [expert_ids for expert_ids, _, _ in self._layers]

    def trace(self) -> RouterTrace:
        """Return what was noted, layers stacked along dimension 1."""
        expert_ids, routing_weights, router_logits = zip(*self._layers, strict=True)
        return RouterTrace(
            expert_ids=torch.stack(expert_ids, dim=1),
            routing_weights=torch.stack(routing_weights, dim=1),
            router_logits=torch.stack(router_logits, dim=1),
        )
