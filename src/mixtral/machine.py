"""What this machine has: memory and processors, as this process may use them."""

import os
from pathlib import Path

# Of version 2 and of version 1: limit, use, and what the kernel gives back before it kills.
_CGROUP_FILES = (
    ("memory.max", "memory.current", "memory.stat", "inactive_file"),
    (
        "memory/memory.limit_in_bytes",
        "memory/memory.usage_in_bytes",
        "memory/memory.stat",
        "total_inactive_file",
    ),
)
_CGROUP = Path("/sys/fs/cgroup")


def available_memory_bytes() -> int:
    """Bytes that this process could still take: free memory, or its control group's limit.

    A control group counts file pages that were read as its use, a downloaded model for one. Those
    that are not in active use are free, as they are for the whole machine.
    """
    amounts = [_meminfo_bytes("MemAvailable")]
    for limit, used, stat, field in _CGROUP_FILES:
        maximum, current = _read_int(_CGROUP / limit), _read_int(_CGROUP / used)
        if maximum is not None and current is not None:
            amounts.append(max(0, maximum - current + _stat_bytes(_CGROUP / stat, field)))
    known = [amount for amount in amounts if amount is not None]
    # Without /proc (macOS) the physical memory is the best that the standard library knows.
    return min(known) if known else os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def num_usable_cpus() -> int:
    """Processors that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _meminfo_bytes(field: str) -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    for line in lines:
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    return None


def _stat_bytes(path: Path, field: str) -> int:
    try:
        lines = path.read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith(field + " ")), 0)


def _read_int(path: Path) -> int | None:
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None
