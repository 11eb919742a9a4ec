"""What one forward pass runs: tokens of several sequences, one after the other.

There is no batch dimension and no padding. A prompt of 500 tokens and two sequences that decode
one token each make T = 502 tokens with ``starts`` = (0, 500, 501, 502).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenBatch:
    """Tokens of one forward pass and where they stand.

    The fields after ``starts`` matter only with a KV cache.
    """

    input_ids: Tensor
    """Token ids, [T], int64."""
    positions: Tensor
    """Position of each token in its own sequence, [T], int64."""
    starts: Sequence[int]
    """Sequence boundaries, S + 1 offsets from 0 to T."""
    context_lens: Sequence[int] = ()
    """Tokens of each sequence in the cache after this pass, S values."""
    block_tables: Sequence[Sequence[int]] = ()
    """Cache blocks of each sequence in order, S lists."""
    slot_mapping: Tensor | None = None
    """Where each new token goes: block id * block size + offset, [T], int64."""
    logit_rows: Sequence[int] | None = None
    """Tokens whose logits are wanted, R indices below T; None: the last of each sequence."""
    adapter_ids: Sequence[int | None] = ()
    """Adapter of each sequence among those of the model, S values; empty: none has one."""

    @property
    def wanted_rows(self) -> list[int]:
        """Tokens whose logits are wanted, R indices."""
        if self.logit_rows is not None:
            return list(self.logit_rows)
        return [end - 1 for end in self.starts[1:]]

    @classmethod
    def from_sequences(
        cls,
        sequences: Sequence[Sequence[int]],
        device: torch.device | str = "cpu",
        *,
        adapter_ids: Sequence[int | None] = (),
    ) -> Self:
        """Lay whole sequences flat, for a pass without a cache.

        Args:
            sequences: Token ids of S sequences.
            device: Where the tensors go.
            adapter_ids: Adapter of each sequence; empty: none has one.

        Raises:
            ValueError: There is no sequence, or one is empty.
        """
        lengths = [len(sequence) for sequence in sequences]
        if not lengths or min(lengths) < 1:
            raise ValueError(f"sequence lengths are {lengths}; each must be at least 1.")
        starts = [0]
        for length in lengths:
            starts.append(starts[-1] + length)
        flat = [token for sequence in sequences for token in sequence]
        positions = torch.cat([torch.arange(length) for length in lengths])
        return cls(
            input_ids=torch.tensor(flat, dtype=torch.int64, device=device),
            positions=positions.to(device),
            starts=tuple(starts),
            adapter_ids=tuple(adapter_ids),
        )
