"""What runs in the next step: plain bookkeeping, no tensors.

Each step has a budget of tokens. Sequences that already run come first, oldest first: one token
for those that decode, the next chunk of the prompt for those still in prefill. What budget is
left admits waiting sequences, first come first served. When the KV cache is full, the youngest
running sequence is preempted: it loses its blocks, goes back to the head of the queue and later
runs its tokens again; its answer does not change.
"""

from collections import deque
from dataclasses import dataclass

from mixtral.engine.block_manager import BlockManager
from mixtral.engine.sequence import Sequence


@dataclass(frozen=True, kw_only=True, slots=True)
class ScheduledSequence:
    """A sequence and how many of its tokens this step runs."""

    sequence: Sequence
    """The sequence."""
    num_new_tokens: int
    """Tokens to run, from ``num_computed_tokens`` on."""


class Scheduler:
    """Decides which sequences run in each step.

    Args:
        block_manager: Owner of the cache blocks.
        max_num_seqs: Most sequences in one step.
        max_num_batched_tokens: Most tokens in one step.
    """

    def __init__(
        self,
        block_manager: BlockManager,
        *,
        max_num_seqs: int,
        max_num_batched_tokens: int,
    ) -> None:
        self._blocks = block_manager
        self._max_num_seqs = max_num_seqs
        self._max_num_batched_tokens = max_num_batched_tokens
        self._waiting: deque[Sequence] = deque()
        self._running: list[Sequence] = []
        self.num_preemptions = 0

    @property
    def has_unfinished(self) -> bool:
        """Whether anything runs or waits."""
        return bool(self._waiting or self._running)

    def add(self, sequence: Sequence) -> None:
        """Put a new sequence at the end of the queue."""
        self._waiting.append(sequence)

    def schedule(self) -> list[ScheduledSequence]:
        """Choose the work of the next step and give it its blocks."""
        budget = self._max_num_batched_tokens
        scheduled: list[ScheduledSequence] = []
        for sequence in list(self._running):
            if sequence not in self._running or budget == 0:
                continue
            count = min(budget, sequence.num_uncomputed_tokens)
            if self._make_room(sequence, count):
                scheduled.append(ScheduledSequence(sequence=sequence, num_new_tokens=count))
                budget -= count
        while self._waiting and budget and len(self._running) < self._max_num_seqs:
            sequence = self._waiting[0]
            count = min(budget, sequence.num_uncomputed_tokens)
            if not self._blocks.can_allocate(sequence, sequence.num_computed_tokens + count):
                break
            self._waiting.popleft()
            self._running.append(sequence)
            self._blocks.allocate(sequence, sequence.num_computed_tokens + count)
            scheduled.append(ScheduledSequence(sequence=sequence, num_new_tokens=count))
            budget -= count
        return scheduled

    def finish(self, sequence: Sequence) -> None:
        """Take a finished or cancelled sequence out and free its blocks."""
        if sequence in self._running:
            self._running.remove(sequence)
        elif sequence in self._waiting:
            self._waiting.remove(sequence)
        self._blocks.free(sequence)

    def _make_room(self, sequence: Sequence, count: int) -> bool:
        """Give a running sequence its blocks; False when it was preempted itself."""
        wanted = sequence.num_computed_tokens + count
        while not self._blocks.can_allocate(sequence, wanted):
            youngest = self._running.pop()
            self._blocks.free(youngest)
            youngest.num_computed_tokens = 0
            self._waiting.appendleft(youngest)
            self.num_preemptions += 1
            if youngest is sequence:
                return False
        self._blocks.allocate(sequence, wanted)
        return True
