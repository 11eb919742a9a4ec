"""Which sequence owns which block of the KV cache. Plain integers, no tensors.

At every moment, free blocks + owned blocks = all blocks, and no block has two owners.
"""

from mixtral.engine.sequence import Sequence
from mixtral.errors import OutOfBlocks


class BlockManager:
    """Hands out blocks and takes them back.

    Args:
        num_blocks: N, blocks in all.
        block_size: P, tokens per block.
    """

    def __init__(self, *, num_blocks: int, block_size: int) -> None:
        self.num_blocks = num_blocks
        self.block_size = block_size
        # A stack with the lowest id on top: a lone sequence gets neighbours, which read faster.
        self._free = list(range(num_blocks - 1, -1, -1))

    @property
    def num_free_blocks(self) -> int:
        """Blocks that nobody owns."""
        return len(self._free)

    def num_missing_blocks(self, sequence: Sequence, num_tokens: int) -> int:
        """Blocks that a sequence still lacks to hold ``num_tokens`` tokens."""
        return max(0, -(-num_tokens // self.block_size) - len(sequence.block_table))

    def can_allocate(self, sequence: Sequence, num_tokens: int) -> bool:
        """Whether the sequence could now grow to ``num_tokens`` tokens."""
        return self.num_missing_blocks(sequence, num_tokens) <= len(self._free)

    def allocate(self, sequence: Sequence, num_tokens: int) -> None:
        """Give a sequence the blocks it lacks to hold ``num_tokens`` tokens.

        Raises:
            OutOfBlocks: Fewer are free than it lacks; nothing is changed then.
        """
        missing = self.num_missing_blocks(sequence, num_tokens)
        if missing > len(self._free):
            raise OutOfBlocks(f"{missing} blocks are needed and {len(self._free)} are free.")
        sequence.block_table.extend(self._free.pop() for _ in range(missing))

    def free(self, sequence: Sequence) -> None:
        """Take back all blocks of a sequence."""
        self._free.extend(reversed(sequence.block_table))
        sequence.block_table.clear()
