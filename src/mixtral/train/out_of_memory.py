"""A failure to get memory as one line that says what did not fit and what to change."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

from mixtral.errors import UnsupportedError
from mixtral.train.objective import MicroBatch

_MARKS = ("out of memory", "can't allocate memory", "ALLOC_FAILED")  # CUDA, CPU, cuBLAS


@contextmanager
def told_of_memory(what: str, advice: str) -> Iterator[None]:
    """Turn a failure to get memory into one line.

    Args:
        what: What the memory is for.
        advice: What to change so that it fits.

    Raises:
        UnsupportedError: There is not enough memory.
    """
    try:
        yield
    except RuntimeError as error:
        if not any(mark in str(error) for mark in _MARKS):
            raise
        raise UnsupportedError(
            f"there is not enough memory for {what}; {advice}. "
            "mixtral train plan works out what fits; the same command resumes the run."
        ) from error


def told_of_micro_batches(micros: Sequence[MicroBatch]) -> AbstractContextManager[None]:
    """Do so while micro-batches go forward and backward."""
    most = max(micro.batch.input_ids.numel() for micro in micros)
    return told_of_memory(
        f"a micro-batch of {most} tokens",
        "lower micro_batch_tokens or max_seq_len, or set activation_checkpointing = true",
    )


def told_of_evaluation() -> AbstractContextManager[None]:
    """Do so while held-out data is measured, which keeps nothing for a backward pass."""
    return told_of_memory("the held-out data", "lower micro_batch_tokens or max_seq_len")


def told_of_optimizer() -> AbstractContextManager[None]:
    """Do so where the optimizer gets its copies and moments, or steps with them."""
    return told_of_memory(
        "the optimizer, which keeps up to 12 bytes for each weight that is trained",
        "train fewer weights, with a table [lora] or a lower rank in it, or split them over more "
        "devices with torchrun",
    )
