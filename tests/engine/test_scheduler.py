"""Who runs next: budgets, fairness, priorities, room. No model here."""

import random

from mixtral.engine.block_manager import BlockManager
from mixtral.engine.fair_queue import FairQueue
from mixtral.engine.scheduler import ScheduledSequence, Scheduler
from mixtral.engine.sequence import Sequence
from tests.engine.engine_for_tests import make_sequence


def make_scheduler(num_blocks: int = 1000, **sizes: int) -> Scheduler:
    defaults = {"max_num_seqs": 64, "max_num_batched_tokens": 512}
    blocks = BlockManager(num_blocks=num_blocks, block_size=8)
    return Scheduler(blocks, **(defaults | sizes))


def run_step(scheduler: Scheduler) -> list[ScheduledSequence]:
    """Do what the engine does after scheduling, with token 0 for every ready sequence."""
    scheduled = scheduler.schedule()
    for item in scheduled:
        is_ready = item.is_ready
        item.sequence.num_computed_tokens += item.num_new_tokens
        if is_ready:
            item.sequence.append(0)
            scheduler.charge_output(item.sequence)
        if item.sequence.finish_reason:
            scheduler.finish(item.sequence)
    return scheduled


def steps_to_first_token(scheduler: Scheduler, sequence: Sequence) -> int:
    for number in range(1, 1000):
        run_step(scheduler)
        if sequence.output_token_ids:
            return number
    raise AssertionError("never")


def test_a_short_prompt_beside_long_ones_needs_one_step() -> None:
    scheduler = make_scheduler(num_blocks=3000)
    for number in range(6):
        scheduler.add(make_sequence(number, 2000))
    run_step(scheduler)
    short = make_sequence(9, 64)
    scheduler.add(short)
    assert steps_to_first_token(scheduler, short) == 1


def test_short_prompts_without_end_do_not_starve_a_long_one() -> None:
    scheduler = make_scheduler()
    long = make_sequence(0, 2000)
    scheduler.add(long)
    for number in range(1, 400):
        for _ in range(8):
            scheduler.add(make_sequence(number * 10, 64, max_tokens=1))
        run_step(scheduler)
        if long.output_token_ids:
            break
    assert number <= 2000 // 56


def test_prompts_use_the_whole_budget_and_never_more() -> None:
    scheduler = make_scheduler(max_num_batched_tokens=100)
    for number in range(5):
        scheduler.add(make_sequence(number, 150))
    sizes = [sum(item.num_new_tokens for item in run_step(scheduler)) for _ in range(7)]
    assert sizes == [100] * 7


def test_decoding_goes_on_beside_a_long_prompt() -> None:
    scheduler = make_scheduler()
    decoding = make_sequence(0, 8, max_tokens=50)
    scheduler.add(decoding)
    run_step(scheduler)
    scheduler.add(make_sequence(1, 5000))
    for _ in range(9):
        assert decoding in [item.sequence for item in run_step(scheduler)]


def test_owners_share_the_engine_evenly_whatever_they_send() -> None:
    scheduler = make_scheduler(max_num_seqs=4)
    for number in range(200):
        scheduler.add(make_sequence(number, 16, owner="flood"))
    modest = [make_sequence(300 + i, 16, owner="modest") for i in range(10)]
    for sequence in modest:
        scheduler.add(sequence)
    served = {"flood": 0, "modest": 0}
    while any(sequence.finish_reason is None for sequence in modest):
        for item in run_step(scheduler):
            served[item.sequence.owner] += item.num_new_tokens
    assert 0.8 < served["flood"] / served["modest"] < 1.6


def test_a_pause_gives_no_claim_to_more() -> None:
    queue = FairQueue()
    lazy, busy = make_sequence(0, owner="lazy"), make_sequence(1, owner="busy")
    queue.arrive(lazy)
    queue.arrive(busy)
    queue.leave(lazy)
    for _ in range(1000):
        queue.charge_output(busy)
    back = make_sequence(2, owner="lazy")
    queue.arrive(back)
    queue.charge_output(back)  # now lazy has had one token more than busy since it came back
    queue.push(back)
    queue.push(make_sequence(3, owner="busy"))
    assert [sequence.owner for sequence in queue.in_order()] == ["busy", "lazy"]


def test_higher_priority_starts_first_and_takes_the_place_of_lower() -> None:
    scheduler = make_scheduler(max_num_seqs=2)
    low = [make_sequence(i, 8, max_tokens=100) for i in range(3)]
    for sequence in low:
        scheduler.add(sequence)
    run_step(scheduler)
    urgent = make_sequence(9, 8, priority=5)
    scheduler.add(urgent)
    running = [item.sequence for item in run_step(scheduler)]
    assert urgent in running
    assert low[0] in running
    assert scheduler.num_preemptions == 1


def test_first_come_first_served_within_one_owner() -> None:
    scheduler = make_scheduler(max_num_seqs=1)
    sequences = [make_sequence(i, 8, max_tokens=2) for i in range(5)]
    for sequence in sequences:
        scheduler.add(sequence)
    finished: list[int] = []
    while scheduler.has_unfinished:
        run_step(scheduler)
        finished += [
            s.sequence_id for s in sequences if s.finish_reason and s.sequence_id not in finished
        ]
    assert finished == [0, 1, 2, 3, 4]


def test_a_prompt_waits_until_the_cache_has_room_for_all_of_it() -> None:
    scheduler = make_scheduler(num_blocks=20)
    first, second = make_sequence(0, 100, max_tokens=2), make_sequence(1, 100)
    scheduler.add(first)
    scheduler.add(second)
    assert [item.sequence for item in run_step(scheduler)] == [first]
    run_step(scheduler)
    assert [item.sequence for item in run_step(scheduler)] == [second]
    assert scheduler.num_preemptions == 0


def test_random_work_of_100000_steps_loses_nothing() -> None:
    rng = random.Random(0)
    blocks = BlockManager(num_blocks=40, block_size=8)
    scheduler = Scheduler(blocks, max_num_seqs=6, max_num_batched_tokens=48)
    alive: list[Sequence] = []
    num_finished = 0
    for number in range(100_000):
        if rng.random() < 0.2 and len(alive) < 8:
            sequence = make_sequence(
                number,
                prompt_token_ids=[rng.randrange(3)] * rng.randrange(1, 120),
                max_tokens=rng.randrange(1, 60),
                priority=rng.randrange(3),
                owner=rng.choice("abc"),
            )
            scheduler.add(sequence)
            alive.append(sequence)
        for item in scheduler.schedule():
            is_ready = item.is_ready
            item.sequence.num_computed_tokens += item.num_new_tokens
            if is_ready:
                item.sequence.append(0)
            blocks.note_computed(item.sequence)
        for sequence in list(alive):
            if sequence.finish_reason or rng.random() < 0.002:
                scheduler.finish(sequence)
                alive.remove(sequence)
                num_finished += 1
        if number % 100 == 0:
            owned = {block for sequence in alive for block in sequence.block_table}
            assert len(owned) + blocks.num_free_blocks == 40
    for sequence in alive:
        scheduler.finish(sequence)
    assert blocks.num_free_blocks == 40
    assert not scheduler.has_unfinished
    assert scheduler.num_preemptions > 100
    assert num_finished > 5000
