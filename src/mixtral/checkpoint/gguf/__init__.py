"""GGUF files as checkpoints: weights in and out.

``names`` says which tensor holds which of ours, ``blocks`` turns blocks into weights and back,
``reader`` streams a file, ``writer`` writes one, ``convert`` goes from a folder to a file and back.
What a file is, without its weights, is in ``mixtral.gguf_file``; its vocabulary in
``mixtral.tokenizer.gguf_vocabulary``.
"""

from mixtral.checkpoint.gguf.convert import (
    convert_from_gguf,
    convert_to_gguf,
    copy_gguf_tokenizer,
)
from mixtral.checkpoint.gguf.reader import GgufCheckpoint, open_gguf
from mixtral.checkpoint.gguf.writer import GgufQuantization, gguf_bytes, write_gguf

__all__ = [
    "GgufCheckpoint",
    "GgufQuantization",
    "convert_from_gguf",
    "convert_to_gguf",
    "copy_gguf_tokenizer",
    "gguf_bytes",
    "open_gguf",
    "write_gguf",
]
