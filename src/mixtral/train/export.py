"""Writes what a run has made: a model folder that loads like any other."""

import shutil
from collections.abc import Callable
from pathlib import Path

import torch

from mixtral.checkpoint import write_checkpoint
from mixtral.checkpoint.staging import copy_tokenizer
from mixtral.model import Transformer


def write_model(folder: Path, model: Transformer, *, tokenizer_from: Path | None) -> None:
    """Write a model in the Hugging Face layout, bfloat16; an older one is replaced.

    Args:
        folder: Where it goes; the older one is there until the new one is whole.
        model: The model as it is now.
        tokenizer_from: Folder whose tokenizer files are copied; None copies none.

    Raises:
        CheckpointError: It cannot be written.
    """

    def write(new: Path) -> None:
        write_checkpoint(
            new,
            model.config.replace(dtype="bfloat16"),
            ((name, p.detach().to(torch.bfloat16)) for name, p in model.named_parameters()),
            layout="hf",
        )
        if tokenizer_from is not None:
            copy_tokenizer(tokenizer_from, new)

    replace_folder(folder, write)


def replace_folder(folder: Path, write: Callable[[Path], None]) -> None:
    """Let ``write`` make a folder beside an older one, then put it in its place."""
    new, old = (folder.with_name(f"{folder.name}.{state}") for state in ("new", "old"))
    for leftover in (new, old):
        shutil.rmtree(leftover, ignore_errors=True)
    write(new)
    if folder.exists():
        folder.rename(old)
    new.rename(folder)
    shutil.rmtree(old, ignore_errors=True)
