"""What the server did just now: tokens of the last seconds, waits of the newest generations.

Prometheus works such numbers out from counters, over any time; this is for those who look at
``/status`` without one. It remembers a few seconds and nothing older.
"""

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

WINDOW_S = 10.0
"""Seconds over which tokens are counted."""

MAX_WAITS = 100
"""Newest generations whose times to the first token are kept."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Activity:
    """The server at one moment."""

    input_tokens_per_s: float
    """Tokens of prompts that were computed, not found in the cache; mean of the window."""
    output_tokens_per_s: float
    """Tokens of answers; mean of the window."""
    num_waits: int
    """Generations that the two times below are of."""
    ttft_p50_s: float | None
    """Half of them had their first token by then; None before the first."""
    ttft_p90_s: float | None
    """Nine in ten."""


class Recent:
    """Takes what happens from any thread, and tells what happened lately.

    Args:
        clock: Seconds that only grow.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._steps: deque[tuple[float, int, int]] = deque()
        self._waits_s: deque[float] = deque(maxlen=MAX_WAITS)

    def note_step(self, *, num_input_tokens: int, num_output_tokens: int) -> None:
        """Count the tokens of one step of the engine."""
        now = self._clock()
        with self._lock:
            self._steps.append((now, num_input_tokens, num_output_tokens))
            self._forget(now)

    def note_first_token(self, wait_s: float) -> None:
        """Note how long one generation took to its first token."""
        with self._lock:
            self._waits_s.append(wait_s)

    def activity(self) -> Activity:
        """Return the numbers of this moment."""
        with self._lock:
            self._forget(self._clock())
            num_input = sum(step[1] for step in self._steps)
            num_output = sum(step[2] for step in self._steps)
            waits_s = sorted(self._waits_s)
        return Activity(
            input_tokens_per_s=num_input / WINDOW_S,
            output_tokens_per_s=num_output / WINDOW_S,
            num_waits=len(waits_s),
            ttft_p50_s=percentile(waits_s, 50),
            ttft_p90_s=percentile(waits_s, 90),
        )

    def _forget(self, now: float) -> None:
        while self._steps and self._steps[0][0] <= now - WINDOW_S:
            self._steps.popleft()


def percentile(ordered: Sequence[float], percent: int) -> float | None:
    """Return the smallest value that ``percent`` of the values do not exceed; None of no values.

    >>> percentile([1.0, 2.0, 3.0, 4.0], 50), percentile([1.0, 2.0, 3.0, 4.0], 90)
    (2.0, 4.0)
    """
    if not ordered:
        return None
    return ordered[max(math.ceil(len(ordered) * percent / 100), 1) - 1]
