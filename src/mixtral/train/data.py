"""Token streams for training: documents laid end to end, cut into steps, in a fixed order.

A stream is a file of uint16 token ids (NumPy's ``.npy``, memory-mapped) in which each document
begins with the token <s>, and for fine-tuning a file of the same length with a 1 for each token
that the loss counts. Step i reads tokens i * T to (i + 1) * T: the order of the data depends on
nothing but the file, so a resumed run reads what the stopped one would have read.

Documents do not see each other: every <s> begins a sequence of its own, and a document longer
than ``max_seq_len`` is cut.
"""

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mixtral.errors import ConfigError
from mixtral.model import TokenBatch

BOS_ID = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainBatch:
    """Tokens of one step and what to predict from each."""

    batch: TokenBatch
    """T tokens, flat, with the boundaries of their documents."""
    targets: Tensor
    """Next token of each, [T], int64; -1 where the loss does not count."""


class TokenStream:
    """A memory-mapped file of token ids, read in steps.

    Args:
        path: ``.npy`` file of uint16 ids.
        tokens_per_step: T.
        max_seq_len: Longest sequence that attention sees.
        mask_path: ``.npy`` file of uint8, 1 where the loss counts; None counts all.
        vocab_size: V, to check that the ids belong to the model.

    Raises:
        ConfigError: A file is missing, of another type, too short, or has ids outside 0..V-1.
    """

    def __init__(
        self,
        path: Path,
        *,
        tokens_per_step: int,
        max_seq_len: int,
        vocab_size: int,
        mask_path: Path | None = None,
    ) -> None:
        self._tokens = _open_array(path, np.uint16)
        self._mask = None if mask_path is None else _open_array(mask_path, np.uint8)
        if self._mask is not None and len(self._mask) != len(self._tokens):
            raise ConfigError(
                f"{mask_path} has {len(self._mask)} entries and {path} {len(self._tokens)}; "
                "they must be equally long."
            )
        if len(self._tokens) <= tokens_per_step:
            raise ConfigError(
                f"{path} holds {len(self._tokens)} tokens; one step alone takes "
                f"{tokens_per_step + 1}. Lower tokens_per_step or prepare more data."
            )
        if int(self._tokens.max()) >= vocab_size:
            raise ConfigError(
                f"{path} has the token {int(self._tokens.max())}; the model knows 0 to "
                f"{vocab_size - 1}. Prepare the data with the model's tokenizer."
            )
        self.tokens_per_step = tokens_per_step
        self.max_seq_len = max_seq_len

    @property
    def num_steps(self) -> int:
        """Whole steps in one pass over the file."""
        return (len(self._tokens) - 1) // self.tokens_per_step

    def step(self, index: int) -> TrainBatch:
        """Return the tokens of a step; past the end the file begins anew."""
        begin = index % self.num_steps * self.tokens_per_step
        piece = self._tokens[begin : begin + self.tokens_per_step + 1].astype(np.int64)
        targets = piece[1:].copy()
        targets[targets == BOS_ID] = -1
        if self._mask is not None:
            counts = self._mask[begin + 1 : begin + self.tokens_per_step + 1]
            targets[counts == 0] = -1
        starts = self._boundaries(piece[:-1])
        positions = np.concatenate([np.arange(b - a) for a, b in pairwise(starts)])
        return TrainBatch(
            batch=TokenBatch(
                input_ids=torch.from_numpy(piece[:-1].copy()),
                positions=torch.from_numpy(positions),
                starts=starts,
            ),
            targets=torch.from_numpy(targets),
        )

    def _boundaries(self, tokens: "np.ndarray[tuple[int], np.dtype[np.int64]]") -> list[int]:
        documents = [0, *np.flatnonzero(tokens == BOS_ID).tolist(), len(tokens)]
        starts = [0]
        for begin, end in pairwise(documents):
            starts.extend(range(begin + self.max_seq_len, end, self.max_seq_len))
            if end > starts[-1]:
                starts.append(end)
        return starts


def _open_array(path: Path, dtype: type) -> "np.ndarray[tuple[int], np.dtype[Any]]":
    try:
        array: np.ndarray[Any, np.dtype[Any]] = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError as error:
        raise ConfigError(f"{path} does not exist; prepare the data first.") from error
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror or error}.") from error
    except (ValueError, EOFError) as error:
        raise ConfigError(
            f"{path} is not a NumPy array file, or is cut; prepare the data again."
        ) from error
    if array.ndim != 1 or array.dtype != dtype:
        raise ConfigError(
            f"{path} holds {array.dtype} of {array.ndim} dimensions; "
            f"it must be a line of {np.dtype(dtype)}."
        )
    return array
