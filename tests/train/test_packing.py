"""Packing: every example once per epoch, whole, alone, and in an order that can be resumed."""

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
import torch

from mixtral.errors import ConfigError
from mixtral.model import TokenBatch
from mixtral.train.chat_data import EncodedRecord, Example
from mixtral.train.data import TrainBatch
from mixtral.train.example_set import ExampleSet, held_out
from mixtral.train.packing import PackedExamples
from tests.models_for_tests import tiny_model

BOS = 1


def random_examples(count: int, *, seed: int = 0, longest: int = 40) -> list[Example]:
    """Return examples that differ from each other, of 2 to ``longest`` + 1 tokens."""
    rng = np.random.default_rng(seed)
    examples = []
    for _ in range(count):
        length = int(rng.integers(1, longest + 1))
        ids = rng.integers(3, 500, size=length).tolist()
        mask = (rng.random(length) < 0.5).tolist()
        mask[-1] = True
        examples.append(Example(token_ids=[BOS, *ids], loss_mask=[False, *mask]))
    return examples


def gathered(examples: Sequence[Example], vocab_size: int = 512) -> ExampleSet:
    records = (
        EncodedRecord(key=i * 7919, place=str(i), examples=[e]) for i, e in enumerate(examples)
    )
    return ExampleSet.collect(records, vocab_size=vocab_size)


def packed(examples: Sequence[Example], **changes: int) -> PackedExamples:
    settings = {"tokens_per_step": 256, "micro_batch_tokens": 64, "seed": 0} | changes
    return PackedExamples(gathered(examples), **settings)


