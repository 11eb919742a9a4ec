"""From a model folder to a GGUF file and back, tokenizer included.

The tokenizer changes its form on the way: a GGUF file holds the pieces, a folder the SentencePiece
file. Both are possible only for v1 and v3, whose SentencePiece files mistral-common has; with any
other vocabulary the result has none, which is said. Weights in blocks with scales become bfloat16
in a folder, unless another dtype is asked for.
"""

import logging
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from mixtral.checkpoint.containers import DTYPES
from mixtral.checkpoint.gguf.reader import GgufCheckpoint, open_gguf
from mixtral.checkpoint.gguf.writer import GgufQuantization, write_gguf
from mixtral.checkpoint.reader import Checkpoint, open_checkpoint
from mixtral.checkpoint.writer import WrittenLayout, write_checkpoint
from mixtral.errors import CheckpointError, TokenizerError
from mixtral.tokenizer import has_tokenizer
from mixtral.tokenizer.files import built_in_file, published_version
from mixtral.tokenizer.gguf_vocabulary import Version, vocabulary_version

logger = logging.getLogger(__name__)


def convert_to_gguf(
    source: Path,
    target: Path,
    *,
    quantization: GgufQuantization,
    on_bytes: Callable[[int], None] | None = None,
) -> None:
    """Write a model folder, or another GGUF file, as a GGUF file.

    Args:
        source: A folder of unquantised weights, or a GGUF file.
        target: The file; it must not exist.
        quantization: How matrices are stored.
        on_bytes: Called with the number of bytes each time some are on their way to disk.

    Raises:
        CheckpointError: The source is wrong or packed, or the target cannot be written.
    """
    checkpoint: Checkpoint | GgufCheckpoint
    if source.is_file():
        checkpoint = open_gguf(source)
        version = _version_of_file(checkpoint)
    else:
        checkpoint = open_checkpoint(source)
        if checkpoint.recipe is not None:
            raise CheckpointError(
                f"{source} is packed as {checkpoint.recipe.name}; a GGUF file is made from "
                "unquantised weights. Convert the model that it was made from."
            )
        version = _version_of_folder(source, checkpoint.config.vocab_size)
    write_gguf(
        target,
        checkpoint.config,
        checkpoint.tensors(keep=False),
        quantization=quantization,
        tokenizer_version=version,
        on_bytes=on_bytes,
    )


def convert_from_gguf(
    source: Path,
    target: Path,
    *,
    layout: WrittenLayout,
    dtype: torch.dtype | None = None,
    on_bytes: Callable[[int], None] | None = None,
) -> None:
    """Write a GGUF file as a model folder.

    Args:
        source: A GGUF file.
        target: The folder; it must not exist, or be empty.
        layout: "hf" or "consolidated", as for ``write_checkpoint``.
        dtype: Type of the weights; None is that of most in the file, bfloat16 for blocks.
        on_bytes: Called with the number of bytes each time some are on their way to disk.

    Raises:
        CheckpointError: The file is damaged, or the target cannot be written.
    """
    checkpoint = open_gguf(source)
    write_checkpoint(
        target,
        checkpoint.config,
        checkpoint.tensors(dtype=dtype or DTYPES[checkpoint.dtype], keep=False),
        layout=layout,
        add_tokenizer=partial(copy_gguf_tokenizer, checkpoint),
        on_bytes=on_bytes,
    )


def copy_gguf_tokenizer(checkpoint: GgufCheckpoint, folder: Path) -> None:
    """Put the SentencePiece file of a GGUF file's vocabulary into a folder, if it is v1 or v3."""
    version = _version_of_file(checkpoint)
    if version is not None:
        name = "tokenizer.model" if version == "v1" else "tokenizer.model.v3"
        shutil.copyfile(built_in_file(version), folder / name)


def _version_of_file(checkpoint: GgufCheckpoint) -> Version | None:
    try:
        return vocabulary_version(checkpoint.file)
    except TokenizerError as error:
        logger.warning("%s; the result has no tokenizer", error)
        return None


def _version_of_folder(folder: Path, vocab_size: int) -> Version | None:
    if not has_tokenizer(folder):
        logger.warning("%s has no tokenizer; neither has the result", folder)
        return None
    try:
        return published_version(folder, vocab_size=vocab_size)
    except TokenizerError as error:
        logger.warning("%s; the result has no tokenizer", error)
        return None
