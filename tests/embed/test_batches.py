"""Bookkeeping of batches: everything runs once, and little of it is padding."""

from hypothesis import given
from hypothesis import strategies as st

from mixtral.embed.batches import CPU_LIMITS, GPU_LIMITS, BatchLimits, plan_batches, share_round

LENGTHS = st.lists(st.integers(1, 9000), max_size=150)


@given(LENGTHS, st.integers(1, 70), st.sampled_from([CPU_LIMITS, GPU_LIMITS]))
def test_every_input_runs_once_within_the_limits(
    lengths: list[int], max_batch: int, limits: BatchLimits
) -> None:
    batches = plan_batches(lengths, limits=limits, max_batch=max_batch)
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    for batch in batches:
        padded = len(batch) * max(lengths[i] for i in batch)
        assert 1 <= len(batch) <= max_batch
        assert padded <= limits.max_tokens or len(batch) == 1
        assert padded - sum(lengths[i] for i in batch) <= limits.pass_tokens


def test_inputs_of_about_one_length_share_a_batch_and_others_do_not() -> None:
    assert plan_batches([5, 3, 9], limits=CPU_LIMITS, max_batch=64) == [[1, 0, 2]]
    assert plan_batches([5, 250, 7], limits=CPU_LIMITS, max_batch=64) == [[0, 2], [1]]


@given(st.lists(st.integers(0, 3000), max_size=40), st.integers(1, 200))
def test_round_is_full_and_nobody_gets_more_than_it_has(waiting: list[int], size: int) -> None:
    shares = share_round(waiting, size=size)
    assert sum(shares) == min(size, sum(waiting))
    assert all(0 <= share <= count for share, count in zip(shares, waiting, strict=True))


@given(st.lists(st.integers(1, 3000), min_size=1, max_size=40))
def test_each_request_gets_its_equal_part_of_a_round(waiting: list[int]) -> None:
    part = 64 // len(waiting)
    shares = share_round(waiting, size=64)
    assert all(share >= min(part, count) for share, count in zip(shares, waiting, strict=True))
