"""Watches the routers of a run: how evenly experts are used, and how surely they are chosen.

Between two lines of the log it counts, per layer, the share of assignments of each expert and the
mean entropy of the router. An even load is 1/E everywhere and an entropy of ln E means that the
router does not care. An expert that gets far less than its share learns nothing and is named:
that is the failure that the load-balancing loss is there to prevent
(Switch Transformers, arXiv:2101.03961, section 2.2).
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mixtral.model.router_trace import RouterRecorder
from mixtral.train.parallel import ParallelContext

# Fewer expected assignments than this say nothing about an expert.
_LEAST_EXPECTED = 32

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class RouterSummary:
    """What the routers did since the last summary."""

    expert_load: list[list[float]]
    """Share of the assignments of each expert, [L][E]; each layer sums to 1."""
    router_entropy: list[float]
    """Mean entropy of the router's softmax over all experts, per layer, in nats; at most ln E."""


class RouterMonitor:
    """Counts routing decisions over some steps.

    Args:
        num_experts: E.
        starving_load: Warn of an expert whose load is below this share of an even load; 0 never.
    """

    def __init__(self, num_experts: int, *, starving_load: float) -> None:
        self._num_experts = num_experts
        self._starving_load = starving_load
        self._counts: Tensor | None = None  # [L, E]
        self._entropy: Tensor | None = None  # [L], summed over tokens
        self._tokens = 0.0
        self._warned: set[tuple[int, int]] = set()

    def observe(self, recorder: RouterRecorder, scale: float = 1.0) -> None:
        """Count one forward pass; must come before a backward pass that runs layers again.

        Args:
            recorder: What the routers did.
            scale: 0 for a pass that only keeps step with other processes: it counts nothing, but
                must be told of, because ``summarize`` adds up over all processes.
        """
        with torch.no_grad():
            counts, entropy = _measure(recorder.router_logits, recorder.expert_ids)
        counts, entropy = scale * counts, scale * entropy
        self._counts = counts if self._counts is None else self._counts + counts
        self._entropy = entropy if self._entropy is None else self._entropy + entropy
        self._tokens += scale * recorder.router_logits[0].shape[0]

    def summarize(self, step: int, context: ParallelContext | None = None) -> RouterSummary | None:
        """Return what was seen since the last call and begin anew; None if nothing was.

        An expert that starves is logged once, until it has recovered.
        """
        if self._counts is None or self._entropy is None:
            return None
        tokens = torch.tensor(self._tokens, dtype=torch.float64)
        if context is not None:
            for seen in (self._counts, self._entropy, tokens):
                context.sum_tensor(seen)
        load = (self._counts / self._counts.sum(1, keepdim=True)).tolist()
        entropy = (self._entropy / tokens).tolist()
        self._warn(load, float(self._counts[0].sum()), step)
        self._counts = self._entropy = None
        self._tokens = 0.0
        return RouterSummary(expert_load=load, router_entropy=entropy)

    def _warn(self, load: list[list[float]], assignments: float, step: int) -> None:
        if assignments / self._num_experts < _LEAST_EXPECTED:
            return
        least = self._starving_load / self._num_experts
        for layer, shares in enumerate(load):
            for expert, share in enumerate(shares):
                if share >= 2 * least:  # not at the limit itself, around which it would flicker
                    self._warned.discard((layer, expert))
                elif share < least and (layer, expert) not in self._warned:
                    self._warned.add((layer, expert))
                    logger.warning(
                        "step %d: expert %d of layer %d starves: it got %.2f %% of the tokens' "
                        "choices, an even share is %.2f %%; raise load_balancing_coef, or lower "
                        "learning_rate",
                        step + 1,
                        expert,
                        layer,
                        100 * share,
                        100 / self._num_experts,
                    )


def _measure(
    router_logits: Sequence[Tensor], expert_ids: Sequence[Tensor]
) -> tuple[Tensor, Tensor]:
    """Return assignments [L, E] and summed entropies [L], float64, on the CPU."""
    counts = torch.stack(
        [
            torch.bincount(ids.flatten(), minlength=logits.shape[1])
            for ids, logits in zip(expert_ids, router_logits, strict=True)
        ]
    )
    log_probs = torch.stack([logits.detach().log_softmax(-1) for logits in router_logits])
    entropy = -(log_probs.exp() * log_probs).sum((1, 2))
    return counts.double().cpu(), entropy.double().cpu()
