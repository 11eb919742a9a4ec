"""Token streams for training: documents laid end to end, cut into steps, in a fixed order.

A stream is a file of uint16 token ids (NumPy's ``.npy``, memory-mapped) in which each document
begins with the token <s>, and for fine-tuning a file of the same length with a 1 for each token
that the loss counts. Steps follow the file: each takes as many whole documents as fit into
``tokens_per_step``; only a document that is longer than a step is cut. So the order of the data
depends on nothing but the file, and a resumed run reads what the stopped one would have read.

    documents of 3, 4, 6 and 12 tokens, steps of at most 8 -> [3 4] [6] [8] [4]

Documents do not see each other: every <s> begins a sequence of its own, and a document longer
than ``max_seq_len`` is cut. A step is split into micro-batches at the ends of sequences:

    sequences of 300, 500, 200 and 400 tokens, micro-batches of at most 800
    -> [300, 500], [200, 400]
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from mixtral.errors import ConfigError
from mixtral.model import TokenBatch

BOS_ID = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainBatch:
    """Tokens of one forward pass and what to predict from each."""

    batch: TokenBatch
    """T tokens, flat, with the boundaries of their documents."""
    targets: Tensor
    """Next token of each, [T], int64; -1 where the loss does not count."""

    @property
    def size(self) -> int:
        """Number of counted tokens."""
        return int((self.targets >= 0).sum())

    @property
    def num_targets(self) -> int:
        """Tokens whose logits are made."""
        return self.size

    def to(self, device: torch.device) -> Self:
        """Return the batch on a device."""
        batch = replace(
            self.batch,
            input_ids=self.batch.input_ids.to(device),
            positions=self.batch.positions.to(device),
        )
        return replace(self, batch=batch, targets=self.targets.to(device))


class TokenStream:
    """A memory-mapped file of token ids, read in steps.

    Args:
        path: ``.npy`` file of uint16 ids.
        tokens_per_step: Most tokens of an optimizer step, over all processes.
        max_seq_len: Longest sequence that attention sees, or what it is at a step.
        micro_batch_tokens: Most tokens of a micro-batch; None makes a step one micro-batch.
        mask_path: ``.npy`` file of uint8, 1 where the loss counts; None counts all.
        vocab_size: V, to check that the ids belong to the model.

    Raises:
        ConfigError: A file is missing, of another type, too short, or has ids outside 0..V-1, a
            mask marks nothing, or a sequence does not fit into a micro-batch.
    """

    def __init__(
        self,
        path: Path,
        *,
        tokens_per_step: int,
        max_seq_len: int | Callable[[int], int],
        vocab_size: int,
        micro_batch_tokens: int | None = None,
        mask_path: Path | None = None,
    ) -> None:
        self._tokens = _open_array(path, np.uint16)
        self._mask = None if mask_path is None else _open_array(mask_path, np.uint8)
        if self._mask is not None and len(self._mask) != len(self._tokens):
            raise ConfigError(
                f"{mask_path} has {len(self._mask)} entries and {path} {len(self._tokens)}; "
                "they must be equally long."
            )
        if self._mask is not None and not self._mask[1:].any():
            raise ConfigError(
                f"{mask_path} marks no token, so the loss has nothing to count; it must have a 1 "
                "for each token that does."
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
        self._bounds = _cut_into_steps(self._tokens, tokens_per_step)
        self._max_seq_len = max_seq_len
        self._micro_batch_tokens = micro_batch_tokens or tokens_per_step

    @property
    def num_steps(self) -> int:
        """Steps in one pass over the file."""
        return len(self._bounds) - 1

    def step(self, index: int) -> Sequence[TrainBatch]:
        """Return the micro-batches of a step; past the end the file begins anew."""
        begin, end = self._bounds[index % self.num_steps : index % self.num_steps + 2]
        piece = self._tokens[begin : end + 1].astype(np.int64)
        targets = piece[1:].copy()
        targets[targets == BOS_ID] = -1
        if self._mask is not None:
            targets[self._mask[begin + 1 : end + 1] == 0] = -1
        limit = (
            self._max_seq_len if isinstance(self._max_seq_len, int) else self._max_seq_len(index)
        )
        starts = _boundaries(piece[:-1], limit)
        groups = _group(starts, self._micro_batch_tokens)
        return [_train_batch(piece[:-1], targets, group) for group in groups]


def _cut_into_steps(tokens: "np.ndarray[Any, np.dtype[Any]]", most: int) -> list[int]:
    """Return where steps begin, and where the last one ends; the last token is only a target."""
    total = len(tokens) - 1
    starts = np.flatnonzero(tokens[:-1] == BOS_ID)
    bounds = [0]
    while bounds[-1] < total:
        end = bounds[-1] + most
        if end < total:
            before = int(np.searchsorted(starts, end, side="right")) - 1
            if before >= 0 and starts[before] > bounds[-1]:
                end = int(starts[before])
        bounds.append(min(end, total))
    return bounds


def _train_batch(
    tokens: "np.ndarray[Any, np.dtype[np.int64]]",
    targets: "np.ndarray[Any, np.dtype[np.int64]]",
    starts: list[int],
) -> TrainBatch:
    begin, end = starts[0], starts[-1]
    positions = np.concatenate([np.arange(b - a) for a, b in pairwise(starts)])
    return TrainBatch(
        batch=TokenBatch(
            input_ids=torch.from_numpy(tokens[begin:end].copy()),
            positions=torch.from_numpy(positions),
            starts=[start - begin for start in starts],
        ),
        targets=torch.from_numpy(targets[begin:end].copy()),
    )


def _boundaries(tokens: "np.ndarray[Any, np.dtype[np.int64]]", max_seq_len: int) -> list[int]:
    documents = [0, *np.flatnonzero(tokens == BOS_ID).tolist(), len(tokens)]
    starts = [0]
    for begin, end in pairwise(documents):
        starts.extend(range(begin + max_seq_len, end, max_seq_len))
        if end > starts[-1]:
            starts.append(end)
    return starts


def _group(starts: list[int], max_tokens: int) -> list[list[int]]:
    """Cut boundaries at ends of sequences into groups of so many tokens."""
    groups = [[starts[0]]]
    for begin, end in pairwise(starts):
        if end - begin > max_tokens:
            raise ConfigError(
                f"a sequence has {end - begin} tokens and micro_batch_tokens is {max_tokens}; it "
                "must be at least max_seq_len."
            )
        if end - groups[-1][0] > max_tokens:
            groups.append([begin])
        groups[-1].append(end)
    return groups


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
    if not isinstance(array, np.ndarray):
        raise ConfigError(
            f"{path} is an archive of arrays (.npz); it must be one array (.npy) of "
            f"{np.dtype(dtype)}."
        )
    if array.ndim != 1 or array.dtype != dtype:
        raise ConfigError(
            f"{path} holds {array.dtype} of {array.ndim} dimensions; "
            f"it must be a line of {np.dtype(dtype)}."
        )
    return array
