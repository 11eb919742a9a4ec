"""One thread, and probes of a size that takes no time."""

from collections.abc import Iterator

import pytest
import torch

from mixtral.bench.probes import Prober


@pytest.fixture(scope="module")
def prober() -> Prober:
    return Prober(read_bytes=1 << 20, matrix_size=64)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    # Two threads on tiny matrices wait for each other whenever the machine is busy.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
