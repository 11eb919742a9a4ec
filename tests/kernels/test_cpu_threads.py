"""The threads of the C++ library: other numbers of them, other callers, and forks."""

import ctypes
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mixtral.kernels.cpu import CpuLibrary, load_library
from mixtral.kernels.cpu.signatures import bind
from mixtral.kernels.cpu.structures import WEIGHT_FORMATS, Moe, Weight
from mixtral.kernels.cpu_training import _Attention, _HeadLoss
from mixtral.kernels.quantize import quantize


@pytest.fixture
def library() -> Iterator[CpuLibrary]:
    loaded = load_library()
    if loaded is None:
        pytest.skip("the C++ library is not built here")
    loaded.set_threads(2)
    yield loaded
    loaded.set_threads(2)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def describe(packed: Tensor, rows: int, cols: int, name: str = "int4") -> Weight:
    return Weight(data=packed.data_ptr(), rows=rows, cols=cols, format=WEIGHT_FORMATS[name])


def linear_call(functions: ctypes.CDLL, out: Tensor) -> Callable[[Tensor], int]:
    """Return a product [4, 300] x [64, 300] with a workspace of this many floats."""
    x, packed = normal(4, 300), quantize(normal(64, 300, seed=1), "int4")
    weight = describe(packed, 64, 300)

    def run(workspace: Tensor, _: tuple[Tensor, Tensor] = (x, packed)) -> int:
        return functions.mixtral_linear(  # type: ignore[no-any-return]
            x.data_ptr(),
            4,
            ctypes.byref(weight),
            0,
            out.data_ptr(),
            workspace.data_ptr(),
            workspace.nbytes,
        )

    return run


def moe_call(functions: ctypes.CDLL, out: Tensor) -> Callable[[Tensor], int]:
    x, ids, weights = normal(4, 64), torch.zeros(4, 1, dtype=torch.int64), torch.ones(4, 1)
    packed = [quantize(normal(64, 64, seed=i), "int4") for i in range(3)]
    experts = (Weight * 3)(*(describe(p, 64, 64) for p in packed))

    def run(workspace: Tensor, _: list[Tensor] = packed) -> int:
        call = Moe(tokens=4, hidden=64, ffn=64, num_experts=1, per_token=1)
        call.x, call.expert_ids, call.routing_weights = (t.data_ptr() for t in (x, ids, weights))
        call.experts, call.out = ctypes.addressof(experts), out.data_ptr()
        call.workspace, call.workspace_bytes = workspace.data_ptr(), workspace.nbytes
        return functions.mixtral_moe(ctypes.byref(call))  # type: ignore[no-any-return]

    return run


def attention_call(functions: ctypes.CDLL, out: Tensor) -> Callable[[Tensor], int]:
    query, key, value, log_sums = normal(4, 2, 32), normal(4, 2, 32), normal(4, 2, 32), normal(4, 2)

    def run(workspace: Tensor) -> int:
        call = _Attention(num_sequences=2, heads=2, kv_heads=2, head_dim=32)
        call.starts = (ctypes.c_int64 * 3)(0, 1, 4)
        call.query, call.key, call.value = (t.data_ptr() for t in (query, key, value))
        call.out, call.log_sums = out.data_ptr(), log_sums.data_ptr()
        call.workspace, call.workspace_floats = workspace.data_ptr(), workspace.numel()
        return 4 * functions.mixtral_packed_attention(ctypes.byref(call), 0)  # type: ignore[no-any-return]

    return run


def head_loss_call(functions: ctypes.CDLL, out: Tensor) -> Callable[[Tensor], int]:
    states, weight, targets = normal(64, 16), normal(500, 16), torch.arange(64)

    def run(workspace: Tensor) -> int:
        call = _HeadLoss(rows=64, hidden=16, vocab=500, grad_scale=1.0)
        call.states, call.weight, call.targets = (t.data_ptr() for t in (states, weight, targets))
        call.losses = out.data_ptr()
        call.workspace, call.workspace_floats = workspace.data_ptr(), workspace.numel()
        return 4 * functions.mixtral_head_loss(ctypes.byref(call))  # type: ignore[no-any-return]

    return run


