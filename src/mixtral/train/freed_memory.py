"""What a training step frees is kept for the next one, on CPUs with glibc.

glibc takes each tensor of more than 32 MB, and at first of more than 128 kB, from the system and
gives it back when it is freed. The next step gets the same memory anew, and the system fills it
with zeros, page by page: up to a fifth of a step's time on a virtual machine. PyTorch keeps memory
of GPUs by itself.
"""

import contextlib
import ctypes
import functools
import sys

# Of malloc.h.
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4


@functools.cache
def keep_freed_memory() -> None:
    """Have malloc of this process keep what is freed, from now on; elsewhere it does nothing.

    The process then stays as large as it has been at its largest.
    """
    if sys.platform != "linux":
        return
    with contextlib.suppress(AttributeError):  # a C library without it, such as musl
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_MMAP_MAX, 0)
        mallopt(_TRIM_THRESHOLD, -1)  # never
