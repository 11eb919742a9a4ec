"""Find, load and call ``libmixtral_cpu.so``.

The library is plain C++ with a C interface, bound with ctypes. So it depends neither on the version
of Python nor on that of torch, and one wheel serves all of them; ctypes gives up the interpreter
lock during a call. Tensors cross the border as addresses, which is why every method here first
checks what C++ cannot: dtype, device, shape and contiguity.

The library holds each kernel once per level of the instruction set ("portable", "avx2", "avx512",
"avx512vnni", "avx512bf16"), and picks the best one for this CPU when it is loaded. The
environment variable ``MIXTRAL_CPU_LEVEL`` forces another one, for tests and for comparisons.

Nothing is loaded at import. This module does not decide who calls a kernel, and knows no model.
"""

import ctypes
import functools
import logging
import os
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from mixtral.errors import ConfigError
from mixtral.kernels.cpu.signatures import bind
from mixtral.kernels.cpu.structures import WEIGHT_FORMATS, Batch, Model, Moe, Weight
from mixtral.quantization import packed_shape

if TYPE_CHECKING:
    from torch import Tensor

FILE_NAME = "libmixtral_cpu.so"
"""Name of the shared library, in the folder of this package."""

LEVEL_VARIABLE = "MIXTRAL_CPU_LEVEL"
"""Environment variable that forces a level of the instruction set."""

logger = logging.getLogger(__name__)


