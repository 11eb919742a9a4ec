"""Counts how often each expert was visited, and keeps the visits of requests that want them."""

import numpy as np

from mixtral.config import ModelConfig
from mixtral.engine.scheduler import ScheduledSequence
from mixtral.engine.sequence import Sequence
from mixtral.model import RouterTrace
from mixtral.model.router_trace import ExpertLoad
from mixtral.outputs import TokenRoute


class ExpertCounter:
    """Load per layer and expert, and the routing of single sequences.

    Args:
        config: Geometry of the model.
        counts_all: Whether to count the visits of every token.
    """

    def __init__(self, config: ModelConfig, *, counts_all: bool) -> None:
        self._has_router = not config.is_dense
        shape = (config.num_hidden_layers, config.num_local_experts)
        self._load: ExpertLoad = np.zeros(shape, dtype=np.int64)
        self.step_load: ExpertLoad | None = None
        """Where the model writes the visits of a step; None where nobody counts them."""
        if counts_all and self._has_router:
            self.step_load = np.zeros_like(self._load)
        self._routes: dict[int, list[TokenRoute]] = {}

    def needs_trace(self, scheduled: list[ScheduledSequence]) -> bool:
        """Whether the next step has to report the routing of its tokens."""
        return self._has_router and any(item.sequence.needs_routing for item in scheduled)

    def note(self, scheduled: list[ScheduledSequence], trace: RouterTrace | None) -> None:
        """Take the routing of a step, before its tokens are noted as computed."""
        if self.step_load is not None:
            self._load += self.step_load
        if trace is None:
            return
        row = 0
        for item in scheduled:
            if item.sequence.needs_routing:
                self._keep(item, trace, row)
            row += item.num_new_tokens + len(item.guess)

    def take(self, sequence: Sequence) -> list[TokenRoute]:
        """Return the routing of the tokens that a sequence ran since the last call."""
        return self._routes.pop(sequence.sequence_id, [])

    def forget(self, sequence: Sequence) -> None:
        """Drop what is kept of a sequence that has ended."""
        self._routes.pop(sequence.sequence_id, None)

    def load(self) -> list[list[int]]:
        """Return the visits per expert, L lists of E; empty where they are not counted."""
        return [] if self.step_load is None else self._load.tolist()

    def _keep(self, item: ScheduledSequence, trace: RouterTrace, row: int) -> None:
        sequence = item.sequence
        begin = sequence.num_computed_tokens
        end = begin + item.num_new_tokens
        # After a preemption tokens run again; their experts were reported before.
        first = max(begin, sequence.num_routed_tokens)
        rows = slice(row + first - begin, row + item.num_new_tokens)
        routes = self._routes.setdefault(sequence.sequence_id, [])
        for token_id, expert_ids, weights in zip(
            sequence.token_slice(first, end),
            trace.expert_ids[rows].tolist(),
            trace.routing_weights[rows].tolist(),
            strict=True,
        ):
            route = TokenRoute(token_id=token_id, expert_ids=expert_ids, routing_weights=weights)
            routes.append(route)
        sequence.num_routed_tokens = max(end, sequence.num_routed_tokens)
