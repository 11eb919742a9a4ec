"""PyTorch's number of threads around steps that keep it to one thread."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Thread

import pytest
import torch

from mixtral.model.torch_threads import num_threads, one_thread


@pytest.fixture(autouse=True)
def _three_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def in_new_thread(ask: Callable[[], int]) -> int:
    found: list[int] = []
    thread = Thread(target=lambda: found.append(ask()))
    thread.start()
    thread.join()
    return found[0]


def test_step_keeps_pytorch_to_one_thread_and_gives_the_others_back() -> None:
    with one_thread():
        assert torch.get_num_threads() == 1
        assert num_threads() == 3
    assert torch.get_num_threads() == 3


def test_thread_that_begins_during_a_step_is_told_the_number_outside_of_it() -> None:
    with one_thread():
        assert in_new_thread(torch.get_num_threads) == 1  # what PyTorch says
        assert in_new_thread(num_threads) == 3


def test_step_in_a_thread_that_began_during_another_step_leaves_all_threads() -> None:
    def step() -> int:
        with one_thread():
            pass
        return torch.get_num_threads()

    with one_thread():
        assert in_new_thread(step) == 3
    assert torch.get_num_threads() == 3
    assert in_new_thread(torch.get_num_threads) == 3


def test_steps_that_overlap_leave_all_threads() -> None:
    with ThreadPoolExecutor(max_workers=1) as other:
        first, second = one_thread(), one_thread()
        first.__enter__()
        other.submit(second.__enter__).result()
        first.__exit__(None, None, None)
        other.submit(second.__exit__, None, None, None).result()
        assert other.submit(torch.get_num_threads).result() == 3
    assert torch.get_num_threads() == 3
    assert in_new_thread(torch.get_num_threads) == 3


def test_number_of_a_thread_of_its_own_is_kept() -> None:
    def step() -> int:
        torch.set_num_threads(2)
        with one_thread():
            pass
        return torch.get_num_threads()

    with one_thread():
        assert in_new_thread(step) == 2