def sequences_of(batches: Sequence[TrainBatch]) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Return inputs and targets of every sequence of some micro-batches."""
    return [
        (
            tuple(micro.batch.input_ids[begin:end].tolist()),
            tuple(micro.targets[begin:end].tolist()),
        )
        for micro in batches
        for begin, end in pairwise(micro.batch.starts)
    ]


def expected_sequence(example: Example) -> tuple[tuple[int, ...], tuple[int, ...]]:
    learned = zip(example.token_ids[1:], example.loss_mask[1:], strict=True)
    targets = tuple(token_id if is_learned else -1 for token_id, is_learned in learned)
    return tuple(example.token_ids[:-1]), targets


@pytest.mark.parametrize("count", [8, 50, 333])
def test_an_epoch_has_each_example_once_and_whole(count: int) -> None:
    examples = random_examples(count)
    data = packed(examples)
    for epoch in range(2):
        steps = range(epoch * data.num_steps, (epoch + 1) * data.num_steps)
        seen = Counter(sequence for i in steps for sequence in sequences_of(data.step(i)))
        assert seen == Counter(map(expected_sequence, examples))


def test_micro_batches_are_bounded_and_as_many_in_each_step() -> None:
    data = packed(random_examples(333))
    for index in range(data.num_steps):
        step = data.step(index)
        assert len(step) == 256 // 64
        for micro in step:
            assert 0 < len(micro.batch.input_ids) == len(micro.targets) <= 64
            assert micro.size > 0
            positions = [i for a, b in pairwise(micro.batch.starts) for i in range(b - a)]
            assert micro.batch.positions.tolist() == positions


def test_a_step_depends_on_seed_and_index_alone() -> None:
    examples = random_examples(100)
    data, other = packed(examples), packed(examples)
    order = list(range(2 * data.num_steps))
    steps = [sequences_of(data.step(i)) for i in order]
    assert [sequences_of(other.step(i)) for i in reversed(order)] == steps[::-1]
    assert sequences_of(packed(examples, seed=1).step(0)) != steps[0]


def test_each_epoch_has_another_order_and_company() -> None:
    data = packed(random_examples(200, longest=8))

    def companies(epoch: int) -> set[frozenset[object]]:
        steps = range(epoch * data.num_steps, (epoch + 1) * data.num_steps)
        return {frozenset(sequences_of([micro])) for i in steps for micro in data.step(i)}

    assert sequences_of(data.step(0)) != sequences_of(data.step(data.num_steps))
    assert len(companies(0) & companies(1)) < 0.1 * len(companies(0))


def test_no_example_sees_another() -> None:
    examples = random_examples(12)
    (micro, *_) = packed(examples, tokens_per_step=512, micro_batch_tokens=512).step(0)
    model = tiny_model()
    together = model(micro.batch)
    apart = [model(TokenBatch.from_sequences([ids])) for ids, _ in sequences_of([micro])]
    assert len(apart) > 5
    torch.testing.assert_close(together, torch.cat(apart), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("mean", "capacity"), [(60, 1024), (250, 2048), (700, 2048)])
def test_lengths_as_in_conversations_fill_95_percent(mean: int, capacity: int) -> None:
    rng = np.random.default_rng(0)
    lengths = np.clip(rng.lognormal(np.log(mean), 0.7, size=4000), 2, capacity).astype(int)
    examples = [Example(token_ids=[5] * (n + 1), loss_mask=[True] * (n + 1)) for n in lengths]
    data = packed(examples, tokens_per_step=4 * capacity, micro_batch_tokens=capacity)
    assert data.fill >= 0.95


@pytest.mark.parametrize(
    ("lengths", "bins"),
    [
        ([7, 5, 5, 3, 2, 2], [(2,), (5, 2), (5, 3), (7,)]),
        ([6, 4, 2, 2], [(4, 2), (6, 2)]),
        ([2, 2, 4, 8], [(4, 2, 2), (8,)]),
    ],
)
def test_each_length_goes_into_the_fullest_bin_with_room(
    lengths: list[int], bins: list[tuple[int, ...]]
) -> None:
    examples = [Example(token_ids=[9] * (n + 1), loss_mask=[True] * (n + 1)) for n in lengths]
    data = packed(examples, tokens_per_step=8, micro_batch_tokens=8)
    micros = [data.step(i)[0].batch.starts for i in range(data.num_steps)]
    assert sorted(tuple(b - a for a, b in pairwise(starts)) for starts in micros) == bins


def test_examples_that_fill_a_micro_batch_each_are_left_out_in_turn(
    caplog: pytest.LogCaptureFixture,
) -> None:
    examples = [Example(token_ids=[i] * 65, loss_mask=[True] * 65) for i in range(10)]
    data = packed(examples)
    assert (data.num_steps, data.num_left_out) == (2, 2)
    assert "each epoch leaves out 2 of 10 micro-batches" in caplog.text
    seen = [
        {s[0][0] for i in (2 * e, 2 * e + 1) for s in sequences_of(data.step(i))} for e in (0, 1)
    ]
    assert len(seen[0]) == len(seen[1]) == 8
    assert seen[0] != seen[1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tokens_per_step": 100}, r"a multiple of micro_batch_tokens \(64\)"),
        ({"micro_batch_tokens": 32}, "longest example has 40 tokens and micro_batch_tokens is 32"),
        ({"tokens_per_step": 64 * 64}, "20 examples cannot fill 64 micro-batches"),
    ],
)
def test_what_cannot_be_packed_is_refused(changes: dict[str, int], message: str) -> None:
    examples = [*random_examples(19), Example(token_ids=[1] * 41, loss_mask=[True] * 41)]
    with pytest.raises(ConfigError, match=message):
        packed(examples, **changes)


@pytest.mark.parametrize("vocab_size", [512, 100_000])
def test_examples_come_back_from_the_arrays_as_they_went_in(vocab_size: int) -> None:
    examples = random_examples(20)
    stored = gathered(examples, vocab_size)
    assert list(stored) == examples
    assert stored.num_learned == sum(sum(example.loss_mask) for example in examples)
    assert stored.token_ids.dtype == (np.uint16 if vocab_size == 512 else np.int32)


def test_tokens_of_another_model_and_no_tokens_are_refused() -> None:
    with pytest.raises(ConfigError, match="has the token 499; the model knows 0 to 498"):
        gathered([Example(token_ids=[1, 499], loss_mask=[False, True])], vocab_size=499)
    with pytest.raises(ConfigError, match="no record is left"):
        gathered([])


def test_split_keeps_its_choice_when_records_are_added_and_parts_no_question() -> None:
    rng = np.random.default_rng(0)
    keys = rng.integers(2**64, size=3000, dtype=np.uint64)
    chosen = held_out(keys, 0.1, seed=0)
    assert 0.08 < chosen.mean() < 0.12
    assert (held_out(keys[::3], 0.1, seed=0) == chosen[::3]).all()
    assert (held_out(keys, 0.1, seed=1) != chosen).any()
    assert held_out(np.arange(10_000, dtype=np.uint64), 0.5, seed=0).mean() == pytest.approx(
        0.5, abs=0.02
    )


def test_split_parts_all_examples() -> None:
    examples = random_examples(60)
    learned, measured = gathered(examples).split(0.3, seed=0)
    assert len(learned) > len(measured) > 5
    assert Counter(map(expected_sequence, [*learned, *measured])) == Counter(
        map(expected_sequence, examples)
    )
    records = [EncodedRecord(key=5, place="", examples=examples)]
    same = ExampleSet.collect(records, vocab_size=512)
    with pytest.raises(ConfigError, match=r"leaves .* to learn and .* to measure"):
        same.split(0.5, seed=0)
    with pytest.raises(ConfigError, match=r"fraction is 1\.0; it must be between"):
        same.split(1.0, seed=0)