class CpuLibrary:
    """The loaded library; get the one of this process from ``load_library``."""

    def __init__(self, path: Path) -> None:
        """Load and bind the library.

        Args:
            path: The shared library.

        Raises:
            OSError: The file is not a library that this machine can load, or its C interface is
                another one than ours.
        """
        self.path = path
        self._library = bind(path)
        # Kept between calls: fresh memory costs more than the products of a few tokens.
        self._moe_workspace: Tensor | None = None

    @property
    def level(self) -> str:
        """Name of the instruction-set level in use."""
        return _text(self._library.mixtral_cpu_level())

    @property
    def usable_levels(self) -> tuple[str, ...]:
        """Levels that the library has and this CPU can run, slowest first."""
        names = []
        index = 0
        while name := self._library.mixtral_cpu_level_name(index):
            if self._library.mixtral_cpu_level_usable(index):
                names.append(_text(name))
            index += 1
        return tuple(names)

    def force_level(self, name: str) -> None:
        """Use another level from now on, in the whole process.

        Args:
            name: One of ``usable_levels``.

        Raises:
            ConfigError: The name is not one of them; the level stays as it was.
        """
        if self._library.mixtral_cpu_force_level(name.encode()) != 0:
            raise ConfigError(
                f"CPU level is {name!r}; this library on this CPU can use "
                f"{', '.join(self.usable_levels)}. Change or unset {LEVEL_VARIABLE}."
            )

    def set_threads(self, count: int) -> None:
        """Run everything but ``rms_norm`` on this many threads from now on.

        They are the library's own, started when they are first needed, and started anew after a
        fork. They spin for about a millisecond after a call, then sleep.

        Args:
            count: Threads, the caller's included; at least 1.
        """
        self._library.mixtral_set_threads(count)

    def quantize(self, weight: "Tensor", name: str, out: "Tensor | None" = None) -> "Tensor":
        """Pack a weight; the same bytes as ``low_bit.quantize``, which is the specification.

        The values are not checked here (``kernels/quantize.py`` does).

        Args:
            weight: [N, K], float32, contiguous, on the CPU.
            name: int8, int4 or int3.
            out: Where the bytes go, [ceil(N / 32), bytes of a panel], uint8; None is a new tensor.

        Returns:
            ``out``.

        Raises:
            ValueError: The weight's dtype, device or layout is another one.
        """
        _check_float32("weight", weight)
        rows, cols = weight.shape
        packed = weight.new_empty(packed_shape(name, rows, cols)).byte() if out is None else out
        self._library.mixtral_quantize(
            WEIGHT_FORMATS[name], weight.data_ptr(), rows, cols, packed.data_ptr()
        )
        return packed

    def dequantize(self, packed: "Tensor", name: str, out: "Tensor") -> "Tensor":
        """Decode a packed weight; the same values as ``formats.dequantize``, the specification.

        Args:
            packed: [ceil(N / 32), bytes of a panel], uint8, contiguous, on the CPU.
            name: int8, int4 or int3.
            out: Where the values go, [N, K], float32, contiguous, on the CPU.

        Returns:
            ``out``.

        Raises:
            ValueError: A dtype, device, layout or shape is another one.
        """
        _check_float32("out", out)
        rows, cols = out.shape
        wanted = packed_shape(name, rows, cols)
        is_bytes = str(packed.dtype) == "torch.uint8" and packed.device.type == "cpu"
        if not is_bytes or tuple(packed.shape) != wanted or not packed.is_contiguous():
            raise ValueError(
                f"packed is {packed.dtype} {list(packed.shape)} on {packed.device}; {name} of "
                f"{[rows, cols]} must be torch.uint8 {list(wanted)}, contiguous, on cpu."
            )
        self._library.mixtral_dequantize(
            WEIGHT_FORMATS[name], packed.data_ptr(), rows, cols, out.data_ptr()
        )
        return out

    def linear(self, x: "Tensor", weight: Weight, *, exact: bool = False) -> "Tensor":
        """Multiply tokens with a weight of any format: ``x @ weight.T``.

        For packed weights the states of a token become int8, 128 channels per scale, and where that
        would cost more than 1.5 % they become two int8, about 16 bits; integer sums are exact. For
        bfloat16 weights the states become bfloat16. A token's result depends neither on the other
        tokens nor on the number of threads.

        Args:
            x: [T, K], float32, contiguous, on the CPU.
            weight: Description of a weight [N, K]; what it points to must be alive.
            exact: Whether every token gets two int8.

        Returns:
            A new tensor [T, N], float32.

        Raises:
            ValueError: The dtype, device, layout or width of ``x`` is another one.
        """
        _check_float32("x", x)
        if x.dim() != 2 or x.shape[1] != weight.cols:
            raise ValueError(f"x has shape {list(x.shape)}; it must be [T, {weight.cols}].")
        tokens = x.shape[0]
        out = x.new_empty((tokens, weight.rows))
        workspace = x.new_empty(0)
        while needed := self._library.mixtral_linear(
            x.data_ptr(),
            tokens,
            ctypes.byref(weight),
            int(exact),
            out.data_ptr(),
            workspace.data_ptr(),
            workspace.nbytes,
        ):
            workspace = x.new_empty(-(-needed // 4))
        return out

    def moe(
        self,
        x: "Tensor",
        routing_weights: "Tensor",
        expert_ids: "Tensor",
        experts: Sequence[tuple[Weight, Weight, Weight]],
        *,
        exact: bool = False,
    ) -> "Tensor":
        """Run the experts of one layer; the meaning is ``grouped.moe``'s.

        Args:
            x: Token states, [T, D], float32, contiguous, on the CPU.
            routing_weights: [T, A], float32, contiguous.
            expert_ids: [T, A], int64, contiguous, from 0 to E - 1.
            experts: Descriptions of w1 [F, D], w2 [D, F] and w3 [F, D] of E experts.
            exact: Whether states get two int8.

        Returns:
            A new tensor [T, D], float32.

        Raises:
            ValueError: A dtype, device or layout is another one.
        """
        _check_float32("x", x)
        _check_float32("routing_weights", routing_weights)
        if str(expert_ids.dtype) != "torch.int64" or not expert_ids.is_contiguous():
            raise ValueError(f"expert_ids is {expert_ids.dtype}; it must be int64, contiguous.")
        table = (Weight * (3 * len(experts)))()
        for index, (w1, w2, w3) in enumerate(experts):
            table[3 * index], table[3 * index + 1], table[3 * index + 2] = w1, w3, w2
        out = x.new_empty(x.shape)
        call = Moe(
            tokens=x.shape[0],
            hidden=x.shape[1],
            ffn=experts[0][0].rows,
            num_experts=len(experts),
            per_token=expert_ids.shape[1],
            exact=int(exact),
            x=x.data_ptr(),
            expert_ids=expert_ids.data_ptr(),
            routing_weights=routing_weights.data_ptr(),
            experts=ctypes.addressof(table),
            out=out.data_ptr(),
        )
        # A name of our own: another thread may put a larger one in its place during the call.
        workspace = x.new_empty(0) if self._moe_workspace is None else self._moe_workspace
        call.workspace, call.workspace_bytes = workspace.data_ptr(), workspace.nbytes
        while needed := self._library.mixtral_moe(ctypes.byref(call)):
            self._moe_workspace = workspace = x.new_empty(-(-needed // 4))
            call.workspace, call.workspace_bytes = workspace.data_ptr(), workspace.nbytes
        return out

    def run_step(self, model: Model, batch: Batch) -> int:
        """Run one step of a model; ``model/cpu_transformer.py`` fills the structures.

        Returns:
            0; or, where ``batch.workspace`` is too small for the threads set last, the bytes that
            it needs. Then nothing was done.
        """
        return int(self._library.mixtral_run_step(ctypes.byref(model), ctypes.byref(batch)))

    def adapter_workspace_bytes(self, model: Model, *, tokens: int, max_rank: int) -> int:
        """Return the bytes of ``Adapters.workspace`` for a step with so many tokens."""
        return int(
            self._library.mixtral_adapter_workspace_bytes(ctypes.byref(model), tokens, max_rank)
        )

    def kv_cache_bytes(self, model: Model, *, slots: int) -> int:
        """Return the bytes of a KV cache of ``slots`` tokens, a multiple of 16."""
        return int(self._library.mixtral_kv_cache_bytes(ctypes.byref(model), slots))

    def read_probe(self, memory: "Tensor") -> float:
        """Return the bytes per second at which all threads together read a tensor of bytes."""
        seconds = self._library.mixtral_read_probe(memory.data_ptr(), memory.numel())
        return memory.numel() / float(seconds)

    def int8_peak_probe(self, steps: int = 2_000_000) -> float:
        """Return the int8 operations per second of all threads; 0 where the level has none.

        Args:
            steps: Length of the measurement; 2 million take some 50 ms.
        """
        operations = ctypes.c_double()
        seconds = self._library.mixtral_peak_probe(steps, ctypes.byref(operations))
        return operations.value / float(seconds)

    def rms_norm(self, x: "Tensor", weight: "Tensor", eps: float) -> "Tensor":
        """Scale each row to unit root mean square, then by a learned weight.

        Same result as ``reference.rms_norm`` up to rounding, and the same bits on every level. Runs
        on the calling thread; autograd does not see it.

        Args:
            x: [..., D], float32, contiguous, on the CPU.
            weight: [D], float32, contiguous, on the CPU.
            eps: Added to the mean square.

        Returns:
            A new tensor, shape of ``x``, float32.

        Raises:
            ValueError: A dtype, device, layout or shape is another one.
        """
        _check_float32("x", x)
        _check_float32("weight", weight)
        if x.dim() < 1 or weight.shape != x.shape[-1:]:
            raise ValueError(
                f"weight has shape {list(weight.shape)}; it must be [D], the last dimension of x, "
                f"which has shape {list(x.shape)}."
            )
        out = x.new_empty(x.shape)
        cols = weight.numel()
        self._library.mixtral_rms_norm_f32(
            x.data_ptr(),
            weight.data_ptr(),
            out.data_ptr(),
            x.numel() // max(cols, 1),
            cols,
            eps,
        )
        return out


@functools.cache
def load_library() -> CpuLibrary | None:
    """Return the library of this installation, loaded once per process.

    The level in use, or why there is no library, is logged once at level INFO.

    Returns:
        The library, or None where it was not built or does not fit; use plain PyTorch then.

    Raises:
        ConfigError: ``MIXTRAL_CPU_LEVEL`` names a level that cannot be used here.
    """
    spec = find_spec("mixtral.kernels.cpu")
    folders = spec.submodule_search_locations if spec else None
    # An editable installation has two folders: the sources, and what CMake installed.
    return open_library(Path(folder) for folder in folders or [])


def open_library(folders: Iterable[Path]) -> CpuLibrary | None:
    """Load the first library found, at the level that ``MIXTRAL_CPU_LEVEL`` asks for.

    Args:
        folders: Where to look for ``FILE_NAME``.

    Returns:
        The library, or None where none of the folders has a usable one.

    Raises:
        ConfigError: ``MIXTRAL_CPU_LEVEL`` names a level that cannot be used here.
    """
    forced_level = os.environ.get(LEVEL_VARIABLE, "")
    path = next((path for folder in folders if (path := folder / FILE_NAME).is_file()), None)
    library = None
    reason = f"{FILE_NAME} is not built"
    if path is not None:
        try:
            library = CpuLibrary(path)
        except OSError as error:
            reason = str(error)
    if library is None:
        if forced_level:
            raise ConfigError(
                f"{LEVEL_VARIABLE} is {forced_level!r}, but there is no CPU library to use it: "
                f"{reason}. Unset the variable, or install the package with a C++ compiler at hand."
            )
        logger.info("CPU kernels: plain PyTorch, because %s", reason)
        return None
    if forced_level:
        library.force_level(forced_level)
    logger.info("CPU kernels: %s, from %s", library.level, library.path)
    return library


def _text(name: bytes) -> str:
    return name.decode("ascii")


def _check_float32(name: str, tensor: "Tensor") -> None:
    # Compared as text, so that this module does not import torch.
    if str(tensor.dtype) != "torch.float32" or tensor.device.type != "cpu":
        raise ValueError(
            f"{name} is {tensor.dtype} on {tensor.device}; it must be torch.float32 on cpu."
        )
    if not tensor.is_contiguous():
        raise ValueError(
            f"{name} has strides {list(tensor.stride())}; it must be contiguous. "
            "Call .contiguous() first."
        )
