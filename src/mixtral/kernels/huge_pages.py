"""Memory in pages of 2 MB, for weights that a step reads from front to back.

With 4 KB pages a processor spends part of its reading time on finding pages, and more of it on
virtual machines, where that takes two lookups. Linux gives large pages to who asks for them, unless
/sys/kernel/mm/transparent_hugepage/enabled says never; then, and on other systems, pages are small.
"""

import contextlib
import mmap

import torch
from torch import Tensor

# Below this a large page would mostly be empty.
_MIN_BYTES = 1 << 22


def empty_bytes(*shape: int) -> Tensor:
    """Return an uninitialised tensor of bytes, in large pages where these are worth it and given.

    Args:
        shape: Its dimensions.

    Returns:
        [shape], uint8, on the CPU.
    """
    count = 1
    for size in shape:
        count *= size
    if count < _MIN_BYTES or not hasattr(mmap, "MADV_HUGEPAGE"):
        return torch.empty(shape, dtype=torch.uint8)
    # Shared memory, which mmap gives unless told, has no large pages on most machines.
    memory = mmap.mmap(-1, count, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(OSError):  # a kernel that was built without large pages
        memory.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(memory, dtype=torch.uint8).view(shape)
