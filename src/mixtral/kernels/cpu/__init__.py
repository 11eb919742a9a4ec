"""The C++ kernels for the CPU, in one shared library behind a C interface.

``library`` finds, loads and binds it; ``csrc`` is its source. The library is optional: where it was
not built, ``load_library`` returns None and the callers compute with plain PyTorch.
"""

from mixtral.kernels.cpu.library import CpuLibrary, load_library

__all__ = ["CpuLibrary", "load_library"]
