"""Which sequence owns which block of the KV cache, and what may be shared. No tensors.

A block holds the keys and values of P tokens. Full blocks never change, so sequences that begin
with the same tokens share them; each block counts its owners. A block that nobody owns any more
keeps its contents until its place is needed: the next request with the same beginning finds it
(prefix cache). The least recently used go first, and of one sequence its last blocks before its
first, so that what remains is always a beginning.

What a block holds is named by the pair (name of the block before, its P tokens); the name of a
block is a number given out once. A dictionary looks the pair up, and so compares the tokens
themselves: two texts can never be taken for each other. The name before the first block is another
one for each adapter, because the same tokens have other keys and values there.

Worked example, P = 2: tokens ``5 6 7 8 9`` store (0, (5, 6)) as name 1 and (1, (7, 8)) as name 2;
a later prompt ``5 6 7 8 1`` finds both and runs only its last token.

At every moment free + used = all blocks, where used blocks have at least one owner.
"""

from collections import OrderedDict
from dataclasses import dataclass

from mixtral.engine.sequence import Sequence
from mixtral.errors import OutOfBlocks

_Content = tuple[int, tuple[int, ...]]


@dataclass(kw_only=True, slots=True)
class CacheCounts:
    """What the prefix cache did since the start."""

    num_queries: int = 0
    """Tokens of prompts that were looked up."""
    num_hits: int = 0
    """Tokens that were found."""


class BlockManager:
    """Hands out blocks and takes them back.

    Args:
        num_blocks: N, blocks in all.
        block_size: P, tokens per block.
        enable_prefix_cache: Whether contents outlive their owners. Without it only the answers to
            one prompt (``n``) share blocks.
    """

    def __init__(
        self, *, num_blocks: int, block_size: int, enable_prefix_cache: bool = True
    ) -> None:
        self.num_blocks = num_blocks
        self.block_size = block_size
        self.counts = CacheCounts()
        self._keeps_contents = enable_prefix_cache
        # A stack with the lowest id on top: a lone sequence gets neighbours, which read faster.
        self._blank = list(range(num_blocks - 1, -1, -1))
        self._cached: OrderedDict[int, None] = OrderedDict()  # no owner, least recently used first
        self._num_owners = [0] * num_blocks
        self._block_of: dict[_Content, int] = {}
        self._content_of: dict[int, tuple[_Content, int]] = {}  # block -> content and its name
        self._next_name = 1

    @property
    def num_free_blocks(self) -> int:
        """Blocks that nobody owns, cached ones included."""
        return len(self._blank) + len(self._cached)

    @property
    def num_cached_blocks(self) -> int:
        """Blocks that nobody owns and whose contents may serve again."""
        return len(self._cached)

    def num_owners(self, block: int) -> int:
        """Sequences that own a block."""
        return self._num_owners[block]

    def num_missing_blocks(self, sequence: Sequence, num_tokens: int) -> int:
        """Blocks that a sequence still lacks to hold ``num_tokens`` tokens."""
        return max(0, -(-num_tokens // self.block_size) - len(sequence.block_table))

    def can_allocate(self, sequence: Sequence, num_tokens: int) -> bool:
        """Whether the sequence could now grow to ``num_tokens`` tokens."""
        return self.num_missing_blocks(sequence, num_tokens) <= self.num_free_blocks

    def allocate(self, sequence: Sequence, num_tokens: int) -> None:
        """Give a sequence the blocks it lacks to hold ``num_tokens`` tokens.

        Raises:
            OutOfBlocks: Fewer are free than it lacks; nothing is changed then.
        """
        missing = self.num_missing_blocks(sequence, num_tokens)
        if missing > self.num_free_blocks:
            raise OutOfBlocks(f"{missing} blocks are needed and {self.num_free_blocks} are free.")
        sequence.block_table.extend(self._take_blank() for _ in range(missing))

    def reuse(self, sequence: Sequence) -> None:
        """Give a sequence without blocks those that already hold its leading tokens.

        Tokens whose logits are wanted are left to run; that is at least the last one.
        """
        found = self._find(sequence)
        for block, name in found:
            self._cached.pop(block, None)
            self._num_owners[block] += 1
            sequence.block_table.append(block)
            sequence.content_ids.append(name)
        sequence.num_computed_tokens = len(found) * self.block_size
        self.counts.num_queries += sequence.num_tokens
        self.counts.num_hits += sequence.num_computed_tokens

    def num_reusable_blocks(self, sequence: Sequence) -> tuple[int, int]:
        """Return the blocks that ``reuse`` would find, and how many of them nobody owns now."""
        found = self._find(sequence)
        return len(found), sum(self._num_owners[block] == 0 for block, _ in found)

    def note_computed(self, sequence: Sequence) -> None:
        """Make the blocks that a sequence has filled since the last call known to others."""
        size = self.block_size
        for index in range(len(sequence.content_ids), sequence.num_computed_tokens // size):
            before = sequence.content_ids[-1] if index else self._root(sequence)
            tokens = tuple(sequence.token_slice(index * size, (index + 1) * size))
            content = (before, tokens)
            block = sequence.block_table[index]
            if (known := self._block_of.get(content)) is not None:
                # Someone computed the same at the same time; this copy stays private.
                sequence.content_ids.append(self._content_of[known][1])
                continue
            name, self._next_name = self._next_name, self._next_name + 1
            self._block_of[content] = block
            self._content_of[block] = (content, name)
            sequence.content_ids.append(name)

    def free(self, sequence: Sequence) -> None:
        """Take back all blocks of a sequence."""
        # The last block first: it is then the first to be overwritten.
        for block in reversed(sequence.block_table):
            self._num_owners[block] -= 1
            if self._num_owners[block]:
                continue
            if block in self._content_of and self._keeps_contents:
                self._cached[block] = None
            else:
                self._forget(block)
                self._blank.append(block)
        sequence.block_table.clear()
        sequence.content_ids.clear()
        sequence.num_computed_tokens = 0

    def _find(self, sequence: Sequence) -> list[tuple[int, int]]:
        """Return blocks, with their names, that hold the leading tokens of a sequence."""
        if sequence.needs_routing or not (self._keeps_contents or sequence.leader):
            return []
        size = self.block_size
        found: list[tuple[int, int]] = []
        name = self._root(sequence)
        for begin in range(0, sequence.num_shareable_tokens - size + 1, size):
            tokens = tuple(sequence.token_slice(begin, begin + size))
            block = self._block_of.get((name, tokens))
            if block is None:
                break
            name = self._content_of[block][1]
            found.append((block, name))
        return found

    def _root(self, sequence: Sequence) -> int:
        """Return the name before the first block, one per adapter; 0 or less, unlike all others.

        Without a prefix cache, one per prompt.
        """
        if self._keeps_contents:
            return 0 if sequence.adapter is None else -1 - sequence.adapter
        return -1 - (sequence.leader or sequence).sequence_id

    def _take_blank(self) -> int:
        if self._blank:
            block = self._blank.pop()
        else:
            block, _ = self._cached.popitem(last=False)
            self._forget(block)
        self._num_owners[block] = 1
        return block

    def _forget(self, block: int) -> None:
        if (known := self._content_of.pop(block, None)) is not None:
            del self._block_of[known[0]]
