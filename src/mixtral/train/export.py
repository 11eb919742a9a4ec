"""Writes what a run has made: a model folder that loads like any other, or an adapter."""

import shutil
from collections.abc import Callable
from pathlib import Path

import torch

from mixtral.checkpoint import write_checkpoint
from mixtral.checkpoint.peft import write_adapter
from mixtral.checkpoint.staging import copy_tokenizer
from mixtral.model.lora import lora_adapter
from mixtral.train.first_model import FirstModel


def write_result(folder: Path, first: FirstModel) -> None:
    """Write a model, or the adapter that was trained on it; an older one is replaced.

    Args:
        folder: Where it goes; the older one is there until the new one is whole.
        first: The model as it is now, and where it came from.

    Raises:
        CheckpointError: It cannot be written.
    """
    _replace_folder(folder, _write_adapter if first.is_adapted else _write_model, first)


def _write_model(folder: Path, first: FirstModel) -> None:
    model = first.model
    write_checkpoint(
        folder,
        model.config.replace(dtype="bfloat16"),
        ((name, p.detach().to(torch.bfloat16)) for name, p in model.named_parameters()),
        layout="hf",
    )
    if first.source.folder is not None:
        copy_tokenizer(first.source.folder, folder)


def _write_adapter(folder: Path, first: FirstModel) -> None:
    adapter = lora_adapter(first.model, base_model=first.source.name)
    write_adapter(folder, adapter, first.model.config)


def _replace_folder(
    folder: Path, write: Callable[[Path, FirstModel], None], first: FirstModel
) -> None:
    """Let ``write`` make a folder beside an older one, then put it in its place."""
    new, old = (folder.with_name(f"{folder.name}.{state}") for state in ("new", "old"))
    for leftover in (new, old):
        shutil.rmtree(leftover, ignore_errors=True)
    write(new, first)
    if folder.exists():
        folder.rename(old)
    new.rename(folder)
    shutil.rmtree(old, ignore_errors=True)
