"""The functions of csrc/abi.h for ctypes: what each returns and takes, and how they are bound."""

import ctypes
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ABI_VERSION = 7
"""Version of the C interface that this package speaks; ``MIXTRAL_ABI_VERSION`` in csrc/abi.h."""

_POINTER, _SIZE, _INT = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int
_DOUBLE = ctypes.c_double

SIGNATURES: Mapping[str, tuple[Any, list[Any]]] = {
    "mixtral_abi_version": (_INT, []),
    "mixtral_cpu_level": (ctypes.c_char_p, []),
    "mixtral_cpu_level_name": (ctypes.c_char_p, [_INT]),
    "mixtral_cpu_level_usable": (_INT, [_INT]),
    "mixtral_cpu_force_level": (_INT, [ctypes.c_char_p]),
    "mixtral_rms_norm_f32": (
        None,
        [_POINTER, _POINTER, _POINTER, _SIZE, _SIZE, ctypes.c_float],
    ),
    "mixtral_set_threads": (None, [_INT]),
    "mixtral_quantize": (None, [_INT, _POINTER, _SIZE, _SIZE, _POINTER]),
    "mixtral_dequantize": (None, [_INT, _POINTER, _SIZE, _SIZE, _POINTER]),
    "mixtral_linear": (_SIZE, [_POINTER, _SIZE, _POINTER, _INT, _POINTER, _POINTER, _SIZE]),
    "mixtral_moe": (_SIZE, [_POINTER]),
    "mixtral_run_step": (_SIZE, [_POINTER, _POINTER]),
    "mixtral_adapter_workspace_bytes": (_SIZE, [_POINTER, _SIZE, _SIZE]),
    "mixtral_kv_cache_bytes": (_SIZE, [_POINTER, _SIZE]),
    "mixtral_packed_attention": (_SIZE, [_POINTER, _INT]),
    "mixtral_head_loss": (_SIZE, [_POINTER]),
    "mixtral_read_probe": (_DOUBLE, [_POINTER, _SIZE]),
    "mixtral_peak_probe": (_DOUBLE, [_SIZE, ctypes.POINTER(_DOUBLE)]),
}
"""Name -> type of the result, None for nothing, and types of the arguments."""


def bind(path: Path) -> ctypes.CDLL:
    """Load the library, its functions ready to be called.

    Args:
        path: The shared library.

    Raises:
        OSError: The file is not a library that this machine can load, or its C interface is another
            one than ours.
    """
    library = ctypes.CDLL(str(path))
    version = int(_bound(library, path, "mixtral_abi_version")())
    if version != ABI_VERSION:
        raise OSError(
            f"{path} has ABI version {version}, this package needs {ABI_VERSION}; "
            "install the package again"
        )
    for name in SIGNATURES:
        _bound(library, path, name)
    return library


def _bound(library: ctypes.CDLL, path: Path, name: str) -> Any:
    try:
        function = getattr(library, name)
    except AttributeError as error:
        raise OSError(f"{path} has no {name}; install the package again") from error
    function.restype, function.argtypes = SIGNATURES[name]
    return function
