"""Merge an adapter into the weights that it was trained on: W + scale * B A, as the model streams.

Sums are made in float32 and rounded once, to the type of the stored weight. One tensor is in memory
at a time: the largest sum of 8x7B takes 0.24 GB. What no adapter touches is copied bit for bit.

A packed base is refused: its weights were rounded to a few bits, and rounding them again after the
sum may lose more than the adapter gained. Merge into the weights that it was packed from.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from mixtral.checkpoint.base_weights import warn_of_other_base
from mixtral.checkpoint.containers import cast
from mixtral.checkpoint.names import Layout
from mixtral.checkpoint.peft import read_adapter
from mixtral.checkpoint.reader import Checkpoint, open_checkpoint
from mixtral.checkpoint.staging import copy_tokenizer
from mixtral.checkpoint.writer import WrittenLayout, write_checkpoint
from mixtral.errors import CheckpointError
from mixtral.model.adapter import Adapter

# Two layouts are read and not written; the nearest one takes their place.
_WRITTEN: Mapping[Layout, WrittenLayout] = {
    "hf": "hf",
    "hf_fused": "hf",
    "consolidated": "consolidated",
    "stacked": "consolidated",
}


def merge_adapter(
    base: Path,
    adapter: Path,
    target: Path,
    *,
    on_bytes: Callable[[int], None] | None = None,
) -> None:
    """Write the checkpoint of a model with an adapter merged into it, tokenizer files included.

    An adapter that is known to be of other weights is merged all the same, with a warning.

    Args:
        base: A model folder of any layout, unquantised.
        adapter: A folder in PEFT's format.
        target: The folder to write; it must not exist, or be empty. Its layout is that of the base:
            one matrix per expert, in Hugging Face's or Mistral's names.
        on_bytes: Called with the number of bytes each time some are on their way to disk.

    Raises:
        CheckpointError: The base is packed, the adapter does not fit it, a file is wrong, or the
            target cannot be written.
        UnsupportedError: The adapter is something else than plain LoRA.
    """
    checkpoint = open_checkpoint(base)
    if checkpoint.recipe is not None:
        raise CheckpointError(
            f"{base} is packed as {checkpoint.recipe.name}; an adapter is merged into unquantised "
            "weights. Merge it into those, then pack the result with mixtral convert "
            f"--quantization {checkpoint.recipe.name}, or serve it unmerged."
        )
    found = read_adapter(adapter, checkpoint.config)
    warn_of_other_base({adapter: found}, base, str(base))
    write_checkpoint(
        target,
        checkpoint.config,
        merged_tensors(checkpoint, found),
        layout=_WRITTEN[checkpoint.layout],
        add_tokenizer=partial(copy_tokenizer, base),
        on_bytes=on_bytes,
    )


def merged_tensors(checkpoint: Checkpoint, adapter: Adapter) -> Iterator[tuple[str, Tensor]]:
    """Yield our names and the weights of a model with an adapter merged into it, one at a time.

    Args:
        checkpoint: The base, unquantised.
        adapter: One that fits its config.

    Raises:
        CheckpointError: A sum does not fit into float16.
    """
    for name, weight in checkpoint.tensors(keep=False):
        matrices = adapter.matrices.get(name.removesuffix(".weight"))
        if matrices is None:
            yield name, weight
            continue
        total = weight.to(torch.float32, copy=True)
        total.addmm_(matrices.b, matrices.a, alpha=matrices.scale)
        yield name, cast(total, weight.dtype, name)
        del total  # Before the stream makes the next one.
