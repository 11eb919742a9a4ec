"""The prefix cache: what begins alike is computed once, and nothing else changes."""

import random

import pytest

from mixtral.engine import Engine, SamplingParams
from mixtral.engine.block_manager import BlockManager
from tests.engine.engine_for_tests import (
    GREEDY,
    finish,
    make_engine,
    make_sequence,
    run,
)

PREFIX = [(7 * i) % 512 for i in range(70)]


def tokens_run(engine: Engine, prompt: list[int]) -> int:
    """Return how many tokens of a prompt the engine had to run."""
    engine.add(prompt, GREEDY.replace(max_tokens=1))
    total = 0
    while engine.has_unfinished:
        engine.step()
        assert engine.last_step is not None
        total += engine.last_step.num_tokens
    return total


def test_second_prompt_runs_only_what_the_first_did_not_share() -> None:
    engine = make_engine()
    assert tokens_run(engine, [*PREFIX, 1, 2]) == 72
    assert tokens_run(engine, [*PREFIX, 3, 4, 5]) == 73 - 64  # 8 full blocks of 8
    assert engine.stats().prefix_hit_tokens == 64
    assert engine.stats().prefix_query_tokens == 72 + 73


def test_a_repeated_prompt_still_runs_its_last_token() -> None:
    engine = make_engine()
    assert tokens_run(engine, PREFIX[:64]) == 64
    assert tokens_run(engine, PREFIX[:64]) == 8


def test_without_prefix_cache_nothing_is_kept() -> None:
    engine = make_engine(enable_prefix_cache=False)
    assert tokens_run(engine, PREFIX) == 70
    assert tokens_run(engine, PREFIX) == 70
    assert engine.stats().num_cached_blocks == 0


@pytest.mark.parametrize("num_blocks", [64, 12])
def test_answers_are_the_same_with_and_without_prefix_cache(num_blocks: int) -> None:
    rng = random.Random(5)
    prompts = [[*PREFIX[: rng.randrange(70)], rng.randrange(512)] for _ in range(14)]
    expected = run(make_engine(enable_prefix_cache=False), prompts, GREEDY)
    engine = make_engine(num_blocks=num_blocks)
    assert run(engine, prompts, GREEDY) == expected
    assert run(engine, prompts, GREEDY) == expected  # now everything is cached
    assert engine.stats().prefix_hit_tokens > 0


def test_an_answer_serves_as_the_prefix_of_the_next_turn() -> None:
    engine = make_engine()
    answer = run(engine, [PREFIX[:20]], GREEDY)[0]
    assert tokens_run(engine, PREFIX[:20] + answer + [1] * 5) == 37 - 24


@pytest.mark.parametrize("enable_prefix_cache", [True, False])
def test_answers_to_one_prompt_share_its_blocks(enable_prefix_cache: bool) -> None:
    engine = make_engine(enable_prefix_cache=enable_prefix_cache)
    params = SamplingParams(temperature=1.0, max_tokens=4, seed=0, ignore_eos=True)
    leader = engine.add(PREFIX, params)
    others = [engine.add(PREFIX, params.replace(seed=seed), leader_id=leader) for seed in (1, 2, 3)]
    engine.step()
    assert engine.stats().num_used_blocks == 9
    engine.step()
    # 8 shared blocks, and one or two of its own for each answer.
    assert engine.stats().num_used_blocks <= 8 + 2 * 4
    answers = finish(engine, [leader, *others])
    alone = [run(make_engine(), [PREFIX], params.replace(seed=seed))[0] for seed in range(4)]
    assert [answer[-2:] for answer in answers] == [answer[-2:] for answer in alone]


def test_a_follower_runs_by_itself_when_its_leader_is_gone() -> None:
    engine = make_engine()
    leader = engine.add(PREFIX, GREEDY)
    follower = engine.add(PREFIX, GREEDY, leader_id=leader)
    engine.abort(leader)
    assert finish(engine, [follower]) == run(make_engine(), [PREFIX], GREEDY)


def test_blocks_are_told_apart_by_their_tokens_whatever_their_hash() -> None:
    class Evil(int):
        """A token id whose hash is that of every other one."""

        def __hash__(self) -> int:
            return 1

    blocks = BlockManager(num_blocks=8, block_size=2)
    first = make_sequence(0, prompt_token_ids=[Evil(i) for i in (1, 2, 3, 4, 5)])
    blocks.allocate(first, 5)
    first.num_computed_tokens = 5
    blocks.note_computed(first)
    blocks.free(first)
    other = make_sequence(1, prompt_token_ids=[Evil(i) for i in (1, 2, 9, 4, 5)])
    blocks.reuse(other)
    assert other.num_computed_tokens == 2


def test_least_recently_used_blocks_go_first_and_beginnings_last() -> None:
    blocks = BlockManager(num_blocks=4, block_size=2)
    old, new = make_sequence(0, 4), make_sequence(1, 4)
    for sequence in (old, new):
        blocks.allocate(sequence, 4)
        sequence.num_computed_tokens = 4
        blocks.note_computed(sequence)
    blocks.free(old)
    blocks.free(new)
    blocks.allocate(make_sequence(2, 2), 2)
    longer = [make_sequence(3, prompt_token_ids=[*s.prompt_token_ids, 0]) for s in (old, new)]
    assert [blocks.num_reusable_blocks(sequence)[0] for sequence in longer] == [1, 2]


def test_random_work_with_shared_prefixes_never_loses_a_block() -> None:
    rng = random.Random(1)
    blocks = BlockManager(num_blocks=30, block_size=4)
    alive = []
    for number in range(3000):
        sequence = make_sequence(
            number, prompt_token_ids=[*PREFIX[: rng.randrange(24)], rng.randrange(3)]
        )
        if blocks.can_allocate(sequence, sequence.num_tokens):
            blocks.reuse(sequence)
            blocks.allocate(sequence, sequence.num_tokens)
            sequence.num_computed_tokens = sequence.num_tokens
            blocks.note_computed(sequence)
            alive.append(sequence)
        while alive and (rng.random() < 0.4 or blocks.num_free_blocks < 8):
            blocks.free(alive.pop(rng.randrange(len(alive))))
        owned = {block for sequence in alive for block in sequence.block_table}
        assert len(owned) + blocks.num_free_blocks == 30
        for block in owned:
            owners = sum(block in sequence.block_table for sequence in alive)
            assert blocks.num_owners(block) == owners
    assert blocks.counts.num_hits > 1000


def test_a_preempted_sequence_finds_its_own_blocks_again() -> None:
    engine = make_engine(max_num_seqs=1)
    slow = engine.add(PREFIX, GREEDY)
    engine.step()
    urgent = engine.add([1, 2, 3], GREEDY, priority=1)
    answers = finish(engine, [slow, urgent])
    assert engine.num_preemptions == 1
    assert engine.stats().prefix_hit_tokens == 64
    expected = run(make_engine(), [PREFIX, [1, 2, 3]], GREEDY)
    assert answers[0] == expected[0][1:]  # its first token came before
    assert answers[1] == expected[1]
