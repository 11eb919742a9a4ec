"""A linear layer whose weight is packed and frozen: the base under an adapter (QLoRA).

It takes the place of ``nn.Linear`` in a ``Transformer`` and holds the bytes of a packed checkpoint
as they are, a memory map too: what is trained meets the weights that will be served. The states
are float32 or bfloat16 here; ``CpuTransformer`` rounds them to 16 bits (``exact``) or 8. On normal
states the products differ from the served ones by 3e-5 and 7e-3 of their norm, and the logits of a
small model of two layers by 1e-3 and 1e-2 (keys and values are cached in bfloat16 there).
"""

import torch
from torch import Tensor, nn

from mixtral.kernels import formats, low_bit_grad


class LowBitLinear(nn.Module):
    """``x @ W.T`` with a packed W, [out_features, in_features]; gradients go to x alone.

    Args:
        packed: [ceil(out_features / 32), bytes of a panel], uint8; it is kept, not copied.
        in_features: Width of the states that come in.
        out_features: Width of those that go out.

    Raises:
        ConfigError: No format of this shape has such bytes.
    """

    packed: Tensor
    """The weight, under the name that it has in a packed checkpoint."""

    def __init__(self, packed: Tensor, *, in_features: int, out_features: int) -> None:
        super().__init__()
        self.in_features = in_features
        self.out_features = out_features
        self.format_name = formats.format_of_packed(packed, rows=out_features, cols=in_features)
        self.register_buffer("packed", packed)

    def forward(self, x: Tensor) -> Tensor:
        """Return [T, out_features] for states [T, in_features], same dtype."""
        return low_bit_grad.low_bit_linear(
            x, self.packed, rows=self.out_features, cols=self.in_features
        )

    def dequantize(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return the weight that the bytes stand for, [out_features, in_features]."""
        return low_bit_grad.dequantize(
            self.packed, rows=self.out_features, cols=self.in_features, dtype=dtype
        )

    def extra_repr(self) -> str:
        """Return what ``print(model)`` shows."""
        return f"{self.in_features}, {self.out_features}, {self.format_name}"
