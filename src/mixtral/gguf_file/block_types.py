"""How GGUF stores weights: blocks of neighbours in a row that share one or two scales.

A row of K weights is K / ``weights`` blocks of ``num_bytes`` bytes each, so K must be a multiple of
``weights``. What a block looks like inside is for the ``gguf`` package, which this table is tested
against. Source: ggml-org/ggml, include/ggml.h (numbers) and src/ggml-common.h (sizes).
"""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class BlockType:
    """One way to store weights."""

    name: str
    """ggml's name."""
    code: int
    """ggml's number, as it stands in the file."""
    weights: int
    """Weights per block."""
    num_bytes: int
    """Bytes per block."""

    def bytes_of(self, shape: tuple[int, ...]) -> int:
        """Return the bytes of a tensor; its last size must be a multiple of ``weights``.

        >>> BLOCK_TYPES["Q4_0"].bytes_of((2, 64))
        72
        """
        count = 1
        for size in shape:
            count *= size
        return count // self.weights * self.num_bytes


F32 = BlockType("F32", 0, 1, 4)
F16 = BlockType("F16", 1, 1, 2)
Q4_0 = BlockType("Q4_0", 2, 32, 18)
Q8_0 = BlockType("Q8_0", 8, 32, 34)
BF16 = BlockType("BF16", 30, 1, 2)

_ALL = (
    F32,
    F16,
    Q4_0,
    BlockType("Q4_1", 3, 32, 20),
    BlockType("Q5_0", 6, 32, 22),
    BlockType("Q5_1", 7, 32, 24),
    Q8_0,
    BlockType("Q2_K", 10, 256, 84),
    BlockType("Q3_K", 11, 256, 110),
    BlockType("Q4_K", 12, 256, 144),
    BlockType("Q5_K", 13, 256, 176),
    BlockType("Q6_K", 14, 256, 210),
    BlockType("IQ2_XXS", 16, 256, 66),
    BlockType("IQ2_XS", 17, 256, 74),
    BlockType("IQ3_XXS", 18, 256, 98),
    BlockType("IQ1_S", 19, 256, 50),
    BlockType("IQ4_NL", 20, 32, 18),
    BlockType("IQ3_S", 21, 256, 110),
    BlockType("IQ2_S", 22, 256, 82),
    BlockType("IQ4_XS", 23, 256, 136),
    BlockType("IQ1_M", 29, 256, 56),
    BF16,
)

BLOCK_TYPES: Mapping[str, BlockType] = {kind.name: kind for kind in _ALL}
"""Every type that this package reads, by name."""

BLOCK_TYPES_BY_CODE: Mapping[int, BlockType] = {kind.code: kind for kind in _ALL}
"""The same by number."""

STORED_DTYPES: Mapping[str, str] = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
"""The types without scales, with the name of the dtype they are."""
