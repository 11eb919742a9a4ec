"""The right first results of PyTorch's elementwise functions on a CPU.

PyTorch's wheels for x86 take cosine, exponential and their like from Intel's MKL 2024.2, which
looks up the code of each function when it is first called. Where two threads are the first
together, one of them may get code of low accuracy for its part of that one call
(pytorch/pytorch#188792). The first such call of a model is the cosine of the rotary embedding: now
and then a training run began with another loss (8.42343 instead of 8.42407), and was not repeated
to the bit.
"""

import functools

import torch

# All that PyTorch takes from MKL (ATen/cpu/vml.h at v2.13.0), in float32 and float64.
_FUNCTIONS = (
    *("acos", "asin", "atan", "cos", "erf", "erfc", "erfinv", "exp", "log", "log10", "log2"),
    *("sin", "sqrt", "tan", "tanh", "trunc"),
)


@functools.cache
def find_vector_math() -> None:
    """Have each function looked up by one thread; does nothing when it was called before.

    Models call it when they are made, before the first step can run on several threads.
    """
    for dtype in (torch.float32, torch.float64):
        number = torch.full((1,), 0.5, dtype=dtype, device="cpu")
        for name in _FUNCTIONS:
            getattr(torch, name)(number)
