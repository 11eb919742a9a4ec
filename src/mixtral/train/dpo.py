"""Preference training: which pairs a step sees, and what it learns from them.

A pair is two sequences that share a prompt and end in two answers. Both stand in the same
micro-batch, one after the other, as sequences of their own, positions from 0; the last token of
each is only a target and does not run. There is no padding, so the router's losses, which the
trainer adds from the recorder, are those of real tokens alone:

    chosen 0 | rejected 0 | chosen 1 | rejected 1 | ...        S = 2 * pairs

Step i takes the pairs i * pairs_per_step and on of an endless row: every pair once in an order
drawn from the seed, then every pair once in another order, and so forth. So nothing is left out,
and a resumed run reads what the stopped one would have read. Within a step the largest pair is
dealt first, always to the micro-batch with the fewest tokens; processes take turns.

The reference is the model as it was before the first step. Its log-probs come from a table made in
advance (``reference_cache.py``), or from a scorer such as the same model with its adapter off.
"""

import hashlib
import heapq
import math
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mixtral.errors import ConfigError
from mixtral.model import TokenBatch, Transformer
from mixtral.model.router_trace import RouterRecorder
from mixtral.train.chat_data import Example
from mixtral.train.dpo_settings import DpoSettings
from mixtral.train.log_probs import TokenScorer, evaluating, token_log_probs
from mixtral.train.objective import MicroBatch
from mixtral.train.preference_loss import PairLogProbs, preference_losses, preference_metrics


