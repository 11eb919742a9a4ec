"""Memory in large pages: as much one's own as any other, and had or not had without an error."""

import mmap
import os

import pytest

from mixtral.kernels import huge_pages
from mixtral.kernels.huge_pages import empty_bytes

SHAPE = (4, 1 << 20)  # large enough for large pages


def test_child_of_a_fork_writes_to_a_copy() -> None:
    memory = empty_bytes(*SHAPE)
    memory[:, 0] = 7
    child = os.fork()
    if child == 0:
        memory[:, 0] = 8
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert memory[:, 0].tolist() == [7, 7, 7, 7]


def test_memory_is_private_as_large_pages_want_it() -> None:
    memory = empty_bytes(*SHAPE)
    try:
        with open("/proc/self/maps") as maps:
            areas = [line.split() for line in maps]
    except OSError:
        pytest.skip("needs /proc")
    for area, rights, *_ in areas:
        begin, end = (int(address, 16) for address in area.split("-"))
        if begin <= memory.data_ptr() < end:
            assert rights == "rw-p"


def test_kernel_without_large_pages_gives_small_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    class Memory(mmap.mmap):
        def madvise(self, *_: int) -> None:
            raise OSError(22, "Invalid argument")

    monkeypatch.setattr(huge_pages.mmap, "mmap", Memory)
    memory = empty_bytes(*SHAPE)
    memory[3, -1] = 5
    assert tuple(memory.shape) == SHAPE
    assert memory[3, -1] == 5
