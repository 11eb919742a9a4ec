"""Checkpoints: find them, read every published layout, write two of them, and pack them.

The way of a tensor: ``hub`` or a local path gives a folder; ``folder`` chooses its files;
``containers`` describes and maps them; ``names`` says what each tensor is to us; ``reader`` streams
them as (name, tensor); ``writer`` streams them out again, ``quantize`` in low-bit formats, of which
``checksums`` proves that no bit was lost. No module here knows the model.
"""

from mixtral.checkpoint.checksums import Verification, verify_checkpoint
from mixtral.checkpoint.hub import resolve_model_path
from mixtral.checkpoint.quantize import (
    TOOL,
    packed_config,
    quantize_checkpoint,
    quantized_tensors,
    write_packed,
)
from mixtral.checkpoint.reader import Checkpoint, open_checkpoint
from mixtral.checkpoint.writer import convert, write_checkpoint

__all__ = [
    "TOOL",
    "Checkpoint",
    "Verification",
    "convert",
    "open_checkpoint",
    "packed_config",
    "quantize_checkpoint",
    "quantized_tensors",
    "resolve_model_path",
    "verify_checkpoint",
    "write_checkpoint",
    "write_packed",
]
