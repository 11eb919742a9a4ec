"""GGUF, the one-file format of llama.cpp: what is in a file, without torch and without weights.

``container`` reads and writes the part before the weights, ``block_types`` says how weights are
stored, ``model_config`` translates the metadata of architecture "llama". Weights are read and
written in ``checkpoint/gguf``, the vocabulary is compared in ``tokenizer/gguf_vocabulary``.
"""

from mixtral.gguf_file.container import GgufFile, GgufTensor, read_gguf
from mixtral.gguf_file.model_config import read_gguf_config

__all__ = ["GgufFile", "GgufTensor", "read_gguf", "read_gguf_config"]
