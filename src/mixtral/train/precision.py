"""In which precision a machine should train."""

import logging
from typing import Literal

import torch

logger = logging.getLogger(__name__)

# Names of PyTorch's list of processor features that mean a matrix product of bfloat16.
_NATIVE = ("avx512_bf16", "amx_bf16", "bf16", "arm_bf16", "sve_bf16")


def compute_dtype(
    requested: Literal["auto", "bfloat16", "float32"], device: torch.device
) -> torch.dtype:
    """Return the precision of forward and backward passes.

    bfloat16 where it was asked for, and with ``auto`` where the device multiplies it in hardware.
    A CPU without that takes some forty times as long for it as for float32.
    """
    is_native = device.type != "cpu" or has_native_bfloat16()
    if requested == "auto":
        return torch.bfloat16 if is_native else torch.float32
    if requested == "bfloat16" and not is_native:
        logger.warning(
            "dtype is bfloat16, which this processor does not multiply in hardware: training will "
            "be many times slower than with dtype = 'auto' or 'float32'"
        )
    return torch.float32 if requested == "float32" else torch.bfloat16


def has_native_bfloat16() -> bool:
    """Whether the processor has instructions for products of bfloat16."""
    capabilities: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
    return any(capabilities.get(name, False) for name in _NATIVE)
