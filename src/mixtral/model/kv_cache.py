"""Keys and values of past tokens, kept in blocks of a fixed size.

A sequence owns a list of blocks, its block table; token i of the sequence lies in block
``table[i // P]`` at offset ``i % P``. Blocks of one sequence need not be neighbours, so memory
does not fragment (arXiv:2309.06180, section 4.1). Who owns which block is the engine's business;
this file only holds the tensors.

Worked example, P = 4: a sequence of 6 tokens with table [7, 2] has its tokens 0-3 in the slots
28-31 and its tokens 4-5 in the slots 8-9.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from mixtral.config import ModelConfig


class KVCache:
    """Block storage for all layers.

    Args:
        config: Geometry of the model.
        num_blocks: N, blocks in all.
        block_size: P, tokens per block.
        dtype: Type of the stored keys and values.
        device: Where they live.
    """

    def __init__(
        self,
        config: ModelConfig,
        *,
        num_blocks: int,
        block_size: int,
        dtype: torch.dtype,
        device: torch.device | str = "cpu",
    ) -> None:
        self.block_size = block_size
        self.num_blocks = num_blocks
        slots = (config.num_hidden_layers, 2, num_blocks * block_size)
        shape = (*slots, config.num_key_value_heads, config.head_dim)
        self._storage = _lazy_zeros(shape, dtype, torch.device(device))  # [L, 2, N * P, G, K]

    @property
    def num_bytes(self) -> int:
        """Bytes of the whole cache."""
        return self._storage.numel() * self._storage.element_size()

    def write(self, layer: int, key: Tensor, value: Tensor, slot_mapping: Tensor) -> None:
        """Store new keys and values, [T, G, K] each, in their slots, [T]."""
        self._storage[layer, 0].index_copy_(0, slot_mapping, key)
        self._storage[layer, 1].index_copy_(0, slot_mapping, value)

    def read(self, layer: int, block_table: Sequence[int], length: int) -> tuple[Tensor, Tensor]:
        """Return keys and values of the first ``length`` tokens of a sequence, [C, G, K] each.

        Where the blocks are neighbours this is a view; else they are copied together.
        """
        keys, values = self._storage[layer, 0], self._storage[layer, 1]
        table = block_table[: -(-length // self.block_size)]
        first = table[0]
        if all(block == first + i for i, block in enumerate(table)):
            begin = first * self.block_size
            return keys[begin : begin + length], values[begin : begin + length]
        slots = self._slots(torch.tensor(table, device=keys.device))[:length]
        return keys.index_select(0, slots), values.index_select(0, slots)

    def read_padded(self, layer: int, block_tables: Tensor) -> tuple[Tensor, Tensor]:
        """Return keys and values of S sequences at once, [S, C, G, K] each.

        Args:
            layer: Index of the layer.
            block_tables: [S, B], int64, short tables padded with any valid block id.
        """
        slots = self._slots(block_tables.flatten()).unflatten(0, (block_tables.shape[0], -1))
        return self._storage[layer, 0][slots], self._storage[layer, 1][slots]

    def _slots(self, blocks: Tensor) -> Tensor:
        offsets = torch.arange(self.block_size, device=blocks.device)
        return (blocks[:, None] * self.block_size + offsets).flatten()


def _lazy_zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return zeros; on the CPU their memory is taken page by page, when it is first written.

    Zeros, not garbage: padded reads must be finite even where nothing was written yet.
    """
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    num_bytes = math.prod(shape) * dtype.itemsize
    return torch.from_numpy(np.zeros(num_bytes, dtype=np.uint8)).view(dtype).view(shape)
