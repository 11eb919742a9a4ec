"""Whether somebody else had the processors: a benchmark on a busy machine should say so.

Linux counts the busy time of all processors in /proc/stat; what this process and its children did
not use of it, others did. On other systems there is no answer.
"""

import os
from pathlib import Path

from mixtral.machine import num_usable_cpus


class OtherProcesses:
    """Counts from the moment it is made."""

    def __init__(self) -> None:
        self._busy_s = _busy_seconds()
        self._own_s = _own_seconds()
        self._begin_s = os.times().elapsed

    def share(self) -> float | None:
        """Return the share of the processors that other processes took so far, 0 to 1."""
        busy_s = _busy_seconds()
        elapsed_s = (os.times().elapsed - self._begin_s) * num_usable_cpus()
        if busy_s is None or self._busy_s is None or elapsed_s <= 0:
            return None
        others_s = (busy_s - self._busy_s) - (_own_seconds() - self._own_s)
        return min(1.0, max(0.0, others_s / elapsed_s))


def _own_seconds() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _busy_seconds() -> float | None:
    try:
        with Path("/proc/stat").open(encoding="ascii") as file:
            fields = [int(field) for field in file.readline().split()[1:]]
    except (OSError, ValueError):
        return None
    user, nice, system, _, _, interrupts, soft_interrupts, stolen = fields[:8]
    ticks = user + nice + system + interrupts + soft_interrupts + stolen
    return ticks / os.sysconf("SC_CLK_TCK")
