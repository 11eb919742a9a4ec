"""Whether somebody else had the processors: a benchmark on a busy machine should say so.

Linux counts the busy time of each processor in /proc/stat; what this process and its children did
not use of those that they may run on, others did. On other systems there is no answer.
"""

import os
import time
from pathlib import Path

from mixtral.machine import num_usable_cpus

_STAT = Path("/proc/stat")


class OtherProcesses:
    """Counts from the moment it is made."""

    def __init__(self) -> None:
        self._busy_s = _busy_seconds()
        self._own_s = _own_seconds()
        self._begin_s = time.perf_counter()

    def share(self) -> float | None:
        """Return the share of the processors that other processes took so far, 0 to 1."""
        busy_s = _busy_seconds()
        elapsed_s = (time.perf_counter() - self._begin_s) * num_usable_cpus()
        if busy_s is None or self._busy_s is None or elapsed_s <= 0:
            return None
        others_s = (busy_s - self._busy_s) - (_own_seconds() - self._own_s)
        return min(1.0, max(0.0, others_s / elapsed_s))


def _own_seconds() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _busy_seconds() -> float | None:
    """Return the busy time of the processors of this process; None where not all are counted."""
    try:
        lines = _STAT.read_text(encoding="ascii").splitlines()
        usable = {f"cpu{number}" for number in os.sched_getaffinity(0)}
        counts = [_busy_ticks(line) for line in lines if line.split(" ", 1)[0] in usable]
    except (OSError, ValueError, AttributeError):  # elsewhere os has no sched_getaffinity
        return None
    if len(counts) != len(usable):
        return None
    return sum(counts) / os.sysconf("SC_CLK_TCK")


def _busy_ticks(line: str) -> int:
    fields = [int(field) for field in line.split()[1:]]
    user, nice, system, _, _, interrupts, soft_interrupts, stolen = fields[:8]
    return user + nice + system + interrupts + soft_interrupts + stolen
