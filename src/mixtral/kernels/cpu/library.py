"""Find, load and call ``libmixtral_cpu.so``.

The library is plain C++ with a C interface, bound with ctypes. So it depends neither on the version
of Python nor on that of torch, and one wheel serves all of them; ctypes gives up the interpreter
lock during a call. Tensors cross the border as addresses, which is why every method here first
checks what C++ cannot: dtype, device, shape and contiguity.

The library holds each kernel once per level of the instruction set ("portable", "avx2", "avx512",
"avx512bf16"), and picks the best one for this CPU when it is loaded. The
environment variable ``MIXTRAL_CPU_LEVEL`` forces another one, for tests and for comparisons.

Nothing is loaded at import. This module does not decide who calls a kernel, and knows no model.
"""

import ctypes
import functools
import logging
import os
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from mixtral.errors import ConfigError, UnsupportedError

if TYPE_CHECKING:
    from torch import Tensor

ABI_VERSION = 2
"""Version of the C interface that this module speaks; ``MIXTRAL_ABI_VERSION`` in csrc/abi.h."""

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
        self._library = ctypes.CDLL(str(path))
        try:
            version = int(self._library.mixtral_abi_version())
        except AttributeError as error:
            raise OSError(f"{path} has no mixtral_abi_version") from error
        if version != ABI_VERSION:
            raise OSError(
                f"{path} has ABI version {version}, this package needs {ABI_VERSION}; "
                "install the package again"
            )
        self._bind()

    def _bind(self) -> None:
        library = self._library
        library.mixtral_cpu_level.restype = ctypes.c_char_p
        library.mixtral_cpu_level.argtypes = []
        library.mixtral_cpu_level_name.restype = ctypes.c_char_p
        library.mixtral_cpu_level_name.argtypes = [ctypes.c_int]
        library.mixtral_cpu_level_usable.argtypes = [ctypes.c_int]
        library.mixtral_cpu_force_level.argtypes = [ctypes.c_char_p]
        pointer, size = ctypes.c_void_p, ctypes.c_int64
        library.mixtral_rms_norm_f32.restype = None
        library.mixtral_rms_norm_f32.argtypes = [
            pointer,
            pointer,
            pointer,
            size,
            size,
            ctypes.c_float,
        ]
        library.mixtral_set_parallel.restype = None
        library.mixtral_set_parallel.argtypes = [pointer]
        library.mixtral_linear_bf16.argtypes = [*[pointer] * 3, *[size] * 3, ctypes.c_int]

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

    @property
    def has_linear_bf16(self) -> bool:
        """Whether the level in use has ``linear_bf16``."""
        return bool(self._library.mixtral_has_linear_bf16())

    def share_threads(self) -> bool:
        """Run on the threads of the OpenMP runtime that torch has loaded, from now on.

        One pool for both: two would fight for the cores. Call it when torch is imported.

        Returns:
            Whether the runtime was found; else kernels run on the calling thread alone.
        """
        try:
            # The name under which torch has loaded its own copy; ctypes hands out that one.
            runtime = ctypes.CDLL("libgomp.so.1")
            parallel = ctypes.cast(runtime.GOMP_parallel, ctypes.c_void_p)
        except (OSError, AttributeError) as error:
            logger.info("CPU kernels run on one thread, because %s", error)
            return False
        self._library.mixtral_set_parallel(parallel)
        return True

    def linear_bf16(self, x: "Tensor", weight: "Tensor", num_threads: int) -> "Tensor":
        """Multiply tokens with a weight as it lies in a checkpoint: ``x @ weight.T``.

        Products of bfloat16, sums in float32. A token's result does not depend on the other tokens
        nor on the number of threads. Autograd does not see it. The arguments are not checked: the
        caller (``kernels/linear.py``) has done so.

        Args:
            x: [T, K], bfloat16, contiguous, on the CPU.
            weight: [N, K], bfloat16, contiguous, on the CPU.
            num_threads: Threads to use.

        Returns:
            A new tensor [T, N], bfloat16.

        Raises:
            UnsupportedError: The level in use has no bfloat16 instructions.
        """
        rows, cols = weight.shape
        out = x.new_empty((x.shape[0], rows))
        status = self._library.mixtral_linear_bf16(
            x.data_ptr(), weight.data_ptr(), out.data_ptr(), x.shape[0], rows, cols, num_threads
        )
        if status != 0:
            raise UnsupportedError(f"the CPU level {self.level} has no bfloat16 products.")
        return out

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
