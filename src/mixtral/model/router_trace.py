"""What the routers of one forward pass decided, for reports and for the load-balancing loss."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class RouterTrace:
    """Routing of T tokens in L layers over E experts, A of them per token."""

    expert_ids: Tensor
    """Chosen experts, best first, [T, L, A], int64."""
    routing_weights: Tensor
    """Their weights, each row sums to 1, [T, L, A], float32."""
    router_logits: Tensor
    """Logits of all experts, [T, L, E], float32."""


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
