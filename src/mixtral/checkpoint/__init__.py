"""Checkpoints: find them, read every published layout, write two of them.

The way of a tensor: ``hub`` or a local path gives a folder; ``folder`` chooses its files;
``containers`` describes and maps them; ``names`` says what each tensor is to us; ``reader`` streams
them as (name, tensor); ``writer`` streams them out again. No module here knows the model.
"""

from mixtral.checkpoint.hub import resolve_model_path
from mixtral.checkpoint.reader import Checkpoint, open_checkpoint
from mixtral.checkpoint.writer import convert, write_checkpoint

__all__ = [
    "Checkpoint",
    "convert",
    "open_checkpoint",
    "resolve_model_path",
    "write_checkpoint",
]