@pytest.mark.parametrize("make", [linear_call, moe_call, attention_call, head_loss_call])
def test_workspace_of_fewer_threads_is_refused_and_nothing_done(
    library: CpuLibrary, make: Callable[[ctypes.CDLL, Tensor], Callable[[Tensor], int]]
) -> None:
    out = torch.full((256,), 7.0)
    run = make(bind(library.path), out)
    library.set_threads(1)
    small = torch.empty(run(torch.empty(0)) // 4)
    library.set_threads(3)
    needed = run(small)
    assert needed > small.nbytes
    assert (out == 7.0).all()
    assert run(torch.empty(needed // 4)) == 0
    of_three = out.clone()
    assert not (of_three == 7.0).all()
    library.set_threads(1)
    assert run(small) == 0
    assert torch.equal(out, of_three)


def test_callers_that_change_the_threads_do_not_disturb_each_other(library: CpuLibrary) -> None:
    packed = quantize(normal(512, 384, seed=1), "int4")
    weight = describe(packed, 512, 384)
    states = [normal(9, 384, seed=seed) for seed in range(48)]
    expected = [library.linear(x, weight) for x in states]

    def run(index: int) -> Tensor:
        library.set_threads(1 + index % 4)
        return library.linear(states[index], weight)

    with ThreadPoolExecutor(max_workers=4) as threads:
        found = list(threads.map(run, range(48)))
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def in_child(library: CpuLibrary, check: Callable[[], bool]) -> bool:
    """Run a check in a fork, which starts without threads."""
    child = os.fork()
    if child == 0:
        passed = False
        try:
            passed = check()
        finally:
            os._exit(0 if passed else 1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_threads_above_the_number_sleep_while_others_work(library: CpuLibrary) -> None:
    tasks = Path("/proc/self/task")
    if not Path("/proc/self/schedstat").exists():
        pytest.skip("needs /proc/self/task/*/schedstat")
    packed = quantize(normal(512, 384, seed=1), "int4")
    x, weight = normal(9, 384), describe(packed, 512, 384)

    def names() -> set[str]:
        return {task.name for task in tasks.iterdir()}

    def seconds(names: set[str]) -> float:
        return sum(int((tasks / name / "schedstat").read_text().split()[0]) for name in names) / 1e9

    def check() -> bool:
        library.set_threads(2)
        library.linear(x, weight)
        before = names()
        library.set_threads(6)
        library.linear(x, weight)
        surplus = names() - before
        library.set_threads(2)
        for _ in range(20):  # they notice, and go to sleep
            library.linear(x, weight)
        begin = seconds(surplus)
        for _ in range(300):
            library.linear(x, weight)
        return len(surplus) == 4 and seconds(surplus) - begin < 0.001

    assert in_child(library, check)


# With one thread, which is the caller: no worker was ever started. A machine that is busy may end
# the call before the fork; that fork shows nothing, and there is another try.
_FORK_DURING_A_CALL = """
import array, ctypes, os, signal, sys, threading
from mixtral.kernels.cpu.signatures import bind
from pathlib import Path

library = bind(Path(sys.argv[1]))
library.mixtral_set_threads(1)
rows = 1 << 13
weight = array.array("f", range(1, 129)) * rows
for _ in range(20):
    packed = (ctypes.c_uint8 * (rows // 32 * 2176))()
    arguments = (4, weight.buffer_info()[0], rows, 128, ctypes.addressof(packed))
    call = threading.Thread(target=library.mixtral_quantize, args=arguments)
    call.start()
    while not any(packed[:128]):
        pass
    child = os.fork()
    if child == 0:
        signal.alarm(10)
        library.mixtral_set_threads(1)
        os._exit(0)
    is_during_call = call.is_alive()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    call.join()
    if is_during_call:
        sys.exit(status)
sys.exit("the call always ended before the fork")
"""


def test_fork_during_a_call_on_one_thread_leaves_no_lock(library: CpuLibrary) -> None:
    command = [sys.executable, "-W", "ignore", "-c", _FORK_DURING_A_CALL, str(library.path)]
    assert subprocess.run(command, check=False, timeout=60).returncode == 0
