"""Quantise a matrix in the fastest way that this machine has; ``low_bit`` is the specification."""

import torch
from torch import Tensor

from mixtral.kernels import formats, low_bit
from mixtral.kernels.cpu import load_library
from mixtral.kernels.huge_pages import empty_bytes


def quantize(weight: Tensor, name: str) -> Tensor:
    """Quantise and pack a matrix; equal weights give equal bytes, with or without C++.

    Args:
        weight: [N, K], any float dtype.
        name: Format: ``int8``, ``int4`` or ``int3``.

    Returns:
        [ceil(N / 32), bytes of a panel], uint8, on the device of ``weight``.

    Raises:
        ConfigError: The format is unknown, or the weight is not a matrix of finite floats.
    """
    library = load_library()
    if library is None:
        return low_bit.quantize(weight, name)
    form = formats.weight_format(name)
    low_bit.check_weight(weight)
    library.set_threads(torch.get_num_threads())
    packed = empty_bytes(*form.packed_shape(weight.shape[0], weight.shape[1]))
    library.quantize(weight.detach().float().cpu().contiguous(), name, packed)
    return packed.to(weight.device)
