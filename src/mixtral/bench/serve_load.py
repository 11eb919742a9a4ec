"""Sends requests to a server the way users would, and times every answer.

Two kinds of load. *Open loop*: requests arrive by a Poisson process at a given rate, whether or not
the server has kept up; this is what the public does to a service, and the only way to see queues
grow. *Closed loop*: a fixed number of users, each of whom sends the next request when the last
answer is complete; this measures throughput.

The clock of a request starts when it was due, not when it was sent: a load generator that falls
behind must not flatter the server ("coordinated omission"). Everything is written out before the
clock starts; while it runs, one thread moves bytes and notes times. What that costs is measured and
reported as the processor seconds of the client.
"""

import asyncio
import gc
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from mixtral.bench.serve_http import BrokenResponse, ConnectionPool
from mixtral.bench.serve_stream import Answer, BadAnswer, StreamReader
from mixtral.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class Load:
    """How requests arrive: exactly one of the two is given.

    Raises:
        ConfigError: Both or none are given, or a number is outside its range.
    """

    request_rate: float | None = None
    """Mean arrivals per second, of a Poisson process."""
    concurrency: int | None = None
    """Requests under way at any time."""

    def __post_init__(self) -> None:
        """Check the numbers."""
        if (self.request_rate is None) == (self.concurrency is None):
            raise ConfigError("a load has either a request_rate or a concurrency.")
        if self.request_rate is not None and not 0 < self.request_rate < float("inf"):
            raise ConfigError(f"request_rate is {self.request_rate}; it must be above 0.")
        if self.concurrency is not None and self.concurrency < 1:
            raise ConfigError(f"concurrency is {self.concurrency}; it must be at least 1.")

    def __str__(self) -> str:
        """The load in words."""
        if self.request_rate is not None:
            return f"{self.request_rate:g}/s"
        return f"{self.concurrency} at once"


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedRequest:
    """A request as it goes over the wire, and what its answer must be."""

    data: bytes
    num_tokens: int | None
    """Tokens that the answer must have; None where it may be shorter."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What became of one request; times are of ``perf_counter``."""

    due_s: float
    """When it should have been sent."""
    sent_s: float
    """When it was."""
    end_s: float
    """When the answer or the failure was complete."""
    answer: Answer | None
    """None for a failure."""
    failure: str | None = None
    """What went wrong, in one line."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadRun:
    """Everything of one run under one load."""

    load: Load
    outcomes: list[Outcome]
    """Requests that ended, in the order of their end."""
    num_planned: int
    """Requests that should have been sent."""
    begin_s: float
    end_s: float
    client_cpu_s: float
    """Processor seconds of this process during the run."""
    is_cut: bool
    """Whether Ctrl-C ended it."""


class LoadGenerator:
    """Runs loads against one server, over one pool of connections.

    Args:
        pool: The connections.
        timeout_s: Longest time from sending to the end of an answer.
        on_outcome: Called after each request, for a progress bar.
    """

    def __init__(
        self,
        pool: ConnectionPool,
        *,
        timeout_s: float = 600.0,
        on_outcome: Callable[[], None] = lambda: None,
    ) -> None:
        self._pool = pool
        self._timeout_s = timeout_s
        self._on_outcome = on_outcome

    async def run(
        self,
        load: Load,
        requests: Sequence[PlannedRequest],
        *,
        seed: int = 0,
        gaps: Sequence[float] | None = None,
    ) -> LoadRun:
        """Send all requests; return when the last answer is there.

        When the task is cancelled, the requests under way are given up and the others reported.

        Args:
            load: How they arrive.
            requests: What to send, in order.
            seed: Of the arrival times of an open loop.
            gaps: Seconds before each arrival of an open loop; None draws them at its rate.
        """
        outcomes: list[Outcome] = []
        is_cut = False
        with _quiet_collector():
            cpu_s, begin_s = time.process_time(), time.perf_counter()
            try:
                if load.request_rate is not None:
                    gaps = gaps or arrival_gaps(load.request_rate, len(requests), seed=seed)
                    await self._run_open(requests, gaps, outcomes)
                else:
                    await self._run_closed(requests, load.concurrency or 1, outcomes)
            except asyncio.CancelledError:
                is_cut = True
            end_s, cpu_s = time.perf_counter(), time.process_time() - cpu_s
        return LoadRun(
            load=load,
            outcomes=outcomes,
            num_planned=len(requests),
            begin_s=begin_s,
            end_s=max((outcome.end_s for outcome in outcomes), default=end_s),
            client_cpu_s=cpu_s,
            is_cut=is_cut,
        )

    async def _run_open(
        self, requests: Sequence[PlannedRequest], gaps: Sequence[float], outcomes: list[Outcome]
    ) -> None:
        due_s = time.perf_counter()
        async with asyncio.TaskGroup() as tasks:
            for request, gap in zip(requests, gaps, strict=True):
                due_s += gap
                if (wait_s := due_s - time.perf_counter()) > 0:
                    await asyncio.sleep(wait_s)
                tasks.create_task(self._send(request, due_s, outcomes))

    async def _run_closed(
        self, requests: Sequence[PlannedRequest], concurrency: int, outcomes: list[Outcome]
    ) -> None:
        waiting = iter(requests)

        async def send_in_turn() -> None:
            for request in waiting:
                await self._send(request, time.perf_counter(), outcomes)

        async with asyncio.TaskGroup() as tasks:
            for _ in range(min(concurrency, len(requests))):
                tasks.create_task(send_in_turn())

    async def _send(self, request: PlannedRequest, due_s: float, outcomes: list[Outcome]) -> None:
        reader = StreamReader()
        sent_s = time.perf_counter()
        answer, failure = None, None
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._pool.send(request.data, reader)
            answer = reader.answer()
            wanted, found = request.num_tokens, answer.num_tokens
            if wanted is not None and answer.has_usage and found != wanted:
                failure = f"{found} tokens instead of {wanted}"
        except TimeoutError:
            failure = f"no whole answer within {self._timeout_s:g} s"
        except (BadAnswer, BrokenResponse) as error:
            failure = str(error)
        except OSError as error:
            failure = error.strerror or str(error)
        end_s = time.perf_counter() if answer is None else answer.end_s
        outcomes.append(
            Outcome(
                due_s=due_s,
                sent_s=sent_s,
                end_s=end_s,
                answer=answer if failure is None else None,
                failure=failure,
            )
        )
        self._on_outcome()


def arrival_gaps(request_rate: float, count: int, *, seed: int) -> list[float]:
    """Draw the seconds before each arrival of a Poisson process; the first request is due at once.

    Args:
        request_rate: Mean arrivals per second.
        count: How many arrivals.
        seed: Same seed, same times.
    """
    draw = random.Random(f"{seed} arrivals").expovariate
    return [0.0, *(draw(request_rate) for _ in range(count - 1))][:count]


@contextmanager
def _quiet_collector() -> Iterator[None]:
    """Keep the garbage collector from walking over everything that was there before."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
