"""How much each API key may ask: a rate of requests, a rate of tokens, and requests at once.

Clients of old sleep four seconds and more after a 429, so one is sent only where waiting here would
be worse. Three steps, each for one key alone:

1. Requests per minute: a bucket holds a minute's worth and refills evenly. A request that finds it
   empty is held until its share is there, five seconds at most; beyond that it is refused, with
   the time to wait.
2. Tokens per minute: the same bucket, but tokens are known when the answer is over; so they are
   taken then, and the bucket may fall below zero. New requests wait until it is above again.
3. ``max_concurrent`` requests run, ``max_queued`` more wait in order of arrival; others are
   refused.

Times are made up by the caller's clock; everything runs on the event loop.
"""

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from mixtral.errors import RequestError
from mixtral.server.keys import ApiKey

MAX_HOLD_S = 5.0
"""Longest time for which a request is held until its rate allows it."""

_QUEUE_RETRY_S = 5  # Nobody knows when a slot is free; an answer takes seconds.


class LimitReached(RequestError):
    """A key asks for more than it may.

    Args:
        message: One line for the client.
        retry_after_s: Whole seconds after which it may come back.
    """

    def __init__(self, message: str, retry_after_s: int) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Bucket:
    """A rate: as many units as a minute allows, refilled evenly.

    Args:
        per_minute: Units per minute, and units that fit in.
        now: Seconds of the clock.
    """

    def __init__(self, per_minute: int, now: float) -> None:
        self.per_minute = per_minute
        self._level = float(per_minute)
        self._updated = now

    def wait_s(self, units: float, now: float) -> float:
        """Return the seconds until this many units are there; 0 if they are."""
        self._refill(now)
        return max(0.0, units - self._level) * 60 / self.per_minute

    def take(self, units: float, now: float) -> None:
        """Take units out, of the future where they are not there yet."""
        self._refill(now)
        self._level -= units

    def _refill(self, now: float) -> None:
        gained = (now - self._updated) * self.per_minute / 60
        self._level = min(float(self.per_minute), self._level + gained)
        self._updated = now


@dataclass(slots=True)
class _Account:
    """What one key has used."""

    num_running: int = 0
    waiting: "deque[asyncio.Future[None]]" = field(default_factory=deque)
    requests: Bucket | None = None
    tokens: Bucket | None = None


class Limits:
    """The accounts of all keys, by name; they outlive a reload of the key file.

    Args:
        clock: Seconds that only grow.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._accounts: dict[str, _Account] = {}

    def hold_s(self, key: ApiKey) -> float:
        """Book one request and return the seconds for which it must be held first.

        Raises:
            LimitReached: That would be too long; nothing was booked.
        """
        account = self._account(key)
        now = self._clock()
        wait_s = 0.0
        if account.requests is not None:
            wait_s = account.requests.wait_s(1, now)
            _check_hold(key, wait_s, f"{key.requests_per_minute} requests")
        if account.tokens is not None:
            tokens_wait_s = account.tokens.wait_s(1, now)
            _check_hold(key, tokens_wait_s, f"{key.tokens_per_minute} tokens")
            wait_s = max(wait_s, tokens_wait_s)
        if account.requests is not None:
            account.requests.take(1, now)
        return wait_s

    def enter(self, key: ApiKey) -> "asyncio.Future[None] | None":
        """Take a slot; None: it is yours, otherwise it is when the future is done.

        Whoever got a slot must ``leave``; whoever does not wait any longer must ``give_up``.

        Raises:
            LimitReached: Too many wait already.
        """
        account = self._account(key)
        limit = key.max_concurrent
        if limit is None or (account.num_running < limit and not account.waiting):
            account.num_running += 1
            return None
        if len(account.waiting) >= key.max_queued:
            raise LimitReached(
                f"the key {key.name} has {account.num_running} requests running and "
                f"{len(account.waiting)} waiting, which is all it may; send fewer at a time.",
                _QUEUE_RETRY_S,
            )
        slot: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        account.waiting.append(slot)
        return slot

    def give_up(self, key: ApiKey, slot: "asyncio.Future[None]") -> None:
        """Stop waiting for a slot; one that was given just now is passed on."""
        try:
            self._account(key).waiting.remove(slot)
        except ValueError:
            self.leave(key)

    def leave(self, key: ApiKey, *, num_tokens: int = 0) -> None:
        """Free the slot of a request and book its tokens."""
        account = self._account(key)
        if account.tokens is not None and num_tokens:
            account.tokens.take(num_tokens, self._clock())
        account.num_running -= 1
        limit = math.inf if key.max_concurrent is None else key.max_concurrent
        while account.waiting and account.num_running < limit:
            account.num_running += 1
            account.waiting.popleft().set_result(None)

    def _account(self, key: ApiKey) -> _Account:
        account = self._accounts.get(key.name)
        if account is None:
            account = self._accounts[key.name] = _Account()
        account.requests = self._bucket(account.requests, key.requests_per_minute)
        account.tokens = self._bucket(account.tokens, key.tokens_per_minute)
        return account

    def _bucket(self, bucket: Bucket | None, per_minute: int | None) -> Bucket | None:
        if per_minute is None:
            return None
        if bucket is None or bucket.per_minute != per_minute:
            return Bucket(per_minute, self._clock())
        return bucket


def _check_hold(key: ApiKey, wait_s: float, allowed: str) -> None:
    if wait_s > MAX_HOLD_S:
        seconds = math.ceil(wait_s)
        raise LimitReached(
            f"the key {key.name} may have {allowed} per minute; try again in {seconds} s.", seconds
        )
