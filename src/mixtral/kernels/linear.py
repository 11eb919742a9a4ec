"""``x @ weight.T`` by the fastest way that this machine has.

On a CPU with bfloat16 instructions, inference in bfloat16 on a few tokens goes to the C++ kernel,
which reads the weights at nearly the speed of memory where torch reads them at half of it
(benchmarks/README.md). All else, and everything that needs gradients, is
``torch.nn.functional.linear``.
"""

import functools

import torch
from torch import Tensor
from torch.nn import functional

from mixtral.kernels.cpu import CpuLibrary, load_library

# Above this, products and not memory take the time, and torch's are faster.
_MAX_KERNEL_ROWS = 16


def linear(x: Tensor, weight: Tensor) -> Tensor:
    """Multiply each row with a weight.

    Args:
        x: [..., K].
        weight: [N, K], dtype and device of ``x``.

    Returns:
        [..., N], dtype of ``x``; sums are float32 for bfloat16.

    Raises:
        RuntimeError: The shapes or dtypes do not agree.
    """
    if x.dtype == torch.bfloat16 and x.numel() <= _MAX_KERNEL_ROWS * x.shape[-1]:
        library = _bf16_library()
        # C++ would read past the end where the widths differ; torch says so.
        fits = weight.dim() == 2 and x.shape[-1] == weight.shape[1]
        if library is not None and fits and _is_plain(x) and _is_plain(weight):
            rows = x.reshape(-1, x.shape[-1])
            out = library.linear_bf16(rows, weight, torch.get_num_threads())
            return out.view(*x.shape[:-1], weight.shape[0])
    return functional.linear(x, weight)


def _is_plain(tensor: Tensor) -> bool:
    """Whether C++ may read the tensor from its address."""
    needs_grad = torch.is_grad_enabled() and tensor.requires_grad
    is_bf16 = tensor.dtype == torch.bfloat16
    return tensor.device.type == "cpu" and is_bf16 and tensor.is_contiguous() and not needs_grad


@functools.cache
def _bf16_library() -> CpuLibrary | None:
    library = load_library()
    if library is None or not library.has_linear_bf16:
        return None
    library.share_threads()
    return library