@dataclass(frozen=True, kw_only=True, slots=True)
class EncodedPair:
    """A prompt with the better and the worse of two answers."""

    chosen: Example
    """Prompt and better answer."""
    rejected: Example
    """The same prompt and the worse answer."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PairBatch:
    """Pairs of one forward and backward pass."""

    batch: TokenBatch
    """T tokens; chosen and rejected sequences in turn, two for each pair."""
    targets: Tensor
    """Next token where it belongs to an answer, else -1, [T], int64."""
    pair_ids: Sequence[int]
    """Places of the pairs in their set."""

    @property
    def size(self) -> int:
        """Number of pairs."""
        return len(self.pair_ids)

    @property
    def num_targets(self) -> int:
        """Tokens of the answers."""
        return int((self.targets >= 0).sum())

    def to(self, device: torch.device) -> "PairBatch":
        """Return the batch on a device."""
        batch = replace(
            self.batch,
            input_ids=self.batch.input_ids.to(device),
            positions=self.batch.positions.to(device),
        )
        return replace(self, batch=batch, targets=self.targets.to(device))


class PairSet:
    """The tokens of N pairs, eight bytes each, and what the reference thinks of the answers.

    Args:
        pairs: Encoded pairs; read once, in order.

    Raises:
        ConfigError: There is no pair, an answer has no token, or two answers are the same.
    """

    def __init__(self, pairs: Iterable[EncodedPair]) -> None:
        inputs, targets, ends = array("i"), array("i"), array("q", [0])
        for number, pair in enumerate(pairs):
            _check_pair(number, pair)
            for side in (pair.chosen, pair.rejected):
                following = zip(side.token_ids[1:], side.loss_mask[1:], strict=True)
                inputs.extend(side.token_ids[:-1])
                targets.extend(token if counts else -1 for token, counts in following)
                ends.append(len(inputs))
        if len(ends) == 1:
            raise ConfigError("there is no preference pair; name a file that holds some.")
        self._inputs = np.frombuffer(inputs, dtype=np.intc)
        self._targets = np.frombuffer(targets, dtype=np.intc)
        self._ends = np.frombuffer(ends, dtype=np.int64)
        counted = np.add.reduceat(self._targets >= 0, self._ends[:-1], dtype=np.int64)
        self.answer_lengths = torch.from_numpy(counted.reshape(-1, 2))
        """Counted tokens of the chosen and the rejected answer, [N, 2], int64."""
        self.reference: Tensor | None = None
        """Log-probs of both answers under the reference, [N, 2], float32; None: not known."""

    def __len__(self) -> int:
        """Return N."""
        return len(self._ends) // 2

    @property
    def total_tokens(self) -> int:
        """Return the tokens that run for all pairs."""
        return int(self._ends[-1])

    def num_tokens(self, pair: int) -> int:
        """Return the tokens that run for a pair: both sequences without their last tokens."""
        return int(self._ends[2 * pair + 2] - self._ends[2 * pair])

    def digest(self) -> str:
        """Return the sha256 of all tokens, boundaries and what is counted, in hexadecimal."""
        digest = hashlib.sha256()
        for values in (self._ends, self._inputs, self._targets):
            digest.update(values.astype("<i8").tobytes())
        return digest.hexdigest()

    def require_fit(self, micro_batch_tokens: int) -> None:
        """Check that every pair fits into a micro-batch.

        Raises:
            ConfigError: One does not.
        """
        sizes = np.diff(self._ends[::2])
        longest = int(sizes.argmax())
        if sizes[longest] > micro_batch_tokens:
            raise ConfigError(
                f"preference pair {longest} (counted from 0) has {sizes[longest]} tokens, prompt "
                f"and answer twice; micro_batch_tokens is {micro_batch_tokens}. Raise it to "
                f"{sizes[longest]}, or leave out the {int((sizes > micro_batch_tokens).sum())} "
                "pairs that do not fit."
            )

    def batch(self, pair_ids: Sequence[int]) -> PairBatch:
        """Lay pairs flat."""
        sequences = [at for pair in pair_ids for at in (2 * pair, 2 * pair + 1)]
        pieces = [slice(self._ends[at], self._ends[at + 1]) for at in sequences]
        lengths = [int(piece.stop - piece.start) for piece in pieces]
        return PairBatch(
            batch=TokenBatch(
                input_ids=_join(self._inputs, pieces),
                positions=torch.cat([torch.arange(length) for length in lengths]),
                starts=(0, *accumulate(lengths)),
            ),
            targets=_join(self._targets, pieces),
            pair_ids=tuple(pair_ids),
        )

    def batches(self, *, num_pairs: int, micro_batch_tokens: int) -> Iterator[PairBatch]:
        """Yield the first pairs in order, as many at a time as fit."""
        waiting: list[int] = []
        size = 0
        for pair in range(num_pairs):
            if waiting and size + self.num_tokens(pair) > micro_batch_tokens:
                yield self.batch(waiting)
                waiting, size = [], 0
            waiting.append(pair)
            size += self.num_tokens(pair)
        yield self.batch(waiting)


class PreferenceObjective:
    """Prefer the chosen answers.

    Args:
        train: Pairs to learn from.
        held_out: Pairs that are only measured; None measures nothing.
        settings: Loss, and pairs of a step.
        micro_batch_tokens: Most tokens of a micro-batch.
        seed: Decides the order of the pairs.
        reference: Scores tokens with the reference at each step; None takes ``reference`` of the
            two sets.
        make_reference: Makes that of the two sets; None where it is known, or not needed.

    Raises:
        ConfigError: A pair does not fit into a micro-batch, or the pairs into the steps.
    """

    def __init__(
        self,
        train: PairSet,
        held_out: PairSet | None,
        *,
        settings: DpoSettings,
        micro_batch_tokens: int,
        seed: int,
        reference: TokenScorer | None = None,
        make_reference: Callable[[], None] | None = None,
    ) -> None:
        for pairs in (train, held_out):
            if pairs is not None:
                pairs.require_fit(micro_batch_tokens)
                assert reference or make_reference or pairs.reference is not None
        if len(train) < settings.pairs_per_step:
            raise ConfigError(
                f"dpo.pairs_per_step is {settings.pairs_per_step} and the data has {len(train)}; "
                f"it must be at most {len(train)}."
            )
        self._train = train
        self._held_out = held_out
        self._settings = settings
        self._micro_batch_tokens = micro_batch_tokens
        self._seed = seed
        self._reference = reference
        self._make_reference = make_reference

    def prepare(self) -> None:
        """Score the pairs with the reference, where that is done in advance.

        Raises:
            CheckpointError: Kept scores are damaged, or cannot be written.
        """
        if self._make_reference is not None:
            self._make_reference()

    @property
    def num_steps(self) -> int:
        """Optimizer steps until every pair was seen; the last may go on with the next pass."""
        return math.ceil(len(self._train) / self._settings.pairs_per_step)

    def step(self, index: int) -> Sequence[PairBatch]:
        """Return the micro-batches of an optimizer step."""
        first = index * self._settings.pairs_per_step
        places = range(first, first + self._settings.pairs_per_step)
        epochs = {place // len(self._train) for place in places}
        orders = {epoch: _order(len(self._train), self._seed, epoch) for epoch in epochs}
        pairs = [int(orders[k // len(self._train)][k % len(self._train)]) for k in places]
        groups = deal(
            [self._train.num_tokens(pair) for pair in pairs],
            limit=self._micro_batch_tokens,
        )
        return [self._train.batch([pairs[k] for k in group]) for group in groups]

    def loss(
        self, model: Transformer, micro: MicroBatch, recorder: RouterRecorder | None
    ) -> tuple[Tensor, Mapping[str, float]]:
        """Return the mean loss of the pairs and the means of ``preference_metrics``."""
        assert isinstance(micro, PairBatch)
        return self._loss(model, micro, recorder, self._train)

    @torch.no_grad()
    def evaluate(self, model: Transformer) -> Mapping[str, float]:
        """Return loss and metrics, means over the first ``max_eval_pairs`` held-out pairs."""
        if self._held_out is None:
            return {}
        num_pairs = min(len(self._held_out), self._settings.max_eval_pairs)
        totals: dict[str, float] = {}
        micros = self._held_out.batches(
            num_pairs=num_pairs, micro_batch_tokens=self._micro_batch_tokens
        )
        with evaluating(model):
            for micro in micros:
                loss, metrics = self._loss(model, micro, None, self._held_out)
                for name, value in {"loss": float(loss), **metrics}.items():
                    totals[name] = totals.get(name, 0.0) + value * micro.size
        return {name: total / num_pairs for name, total in totals.items()}

    def _loss(
        self, model: Transformer, micro: PairBatch, recorder: RouterRecorder | None, pairs: PairSet
    ) -> tuple[Tensor, dict[str, float]]:
        here = micro.to(model.device)
        # First, so that its activations are gone before those that backward needs are made.
        reference = self._reference_scores(here, pairs)
        hidden = model(here.batch, recorder=recorder)
        policy = answer_sums(token_log_probs(hidden, model.lm_head.weight, here.targets), here)
        lengths = pairs.answer_lengths[list(micro.pair_ids)].to(policy.device)
        log_probs = PairLogProbs(
            policy_chosen=policy[:, 0],
            policy_rejected=policy[:, 1],
            reference_chosen=reference[:, 0],
            reference_rejected=reference[:, 1],
            chosen_lengths=lengths[:, 0],
            rejected_lengths=lengths[:, 1],
        )
        losses = preference_losses(log_probs, self._settings)
        return losses.mean(), preference_metrics(log_probs, self._settings)

    def _reference_scores(self, micro: PairBatch, pairs: PairSet) -> Tensor:
        if self._reference is not None:
            return answer_sums(self._reference(micro.batch, micro.targets), micro)
        assert pairs.reference is not None
        return pairs.reference[list(micro.pair_ids)].to(micro.targets.device)


def answer_sums(log_probs: Tensor, micro: PairBatch) -> Tensor:
    """Add up the log-probs [T] of each answer: [pairs, 2], chosen and rejected."""
    lengths = [end - begin for begin, end in pairwise(micro.batch.starts)]
    # Not a scatter: on a GPU its sums come in any order, and a run could not be repeated.
    return torch.stack([part.sum() for part in log_probs.split(lengths)]).view(-1, 2)


def deal(sizes: Sequence[int], *, limit: int) -> list[list[int]]:
    """Deal items into as few even groups as their tokens allow, the largest item first.

    Args:
        sizes: Tokens of each item, none above ``limit``.
        limit: Most tokens of a group.

    Returns:
        Indices of each group; none is empty.

    >>> deal([300, 500, 200, 400], limit=800)
    [[1, 2], [3, 0]]
    """
    order = sorted(range(len(sizes)), key=lambda item: (-sizes[item], item))
    count = math.ceil(sum(sizes) / limit)
    while True:
        groups: list[list[int]] = [[] for _ in range(count)]
        emptiest = [(0, group) for group in range(count)]
        for item in order:
            load, group = emptiest[0]
            groups[group].append(item)
            heapq.heapreplace(emptiest, (load + sizes[item], group))
        if max(load for load, _ in emptiest) <= limit:
            return groups
        count += 1


def _join(values: "np.ndarray[Any, np.dtype[Any]]", pieces: Sequence[slice]) -> Tensor:
    return torch.from_numpy(np.concatenate([values[piece] for piece in pieces]).astype(np.int64))


def _order(num_pairs: int, seed: int, epoch: int) -> "np.ndarray[Any, np.dtype[Any]]":
    bits = np.random.MT19937(np.random.SeedSequence((seed, epoch)))
    # Not a Generator: its orders may change with a version of NumPy, those of RandomState do not.
    return np.random.RandomState(bits).permutation(num_pairs)


def _check_pair(number: int, pair: EncodedPair) -> None:
    for name, side in (("chosen", pair.chosen), ("rejected", pair.rejected)):
        if not any(side.loss_mask[1:]):
            raise ConfigError(
                f"preference pair {number} (counted from 0) has no token in its {name} answer; "
                "leave it out."
            )
    if list(pair.chosen.token_ids) == list(pair.rejected.token_ids):
        raise ConfigError(
            f"preference pair {number} (counted from 0) has the same answer twice; leave it out."
        )
