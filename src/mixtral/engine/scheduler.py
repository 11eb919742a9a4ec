"""What runs in the next step: plain bookkeeping, no tensors.

Each step has a budget of tokens.

1. Sequences that decode come first: one token each, and a few guessed ones where the engine
   speculates. In order of rank: priority, then age.
2. What is left is shared by prompts, those that have begun and those that wait, in chunks. Each
   gets an even share first, the short ones before the long ones, the oldest before all; what they
   leave goes to the rest in the same order. So a short question beside a document of many chunks
   waits for one chunk, not for all; and the oldest prompt always moves on.

A waiting sequence starts when the cache has room for its whole prompt beside those that are still
being read. When decoding sequences need blocks and none is free, the last in rank is preempted: it
loses its blocks, waits in its old place and later runs its tokens again; its answer is the same.
"""

from bisect import insort
from dataclasses import dataclass, field
from itertools import islice

from mixtral.engine.block_manager import BlockManager
from mixtral.engine.fair_queue import FairQueue
from mixtral.engine.sequence import Sequence

# Smallest even share of a prompt, in tokens; below it a step costs almost the same.
_MIN_SHARE = 64
# Tokens that a step must have for each further prompt before it is started.
_START_SHARE = 32


@dataclass(frozen=True, kw_only=True, slots=True)
class ScheduledSequence:
    """A sequence and which of its tokens this step runs."""

    sequence: Sequence
    """The sequence."""
    num_new_tokens: int
    """Tokens to run, from ``num_computed_tokens`` on, guesses not counted."""
    guess: list[int] = field(default_factory=list)
    """Tokens that may follow; run behind the others and kept as far as they are right."""

    @property
    def is_ready(self) -> bool:
        """Whether the step gives the sequence a new token."""
        return self.num_new_tokens == self.sequence.num_uncomputed_tokens

    @property
    def num_logits(self) -> int:
        """How many of its last tokens in this step, guesses included, are asked for logits."""
        if self.sequence.target_ids:
            end = self.sequence.num_computed_tokens + self.num_new_tokens
            return max(0, min(self.num_new_tokens, end - self.sequence.num_shareable_tokens))
        return 1 + len(self.guess) if self.is_ready else 0


