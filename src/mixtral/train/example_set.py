"""Many examples in few arrays, and the part of them that is only measured.

Tokens lie in one array of 16 bits each, and their masks in one of 8, so a million examples of 300
tokens take 0.9 GB.
"""

from array import array
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np

from mixtral.errors import ConfigError
from mixtral.train.chat_data import EncodedRecord, Example

Ints = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True, kw_only=True, slots=True)
class ExampleSet:
    """Many examples in few arrays."""

    token_ids: np.ndarray[Any, np.dtype[Any]]
    """Tokens, uint16 or int32; those of one example stand together."""
    loss_mask: np.ndarray[Any, np.dtype[np.bool_]]
    """Whether each token is learned."""
    begins: Ints
    """Where each example begins among the tokens, [n]."""
    ends: Ints
    """Where each ends, [n]."""
    keys: np.ndarray[Any, np.dtype[np.uint64]]
    """``Record.key`` of the record that each comes from, [n]."""

    @classmethod
    def collect(cls, records: Iterable[EncodedRecord], *, vocab_size: int) -> Self:
        """Gather the examples of records as they come.

        Args:
            records: From ``encode_records``.
            vocab_size: V of the model, with its rows behind the last piece.

        Raises:
            ConfigError: There is no example, or a token is outside 0..V-1: the tokenizer is not
                the model's.
        """
        token_ids = array("H" if vocab_size <= 2**16 else "i")
        loss_mask = bytearray()
        begins, ends, keys = array("q"), array("q"), array("Q")
        for record in records:
            for example in record.examples:
                largest = max(example.token_ids)
                if largest >= vocab_size:
                    raise ConfigError(
                        f"the data has the token {largest}; the model knows 0 to {vocab_size - 1}. "
                        "Use the tokenizer of the model."
                    )
                begins.append(len(token_ids))
                token_ids.extend(example.token_ids)
                loss_mask.extend(example.loss_mask)
                ends.append(len(token_ids))
                keys.append(record.key)
        if not keys:
            raise ConfigError("no record is left to learn from; see what was skipped.")
        return cls(
            token_ids=np.frombuffer(token_ids, dtype=token_ids.typecode),
            loss_mask=np.frombuffer(loss_mask, dtype=np.bool_),
            begins=np.frombuffer(begins, dtype=np.int64),
            ends=np.frombuffer(ends, dtype=np.int64),
            keys=np.frombuffer(keys, dtype=np.uint64),
        )

    def __len__(self) -> int:
        """Return the number of examples."""
        return len(self.keys)

    def __getitem__(self, index: int) -> Example:
        """Return one example; ``IndexError`` past the last ends a loop over the set."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        span = self.span(index)
        return Example(
            token_ids=self.token_ids[span].tolist(), loss_mask=self.loss_mask[span].tolist()
        )

    def span(self, index: int) -> slice:
        """Return where the tokens of an example stand."""
        return slice(int(self.begins[index]), int(self.ends[index]))

    @property
    def num_inputs(self) -> Ints:
        """Tokens that each example runs, [n]."""
        return self.ends - self.begins - 1

    @property
    def num_learned(self) -> int:
        """Learned tokens of all examples."""
        return sum(int(np.count_nonzero(self.loss_mask[self.span(i)])) for i in range(len(self)))

    def split(self, fraction: float, *, seed: int) -> tuple["ExampleSet", "ExampleSet"]:
        """Part the examples into those to learn and those only to measure.

        Args:
            fraction: Share of the questions to measure, above 0 and below 1; see ``held_out``.
            seed: Another seed gives another choice.

        Raises:
            ConfigError: The fraction is outside that range, or one side would be empty.
        """
        is_held_out = held_out(self.keys, fraction, seed=seed)
        num_held_out = int(is_held_out.sum())
        if num_held_out in (0, len(self)):
            raise ConfigError(
                f"valid_fraction is {fraction}, which leaves {len(self) - num_held_out} of "
                f"{len(self)} examples to learn and {num_held_out} to measure; use more data, "
                "another fraction, a file of its own as valid_records, or 0 to measure nothing."
            )
        return self._subset(~is_held_out), self._subset(is_held_out)

    def _subset(self, is_kept: np.ndarray[Any, np.dtype[np.bool_]]) -> "ExampleSet":
        """Return some examples; the tokens stay where they are."""
        return replace(
            self, begins=self.begins[is_kept], ends=self.ends[is_kept], keys=self.keys[is_kept]
        )


def held_out(
    keys: np.ndarray[Any, np.dtype[np.uint64]], fraction: float, *, seed: int
) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Tell which records are only measured, [n].

    A hash of the seed and of what is asked decides for each record, so that it stays on its side
    when other records come or go, and no question is on both sides.

    Args:
        keys: ``Record.key`` of each record, [n].
        fraction: Share of the questions to measure, above 0 and below 1.
        seed: Another seed gives another choice.

    Raises:
        ConfigError: The fraction is outside that range.
    """
    if not 0 < fraction < 1:
        raise ConfigError(f"the held-out fraction is {fraction}; it must be between 0 and 1.")
    mixed = keys ^ np.random.default_rng(seed).integers(2**64, dtype=np.uint64)
    # The last steps of SplitMix64, which make each result uniform over 64 bits.
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    chosen: np.ndarray[Any, np.dtype[np.bool_]]
    chosen = (mixed ^ (mixed >> np.uint64(31))) < np.uint64(fraction * 2**64)
    return chosen
