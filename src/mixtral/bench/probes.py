"""What the machine could do at this moment: the ceilings that a benchmark stands beside.

Three probes, each a plain torch operator that was found to reach its limit on two Zen 5 cores:

* ``read_gb_per_s``: the sum of a 512 MB int64 tensor (far larger than any cache), bytes over time,
  on the threads that torch has. It reads 84 GB/s there; a bfloat16 matrix-vector product, the
  obvious choice, reads 25 GB/s and would flatter every decode. On a GPU it is a copy of 2 GB, with
  the bytes read and written added up.
* ``bf16_gflops``: a bfloat16 product of two square matrices, 2 n^3 over time, with n 2048, or 8192
  on a GPU.
* ``int8_gops``: the same with int8 into int32 (``torch._int_mm``), the ceiling of low-bit kernels;
  null on a GPU, where nothing here runs int8, and where the installed torch lacks the operator.

A probe is the best of three runs, so that it is a ceiling. The caller takes one before and one
after each timed repeat.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor

_RUNS = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Probes:
    """Ceilings of the machine, taken within a fraction of a second."""

    read_gb_per_s: float
    """Memory bandwidth, 10^9 bytes per second."""
    int8_gops: float | None
    """10^9 int8 operations per second (a multiply-add is two); null where it is not taken."""
    bf16_gflops: float
    """10^9 bfloat16 operations per second."""

    @classmethod
    def median(cls, probes: Sequence["Probes"]) -> "Probes":
        """Return the median of each ceiling."""
        int8 = [probe.int8_gops for probe in probes if probe.int8_gops is not None]
        return cls(
            read_gb_per_s=median(probe.read_gb_per_s for probe in probes),
            int8_gops=median(int8) if int8 else None,
            bf16_gflops=median(probe.bf16_gflops for probe in probes),
        )


class Prober:
    """Takes the probes; its buffers are made once, 0.5 GB on a CPU and 4.5 GB on a GPU.

    Args:
        device: Where the benchmark runs.
        read_bytes: Size of the buffer that is read; None for the size in the module's text.
        matrix_size: Rows of the square matrices; None for the size in the module's text.
    """

    def __init__(
        self,
        device: torch.device | str = "cpu",
        *,
        read_bytes: int | None = None,
        matrix_size: int | None = None,
    ) -> None:
        self._device = torch.device(device)
        is_gpu = self._device.type == "cuda"
        count = (read_bytes or (1 << 31 if is_gpu else 1 << 29)) // 8
        size = matrix_size or (8192 if is_gpu else 2048)
        self._buffer = torch.ones(count, dtype=torch.int64, device=self._device)
        self._target = torch.empty_like(self._buffer) if is_gpu else None
        self._matrix = torch.rand(size, size, device=self._device).sub_(0.5).bfloat16()
        has_int8 = not is_gpu and hasattr(torch, "_int_mm")
        self._int8 = torch.ones(size, size, dtype=torch.int8) if has_int8 else None
        self.measure()  # the first run pays for page faults and for choosing a kernel

    def measure(self) -> Probes:
        """Take all probes now; about a tenth of a second."""
        size = self._matrix.shape[0]
        operations = 2 * size**3
        int8 = self._int8
        read_bytes = self._buffer.nbytes * (1 if self._target is None else 2)
        return Probes(
            read_gb_per_s=read_bytes / self._best(self._read) / 1e9,
            int8_gops=None
            if int8 is None
            else operations / self._best(lambda: torch._int_mm(int8, int8)) / 1e9,
            bf16_gflops=operations / self._best(lambda: torch.mm(self._matrix, self._matrix)) / 1e9,
        )

    def _read(self) -> Tensor:
        if self._target is None:
            return self._buffer.sum()
        return self._target.copy_(self._buffer)

    def _best(self, run: Callable[[], Tensor]) -> float:
        seconds = []
        for _ in range(_RUNS):
            self._synchronize()
            begin = time.perf_counter()
            run()
            self._synchronize()
            seconds.append(time.perf_counter() - begin)
        return min(seconds)

    def _synchronize(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
