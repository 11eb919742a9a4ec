"""What this machine has: memory and processors, as this process may use them."""

import os
from pathlib import Path


def available_memory_bytes() -> int:
    """Bytes that this process could still take: free memory, or its control group's limit."""
    amounts = [_meminfo_bytes("MemAvailable")]
    for limit, used in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        (
            "/sys/fs/cgroup/memory/memory.limit_in_bytes",
            "/sys/fs/cgroup/memory/memory.usage_in_bytes",
        ),
    ):
        maximum, current = _read_int(limit), _read_int(used)
        if maximum is not None and current is not None:
            amounts.append(max(0, maximum - current))
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


def _read_int(path: str) -> int | None:
    try:
        return int(Path(path).read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None
