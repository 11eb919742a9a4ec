"""PyTorch's number of threads, also while steps of other models keep PyTorch to one thread.

``torch.set_num_threads`` sets two numbers: that of the calling thread, and the one of all threads
that have not asked yet. So a thread that first asks during a step of another thread would be told
1, and a model made there, or a step begun there, would keep that for ever.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class _QuietSteps:
    """What is known of the steps that run now."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.running = 0
        self.threads = 1  # the number before the first of them began


_STEPS = _QuietSteps()


def num_threads() -> int:
    """Return the number of threads that PyTorch has in this thread when no step runs."""
    with _STEPS.lock:
        return _num_threads()


@contextmanager
def one_thread() -> Iterator[None]:
    """Keep PyTorch to the calling thread; then give it back as many threads as it had."""
    with _STEPS.lock:
        threads = _num_threads()
        if not _STEPS.running:
            _STEPS.threads = threads
        _STEPS.running += 1
        torch.set_num_threads(1)
    try:
        yield
    finally:
        with _STEPS.lock:
            _STEPS.running -= 1
            torch.set_num_threads(threads)


def _num_threads() -> int:
    own = torch.get_num_threads()
    return _STEPS.threads if own == 1 and _STEPS.running else own