class Scheduler:
    """Decides which sequences run in each step.

    Args:
        block_manager: Owner of the cache blocks.
        max_num_seqs: Most sequences in one step.
        max_num_batched_tokens: Most tokens in one step.
        max_speculative_seqs: With more decoding sequences than this nothing is guessed: a full
            batch uses the processor well without it.
    """

    def __init__(
        self,
        block_manager: BlockManager,
        *,
        max_num_seqs: int,
        max_num_batched_tokens: int,
        max_speculative_seqs: int = 4,
    ) -> None:
        self._blocks = block_manager
        self._max_num_seqs = max_num_seqs
        self._max_num_batched_tokens = max_num_batched_tokens
        self._max_speculative_seqs = max_speculative_seqs
        self._queue = FairQueue()
        self._running: list[Sequence] = []  # in order of rank
        self.num_preemptions = 0

    @property
    def has_unfinished(self) -> bool:
        """Whether anything runs or waits."""
        return bool(self._running or len(self._queue))

    @property
    def num_running(self) -> int:
        """Sequences that hold cache blocks."""
        return len(self._running)

    @property
    def num_waiting(self) -> int:
        """Sequences that wait for a place."""
        return len(self._queue)

    def add(self, sequence: Sequence) -> None:
        """Let a new sequence wait for its turn."""
        self._queue.arrive(sequence)
        self._queue.push(sequence)

    def charge_output(self, sequence: Sequence) -> None:
        """Add one generated token to the account of its owner."""
        self._queue.charge_output(sequence)

    def schedule(self) -> list[ScheduledSequence]:
        """Choose the work of the next step and give it its blocks."""
        self._start_waiting()
        scheduled = self._schedule_decodes()
        budget = self._max_num_batched_tokens
        budget -= sum(item.num_new_tokens + len(item.guess) for item in scheduled)
        return scheduled + self._schedule_prompts(budget, is_alone=not scheduled)

    def finish(self, sequence: Sequence) -> None:
        """Take a finished or cancelled sequence out and free its blocks."""
        if not self._queue.remove(sequence):
            self._running.remove(sequence)
        self._queue.leave(sequence)
        self._blocks.free(sequence)

    def _schedule_decodes(self) -> list[ScheduledSequence]:
        decoding = [sequence for sequence in self._running if sequence.is_decoding]
        may_guess = len(decoding) <= self._max_speculative_seqs
        scheduled: list[ScheduledSequence] = []
        for sequence in decoding[: self._max_num_batched_tokens]:
            # In order of rank: where one was preempted, so were all behind it.
            if sequence.num_computed_tokens == 0:
                break
            if not self._make_room(sequence, sequence.num_tokens):
                break
            guess = self._guess(sequence) if may_guess else []
            scheduled.append(ScheduledSequence(sequence=sequence, num_new_tokens=1, guess=guess))
        return scheduled

    def _guess(self, sequence: Sequence) -> list[int]:
        """Guess tokens where the cache has room for them without taking it from others."""
        if sequence.lookup is None or sequence.constraint is not None:
            return []
        # The token after the last guess has to fit into the answer, too.
        guess = sequence.lookup.guess(sequence.num_remaining_tokens - 1)
        wanted = sequence.num_tokens + len(guess)
        missing = self._blocks.num_missing_blocks(sequence, wanted)
        if not guess or missing + len(self._running) > self._blocks.num_free_blocks:
            return []
        self._blocks.allocate(sequence, wanted)
        return guess

    def _make_room(self, sequence: Sequence, num_tokens: int) -> bool:
        """Give a running sequence its blocks; False when it was preempted itself."""
        while not self._blocks.can_allocate(sequence, num_tokens):
            last = self._running[-1]
            self._preempt(last)
            if last is sequence:
                return False
        self._blocks.allocate(sequence, num_tokens)
        return True

    def _preempt(self, sequence: Sequence) -> None:
        self._running.remove(sequence)
        self._blocks.free(sequence)
        self._queue.push(sequence)
        self.num_preemptions += 1

    def _schedule_prompts(self, budget: int, *, is_alone: bool) -> list[ScheduledSequence]:
        if budget <= 0:
            return []
        prompts = [sequence for sequence in self._running if not sequence.is_decoding]
        shares = _share_out(prompts, budget)
        scheduled: list[ScheduledSequence] = []
        for sequence in prompts:
            must_run = is_alone and not scheduled
            count = shares.get(sequence.sequence_id, 0)
            if count and (count := self._place(sequence, count, must_run=must_run)):
                scheduled.append(ScheduledSequence(sequence=sequence, num_new_tokens=count))
        return scheduled

    def _start_waiting(self) -> None:
        """Let waiting sequences begin, in their order, as long as there is room for the next."""
        budget = self._max_num_batched_tokens
        budget -= sum(min(s.num_uncomputed_tokens, _START_SHARE) for s in self._running)
        # Listed first: starting one changes the accounts that the order depends on.
        for sequence in list(islice(filter(_may_start, self._queue.in_order()), max(0, budget))):
            if budget <= 0:
                return
            while not self._has_room(sequence):
                if not self._running or self._running[-1].priority >= sequence.priority:
                    return
                self._preempt(self._running[-1])
            self._queue.remove(sequence)
            self._blocks.reuse(sequence)
            self._queue.charge_prompt(sequence)
            budget -= min(sequence.num_uncomputed_tokens, _START_SHARE)
            insort(self._running, sequence, key=lambda running: running.rank)

    def _has_room(self, sequence: Sequence) -> bool:
        """Whether the cache has room for the whole prompt beside those that are being read."""
        if len(self._running) >= self._max_num_seqs:
            return False
        reserved = sum(
            self._blocks.num_missing_blocks(running, running.num_tokens)
            for running in self._running
        )
        num_found, num_unowned = self._blocks.num_reusable_blocks(sequence)
        missing = self._blocks.num_missing_blocks(sequence, sequence.num_tokens) - num_found
        return missing + reserved <= self._blocks.num_free_blocks - num_unowned

    def _place(self, sequence: Sequence, count: int, *, must_run: bool) -> int:
        """Give a prompt blocks for its next chunk and return the tokens that fit.

        Args:
            sequence: A running sequence.
            count: Tokens wanted.
            must_run: Whether nothing else runs in this step, so that room has to be made.
        """
        wanted = sequence.num_computed_tokens + count
        if must_run:
            return count if self._make_room(sequence, wanted) else 0
        if not self._blocks.can_allocate(sequence, wanted):
            num_blocks = len(sequence.block_table) + self._blocks.num_free_blocks
            wanted = num_blocks * self._blocks.block_size
        self._blocks.allocate(sequence, wanted)
        return wanted - sequence.num_computed_tokens


def _may_start(sequence: Sequence) -> bool:
    """Whether the prompt need not wait for another sequence that is about to run the same."""
    leader = sequence.leader
    return leader is None or leader.finish_reason is not None or bool(leader.output_token_ids)


def _share_out(prompts: list[Sequence], budget: int) -> dict[int, int]:
    """Return how many tokens of each prompt run, by sequence id; prompts come in order of rank."""
    order = sorted(
        prompts,
        key=lambda s: (-s.priority, s is not prompts[0], s.num_uncomputed_tokens, s.sequence_id),
    )
    share = max(_MIN_SHARE, budget // max(1, len(order)))
    shares: dict[int, int] = {}
    for most in (share, budget):
        for sequence in order:
            given = shares.get(sequence.sequence_id, 0)
            more = min(most, sequence.num_uncomputed_tokens - given, budget)
            if more > 0:
                shares[sequence.sequence_id] = given + more
                budget -= more
    return shares
