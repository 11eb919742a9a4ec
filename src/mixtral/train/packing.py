"""Examples packed into micro-batches, in an order that depends on seed and step alone.

A micro-batch holds whole examples, each a sequence of its own: nothing is cut, nothing padded, and
no example sees another. Which lengths go together is worked out once; which examples of such
lengths, and in which order, is drawn anew for each pass over the data (epoch). With micro-batches
of 8 tokens:

    lengths     7 5 5 3 2 2          examples a to f, longest first
    bins        [7] [5 3] [5 2] [2]  each into the fullest bin that has room
    epoch 0     [b d] [f] [a] [c e]  b and c have one length, e and f as well:
    epoch 1     [a] [e] [c d] [b f]  they change places; so do the bins

This is best-fit decreasing, worked out from the lengths alone as histogram packing does (Krell et
al., arXiv:2107.02027). The bins of every epoch have the same lengths, so each epoch has the same
number of steps; they are dealt to steps of ``tokens_per_step // micro_batch_tokens`` bins. Where
the last step would lack some, the bins with most examples are split in two, so that each epoch has
each example once and each step the same number of micro-batches. Ranks share the bins of a step:
which examples a step has does not depend on how many processes there are.

An example of n tokens runs n - 1: the last is only a target.
"""

import logging
from typing import Any

import numpy as np
import torch

from mixtral.errors import ConfigError
from mixtral.model import TokenBatch
from mixtral.train.data import TrainBatch
from mixtral.train.example_set import ExampleSet

Ints = np.ndarray[Any, np.dtype[np.int64]]

logger = logging.getLogger(__name__)


class PackedExamples:
    """Batches of whole examples, by step.

    Args:
        examples: What to pack.
        tokens_per_step: Most tokens of an optimizer step, over all processes.
        micro_batch_tokens: Most tokens of a micro-batch.
        seed: Decides the order.

    Attributes:
        num_steps: Optimizer steps of one epoch.
        fill: Share of the room in micro-batches that tokens take, from 0 to 1.
        num_left_out: Micro-batches that an epoch leaves out, other ones each time; above 0 only
            where nearly every micro-batch is one example and cannot be split.

    Raises:
        ConfigError: An example does not fit into a micro-batch, the step is not a whole number of
            micro-batches, or there are fewer examples than micro-batches in a step.
    """

    def __init__(
        self,
        examples: ExampleSet,
        *,
        tokens_per_step: int,
        micro_batch_tokens: int,
        seed: int,
    ) -> None:
        lengths = examples.num_inputs
        _check_sizes(int(lengths.max()), tokens_per_step, micro_batch_tokens)
        self._examples = examples
        self._seed = seed
        self._bins_per_step = tokens_per_step // micro_batch_tokens
        longest_first = np.sort(lengths)[::-1]
        self._bins = _split_to_multiple(
            _best_fit(longest_first, micro_batch_tokens), self._bins_per_step
        )
        self.num_steps, self.num_left_out = divmod(len(self._bins), self._bins_per_step)
        self.fill = float(lengths.sum()) / (len(self._bins) * micro_batch_tokens)
        if self.num_steps == 0:
            raise ConfigError(
                f"{len(examples)} examples cannot fill {self._bins_per_step} micro-batches of a "
                "step; lower tokens_per_step, or raise micro_batch_tokens."
            )
        if self.num_left_out:
            logger.warning(
                "each epoch leaves out %d of %d micro-batches, other ones each time, because each "
                "step has %d",
                self.num_left_out,
                len(self._bins),
                self._bins_per_step,
            )
        self._epoch = -1
        self._order: Ints = np.empty(0, dtype=np.int64)
        self._bin_order: Ints = np.empty(0, dtype=np.int64)

    def step(self, index: int) -> list[TrainBatch]:
        """Return the micro-batches of a step; past the last step an epoch begins anew."""
        epoch, place = divmod(index, self.num_steps)
        if epoch != self._epoch:
            self._draw(epoch)
        begin = place * self._bins_per_step
        numbers = self._bin_order[begin : begin + self._bins_per_step]
        return [self._batch(self._order[self._bins[number]]) for number in numbers.tolist()]

    def _draw(self, epoch: int) -> None:
        """Draw which example takes which place among those of its length, and the order of bins."""
        rng = np.random.default_rng([self._seed, epoch])
        drawn = rng.permutation(len(self._examples))
        self._order = drawn[np.argsort(-self._examples.num_inputs[drawn], kind="stable")]
        self._bin_order = rng.permutation(len(self._bins))
        self._epoch = epoch

    def _batch(self, members: Ints) -> TrainBatch:
        """Lay examples flat: inputs are all tokens but the last, targets all but the first."""
        examples = self._examples
        spans = [examples.span(i) for i in members.tolist()]
        tokens = [examples.token_ids[span].astype(np.int64) for span in spans]
        targets = [
            np.where(examples.loss_mask[span][1:], ids[1:], -1)
            for span, ids in zip(spans, tokens, strict=True)
        ]
        positions = np.concatenate([np.arange(len(ids) - 1) for ids in tokens])
        starts = np.cumsum([0, *(len(ids) - 1 for ids in tokens)])
        return TrainBatch(
            batch=TokenBatch(
                input_ids=torch.from_numpy(np.concatenate([ids[:-1] for ids in tokens])),
                positions=torch.from_numpy(positions),
                starts=starts.tolist(),
            ),
            targets=torch.from_numpy(np.concatenate(targets)),
        )


def _check_sizes(longest: int, tokens_per_step: int, micro_batch_tokens: int) -> None:
    if tokens_per_step % micro_batch_tokens:
        raise ConfigError(
            f"tokens_per_step is {tokens_per_step}; it must be a multiple of micro_batch_tokens "
            f"({micro_batch_tokens})."
        )
    if longest > micro_batch_tokens:
        raise ConfigError(
            f"the longest example has {longest} tokens and micro_batch_tokens is "
            f"{micro_batch_tokens}; raise it to at least that."
        )


def _best_fit(lengths: Ints, capacity: int) -> list[Ints]:
    """Pack lengths, longest first, each into the fullest bin with room; return places by bin.

    Bit r of ``rooms`` says that some bin has room for exactly r more, so that the best one is found
    by a shift, whatever the number of bins.
    """
    capacity = min(capacity, int(lengths.sum()))  # else a room of its own for each number up to it
    by_room: list[list[int]] = [[] for _ in range(capacity + 1)]
    rooms = 0
    bins: list[list[int]] = []
    for place, length in enumerate(lengths.tolist()):
        fitting = rooms >> length
        if fitting:
            room = length + (fitting & -fitting).bit_length() - 1
            number = by_room[room].pop()
            if not by_room[room]:
                rooms ^= 1 << room
        else:
            room, number = capacity, len(bins)
            bins.append([])
        bins[number].append(place)
        by_room[room - length].append(number)
        rooms |= 1 << (room - length)
    return [np.array(members, dtype=np.int64) for members in bins]


def _split_to_multiple(bins: list[Ints], divisor: int) -> list[Ints]:
    """Halve the bins with most members until the number of bins is a multiple, if that is possible.

    Where it is not, the bins stay as they are.
    """
    missing = -len(bins) % divisor
    if sum(len(members) - 1 for members in bins) < missing:
        return bins
    halved = list(bins)
    for _ in range(missing):
        number = max(range(len(halved)), key=lambda i: len(halved[i]))
        members = halved[number]
        halved[number] = members[::2]
        halved.append(members[1::2])
    return halved
