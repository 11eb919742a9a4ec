"""The functions of csrc/abi.h for ctypes: what each returns and takes."""

import ctypes
from collections.abc import Mapping
from typing import Any

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
    "mixtral_linear": (None, [_POINTER, _SIZE, _POINTER, _INT, _POINTER, _POINTER]),
    "mixtral_linear_workspace_bytes": (_SIZE, [_SIZE, _SIZE]),
    "mixtral_moe": (None, [_POINTER]),
    "mixtral_moe_workspace_bytes": (_SIZE, [_POINTER]),
    "mixtral_run_step": (None, [_POINTER, _POINTER]),
    "mixtral_workspace_bytes": (_SIZE, [_POINTER, _SIZE, _SIZE]),
    "mixtral_adapter_workspace_bytes": (_SIZE, [_POINTER, _SIZE, _SIZE]),
    "mixtral_kv_cache_bytes": (_SIZE, [_POINTER, _SIZE]),
    "mixtral_read_probe": (_DOUBLE, [_POINTER, _SIZE]),
    "mixtral_peak_probe": (_DOUBLE, [_SIZE, ctypes.POINTER(_DOUBLE)]),
}
"""Name -> type of the result, None for nothing, and types of the arguments."""
