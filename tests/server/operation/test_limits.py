"""Rates and queues of keys, against a clock of our own."""

import asyncio
import random

import pytest

from mixtral.server.keys import ApiKey
from mixtral.server.limits import MAX_HOLD_S, LimitReached, Limits


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_minutes_worth_passes_at_once_then_requests_are_held_then_refused() -> None:
    clock = Clock()
    limits = Limits(clock=clock)
    key = ApiKey(name="a", requests_per_minute=60)
    assert [limits.hold_s(key) for _ in range(60)] == [0.0] * 60
    # One per second is paid back; each further one waits a second longer than the one before.
    held = [limits.hold_s(key) for _ in range(int(MAX_HOLD_S))]
    assert held == pytest.approx([1.0, 2.0, 3.0, 4.0, 5.0])
    with pytest.raises(LimitReached, match=r"may have 60 requests per minute; try again in 6 s"):
        limits.hold_s(key)
    clock.now += 6
    assert limits.hold_s(key) == pytest.approx(0.0)


def test_refused_request_does_not_count() -> None:
    clock = Clock()
    limits = Limits(clock=clock)
    key = ApiKey(name="a", requests_per_minute=1)
    limits.hold_s(key)
    for _ in range(100):
        with pytest.raises(LimitReached) as caught:
            limits.hold_s(key)
        assert caught.value.retry_after_s == 60
    clock.now += 60
    assert limits.hold_s(key) == 0


def test_idle_minutes_are_not_saved_up() -> None:
    clock = Clock()
    limits = Limits(clock=clock)
    key = ApiKey(name="a", requests_per_minute=2)
    clock.now += 6000
    assert [limits.hold_s(key), limits.hold_s(key)] == [0, 0]
    with pytest.raises(LimitReached):
        limits.hold_s(key)


def test_tokens_are_booked_afterwards_and_paid_back_before_the_next_request() -> None:
    clock = Clock()
    limits = Limits(clock=clock)
    key = ApiKey(name="a", tokens_per_minute=600)
    assert limits.hold_s(key) == 0
    assert limits.enter(key) is None
    limits.leave(key, num_tokens=1200)
    with pytest.raises(LimitReached, match=r"600 tokens per minute; try again in 61 s"):
        limits.hold_s(key)
    clock.now += 59
    assert limits.hold_s(key) == pytest.approx(1.1)


def test_keys_do_not_share_their_limits() -> None:
    limits = Limits(clock=Clock())
    a, b = (ApiKey(name=name, requests_per_minute=1) for name in "ab")
    assert limits.hold_s(a) == limits.hold_s(b) == 0


def test_limit_that_a_reload_changed_holds_at_once() -> None:
    limits = Limits(clock=Clock())
    assert limits.hold_s(ApiKey(name="a", requests_per_minute=1)) == 0
    assert limits.hold_s(ApiKey(name="a", requests_per_minute=10)) == 0
    assert limits.hold_s(ApiKey(name="a")) == 0


def test_slots_are_given_in_order_of_arrival_and_the_queue_is_bounded() -> None:
    async def scenario() -> None:
        limits = Limits()
        key = ApiKey(name="a", max_concurrent=2, max_queued=2)
        assert limits.enter(key) is None
        assert limits.enter(key) is None
        first, second = limits.enter(key), limits.enter(key)
        assert first is not None
        assert second is not None
        with pytest.raises(LimitReached, match="2 requests running and 2 waiting"):
            limits.enter(key)
        limits.leave(key)
        assert (first.done(), second.done()) == (True, False)
        limits.give_up(key, second)
        limits.leave(key)
        assert limits.enter(key) is None

    asyncio.run(scenario())


def test_slot_given_to_someone_who_left_is_passed_on() -> None:
    async def scenario() -> None:
        limits = Limits()
        key = ApiKey(name="a", max_concurrent=1)
        limits.enter(key)
        first, second = limits.enter(key), limits.enter(key)
        assert first is not None
        assert second is not None
        limits.leave(key)
        assert first.done()
        limits.give_up(key, first)
        assert second.done()

    asyncio.run(scenario())


def test_random_coming_and_going_loses_no_slot() -> None:
    async def scenario(seed: int) -> None:
        draw = random.Random(seed)
        limits = Limits()
        key = ApiKey(name="a", max_concurrent=3, max_queued=4)
        running = 0
        waiting: list[asyncio.Future[None]] = []
        for _ in range(2000):
            arrived = [slot for slot in waiting if slot.done()]
            waiting = [slot for slot in waiting if not slot.done()]
            running += len(arrived)
            assert running <= 3
            assert not waiting or running == 3
            choice = draw.randrange(3)
            if choice == 0:
                try:
                    slot = limits.enter(key)
                except LimitReached:
                    assert (running, len(waiting)) == (3, 4)
                    continue
                if slot is None:
                    running += 1
                else:
                    waiting.append(slot)
            elif choice == 1 and running:
                limits.leave(key)
                running -= 1
            elif choice == 2 and waiting:
                limits.give_up(key, waiting.pop(draw.randrange(len(waiting))))

    for seed in range(5):
        asyncio.run(scenario(seed))
