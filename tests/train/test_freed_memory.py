"""Memory that is freed is kept by the process and comes back without new pages."""

import platform
import subprocess
import sys

import pytest

_NEW_PAGES = """
import resource, sys
import torch
from mixtral.train.freed_memory import keep_freed_memory

if sys.argv[1] == "keep":
    keep_freed_memory()
torch.zeros(1 << 24)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    torch.zeros(1 << 24)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the setting is glibc's")
def test_a_tensor_in_the_place_of_a_freed_one_takes_no_new_pages() -> None:
    def new_pages(how: str) -> int:
        command = [sys.executable, "-c", _NEW_PAGES, how]
        return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

    assert new_pages("keep") < new_pages("leave") / 4  # of ten tensors; one may be new
