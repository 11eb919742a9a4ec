"""The time of a run, which stands still while a person is asked."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Clock:
    """Counts down from a limit.

    Args:
        limit_s: Seconds; None for no limit.
        now: Tells the time in seconds.
    """

    def __init__(
        self, limit_s: float | None, *, now: Callable[[], float] = time.perf_counter
    ) -> None:
        self._now = now
        self._begin_s = now()
        self._stopped_s = 0.0
        self._limit_s = limit_s

    @property
    def passed_s(self) -> float:
        """Seconds since the beginning, those that stood still included."""
        return self._now() - self._begin_s

    @property
    def left_s(self) -> float | None:
        """Seconds that are left, at least 0; None where there is no limit."""
        if self._limit_s is None:
            return None
        return max(0.0, self._limit_s + self._stopped_s - self.passed_s)

    @property
    def is_over(self) -> bool:
        """Whether no time is left."""
        return self.left_s == 0.0

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Do not count the body's time."""
        begin_s = self._now()
        try:
            yield
        finally:
            self._stopped_s += self._now() - begin_s
