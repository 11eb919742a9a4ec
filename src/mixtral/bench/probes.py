"""What the machine could do at this moment: the ceilings that a benchmark stands beside.

* ``read_gb_per_s``: a pass over 512 MB (far larger than any cache), bytes over time, on the threads
  that torch has. On a CPU it is the better of two programs, our library's reading loop and torch's
  sum of int64; a matrix-vector product of torch, the obvious choice, reads at a third of it and
  would flatter every decode. On a GPU it is a copy of 2 GB, bytes read and written added up.
* ``int8_gops``: the ceiling of low-bit kernels. A loop of nothing but multiply-add instructions
  (``vpdpbusd``) in our library; ``torch._int_mm`` where the library or the instruction is missing;
  null on a GPU, where nothing here runs int8.
* ``bf16_gflops``: torch's product of two square bfloat16 matrices, 2 n^3 over time, with n 2048, or
  8192 on a GPU; smaller where a product of that size would take longer than 0.1 s.

A probe is the best of three runs, so that it is a ceiling. The caller takes one before and one
after each timed repeat.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal

import torch
from torch import Tensor

from mixtral.kernels.cpu import CpuLibrary, load_library

_RUNS = 3
# Where a processor lacks the instructions, torch takes a minute for the full size.
_LONGEST_PRODUCT_S = 0.1
_SMALLEST_SIZE = 128
# A few milliseconds at 10^12 operations per second and thread.
_PEAK_STEPS = 1_000_000


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
        """Return the median of each ceiling; that of two is their mean."""
        int8 = [probe.int8_gops for probe in probes if probe.int8_gops is not None]
        return cls(
            read_gb_per_s=median(probe.read_gb_per_s for probe in probes),
            int8_gops=median(int8) if int8 else None,
            bf16_gflops=median(probe.bf16_gflops for probe in probes),
        )

    def ceiling(self, name: Literal["int8", "bf16"] | None) -> float | None:
        """Return a ceiling of arithmetic, 10^9 operations per second; None where it has none."""
        if name is None:
            return None
        return self.int8_gops if name == "int8" else self.bf16_gflops


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
        self._library = None if is_gpu else load_library()
        self._buffer = torch.ones(count, dtype=torch.int64, device=self._device)
        self._target = torch.empty_like(self._buffer) if is_gpu else None
        self._matrix = self._largest_matrix(size, torch.bfloat16, torch.mm)
        has_int8 = not is_gpu and hasattr(torch, "_int_mm")
        self._int8 = self._largest_matrix(size, torch.int8, torch._int_mm) if has_int8 else None
        self.measure()  # the first run pays for page faults and for choosing a kernel

    def measure(self) -> Probes:
        """Take all probes now; about a tenth of a second."""
        # torch's threads spin for a while after their work; the library's probes give them time.
        bf16 = (
            2
            * self._matrix.shape[0] ** 3
            / self._best(lambda: torch.mm(self._matrix, self._matrix))
        )
        read = self._read_torch()
        int8: float | None = None
        if self._library is not None:
            self._library.set_threads(torch.get_num_threads())
            int8 = self._peak_library(self._library)
            read = max(read, self._read_library(self._library))
        return Probes(
            read_gb_per_s=read / 1e9,
            int8_gops=(int8 or self._peak_torch() or 0.0) / 1e9 or None,
            bf16_gflops=bf16 / 1e9,
        )

    def _largest_matrix(
        self, size: int, dtype: torch.dtype, product: Callable[[Tensor, Tensor], Tensor]
    ) -> Tensor:
        """Return a square matrix of at most ``size`` rows whose product does not take long."""
        rows = min(_SMALLEST_SIZE, size)
        while True:
            matrix = torch.randn(rows, rows, device=self._device).to(dtype)
            product(matrix, matrix)  # the first one chooses a kernel
            seconds = self._best(lambda matrix=matrix: product(matrix, matrix))  # type: ignore[misc]
            if 2 * rows > size or 8 * seconds > _LONGEST_PRODUCT_S:
                return matrix
            rows *= 2

    def _read_torch(self) -> float:
        """Return bytes per second."""
        size = self._buffer.nbytes
        if self._target is None:
            return size / self._best(self._buffer.sum)
        target = self._target
        return 2 * size / self._best(lambda: target.copy_(self._buffer))

    def _read_library(self, library: CpuLibrary) -> float:
        memory = self._buffer.view(torch.uint8)
        return max(library.read_probe(memory) for _ in range(_RUNS))

    def _peak_library(self, library: CpuLibrary) -> float:
        """Return int8 operations per second; 0 where this level has no such instruction."""
        return max(library.int8_peak_probe(_PEAK_STEPS) for _ in range(_RUNS))

    def _peak_torch(self) -> float | None:
        int8 = self._int8
        if int8 is None:
            return None
        return 2 * int8.shape[0] ** 3 / self._best(lambda: torch._int_mm(int8, int8))

    def _best(self, run: Callable[[], Tensor]) -> float:
        """Return the seconds of the shortest run."""
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


def float32_gflops() -> float:
    """Return the ceiling of float32 products on the CPU, 10^9 operations per second.

    It is the best of five products of square matrices of 1,024, on the threads that torch has.
    """
    matrix = torch.randn(1024, 1024)
    seconds = []
    for _ in range(5):
        begin = time.perf_counter()
        torch.mm(matrix, matrix)
        seconds.append(time.perf_counter() - begin)
    return float(2 * 1024**3 / min(seconds) / 1e9)
