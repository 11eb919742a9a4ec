"""Writes what a run has made: a model folder that loads like any other, or an adapter."""

import shutil
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from mixtral.checkpoint import write_checkpoint
from mixtral.checkpoint.peft import write_adapter
from mixtral.checkpoint.staging import copy_tokenizer
from mixtral.model.adapter import Adapter
from mixtral.train.first_model import FirstModel
from mixtral.train.parallel import ParallelContext
from mixtral.train.shards import whole_adapter


def write_result(
    folder: Path, first: FirstModel, context: ParallelContext, adapter: Adapter | None
) -> None:
    """Write a model, or the adapter that was trained on it; an older one is replaced.

    Args:
        folder: Where it goes; the older one is there until the new one is whole.
        first: The model as it is now, and where it came from.

    Raises:
        CheckpointError: It cannot be written.
    """
    trained = context.whole_tensors(first.model, trained_only=adapter is not None)
    if not context.is_main:
        for _ in trained:  # a part of each is here, and the main process needs it
            pass
        return

    def write(new: Path) -> None:
        if adapter is None:
            _write_model(new, first, trained)
        else:
            write_adapter(new, whole_adapter(dict(trained), adapter), first.model.config)

    _replace_folder(folder, write)


def recover_result(folder: Path) -> None:
    """Put a model back whose replacement was stopped between its two renamings.

    Args:
        folder: As for ``write_result``.
    """
    old = _beside(folder, "old")
    if old.is_dir() and not folder.exists():
        old.rename(folder)


def _write_model(folder: Path, first: FirstModel, tensors: Iterable[tuple[str, Tensor]]) -> None:
    source = first.source.folder
    write_checkpoint(
        folder,
        first.model.config.replace(dtype="bfloat16"),
        ((name, tensor.to(torch.bfloat16)) for name, tensor in tensors),
        layout="hf",
        add_tokenizer=None if source is None else partial(copy_tokenizer, source),
    )


def _replace_folder(folder: Path, write: Callable[[Path], None]) -> None:
    """Let ``write`` make a folder beside an older one, then put it in its place."""
    recover_result(folder)
    new, old = _beside(folder, "new"), _beside(folder, "old")
    for leftover in (new, old):
        shutil.rmtree(leftover, ignore_errors=True)
    write(new)
    if folder.exists():
        folder.rename(old)
    new.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def _beside(folder: Path, state: str) -> Path:
    return folder.with_name(f"{folder.name}.{state}")
