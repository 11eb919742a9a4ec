"""Which inputs run together. Numbers only: no tensors, no threads.

A batch is padded to its longest input, and padding costs what text costs. So inputs are sorted by
length, and a batch ends where the padding costs more than one more forward pass would, or where the
batch would be too large. Between requests the rounds are shared out equally, so that one request
with 2,048 texts does not make another with one text wait for all of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchLimits:
    """How large forward passes are."""

    max_tokens: int
    """Padded tokens of a pass; a longer input runs alone."""
    pass_tokens: int
    """What a pass costs beside its tokens, in tokens."""


CPU_LIMITS = BatchLimits(max_tokens=2048, pass_tokens=32)
"""Measured with all-MiniLM-L6-v2: a pass costs 9 ms and 0.27 ms per token on one core; 2,048 tokens
stay in its cache, 8,192 are 15 % slower."""
GPU_LIMITS = BatchLimits(max_tokens=16_384, pass_tokens=512)
"""Not measured: enough tokens to fill a GPU, few enough for the memory beside a language model."""


def plan_batches(lengths: Sequence[int], *, limits: BatchLimits, max_batch: int) -> list[list[int]]:
    """Return the forward passes as lists of indices, shortest inputs first.

    Args:
        lengths: Tokens of each input, at least 1.
        limits: Size of a pass.
        max_batch: Inputs in one pass.

    >>> plan_batches([7, 400, 5, 390], limits=CPU_LIMITS, max_batch=64)
    [[2, 0], [3, 1]]
    """
    batches: list[list[int]] = []
    num_tokens = 0
    for index in sorted(range(len(lengths)), key=lengths.__getitem__):
        # Sorted, so this input is the longest so far and sets the width.
        count = len(batches[-1]) + 1 if batches else 1
        padded = count * lengths[index]
        padding = padded - num_tokens - lengths[index]
        is_full = count > max_batch or padded > limits.max_tokens
        if not batches or is_full or padding > limits.pass_tokens:
            batches.append([])
            num_tokens = 0
        batches[-1].append(index)
        num_tokens += lengths[index]
    return batches


def share_round(waiting: Sequence[int], *, size: int) -> list[int]:
    """Return how many inputs of each request run next.

    Each request gets an equal part; what some do not need goes to the oldest of the others.

    Args:
        waiting: Inputs left of each request, oldest request first.
        size: Inputs of the round.

    >>> share_round([2000, 1, 1], size=64)
    [62, 1, 1]
    >>> share_round([1, 1, 1], size=2)
    [1, 1, 0]
    """
    shares = [0] * len(waiting)
    left = min(size, sum(waiting))
    while left:
        hungry = [i for i, count in enumerate(waiting) if shares[i] < count]
        part = max(1, left // len(hungry))
        for i in hungry:
            given = min(part, waiting[i] - shares[i], left)
            shares[i] += given
            left -= given
    return shares
