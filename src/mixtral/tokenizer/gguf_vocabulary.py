"""The vocabulary inside a GGUF file: recognise Mistral's, and write it.

A GGUF file carries the pieces of its tokenizer, not the tokenizer. When they are those of v1 or
v3, piece by piece, the SentencePiece file of that version is used, so that chat templates and
encoding are the official ones. Any other vocabulary, a fine-tune's with added tokens for one, is
refused with the first piece that differs; the model then works with token ids.

Two differences are none: special tokens of v3 under their v2 names (``[control_8]`` for
``[IMG]``), and pieces of type "unused" behind the last one, which pad the embedding.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from sentencepiece import SentencePieceProcessor

from mixtral.errors import TokenizerError
from mixtral.gguf_file import GgufFile, read_gguf
from mixtral.gguf_file.container import STRING
from mixtral.gguf_file.encoding import FLOAT32, INT32, Field, boolean, text, uint32
from mixtral.tokenizer.files import built_in_file, load_tokenizer
from mixtral.tokenizer.tokenizer import Tokenizer

Version = Literal["v1", "v3"]

# ggml's types of tokens: include/llama.h, enum llama_token_type.
_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED, _BYTE = 1, 2, 3, 4, 5, 6
# What llama.cpp's own converter gives to padding: it is never the result of a merge.
_PADDING_SCORE = -10000.0


def load_gguf_tokenizer(path: Path, *, vocab_size: int) -> Tokenizer:
    """Load the tokenizer that a GGUF file's vocabulary belongs to.

    Args:
        path: A GGUF file.
        vocab_size: The model's; what it has beyond the pieces becomes padding.

    Raises:
        TokenizerError: The file has no vocabulary, or it is not that of v1 or v3.
        CheckpointError: The file is damaged.
    """
    return load_tokenizer(vocabulary_version(read_gguf(path)), vocab_size=vocab_size)


def vocabulary_version(file: GgufFile) -> Version:
    """Return which of Mistral's vocabularies a file has.

    Raises:
        TokenizerError: It has none, or another one; the message says where it differs.
    """
    pieces = file.metadata.get("tokenizer.ggml.tokens")
    if not isinstance(pieces, list) or not pieces or not isinstance(pieces[0], str):
        raise TokenizerError(
            f"{file.path} has no vocabulary (tokenizer.ggml.tokens); give token ids, or name a "
            "tokenizer with tokenizer='v1' or 'v3'"
        )
    version: Version = "v3" if "[INST]" in pieces[:4] else "v1"
    _compare(file, pieces, version)
    return version


def vocabulary_fields(version: Version | None, vocab_size: int) -> dict[str, Field]:
    """Return the metadata that tell llama.cpp how to tokenize.

    Args:
        version: The tokenizer; None writes that there is none, and llama.cpp takes token ids.
        vocab_size: The model's; padding pieces are added up to it.

    Raises:
        TokenizerError: The tokenizer has more pieces than the model has ids.
    """
    if version is None:
        # Older versions of llama.cpp know "no_vocab" alone, newer ones "none" as well.
        return {"tokenizer.ggml.model": text("no_vocab")}
    model = SentencePieceProcessor(model_file=str(built_in_file(version)))
    num_pieces = int(model.vocab_size())
    if num_pieces > vocab_size:
        raise TokenizerError(
            f"the {version} tokenizer has {num_pieces} pieces, but the model only has "
            f"vocab_size {vocab_size}; they do not belong together"
        )
    padding = range(num_pieces, vocab_size)
    pieces = [str(model.id_to_piece(i)) for i in range(num_pieces)]
    scores = [float(model.get_score(i)) for i in range(num_pieces)]
    kinds = [_kind(model, i, piece) for i, piece in enumerate(pieces)]
    return {
        "tokenizer.ggml.model": text("llama"),
        "tokenizer.ggml.pre": text("default"),
        "tokenizer.ggml.tokens": Field(STRING, pieces + [f"[PAD{i}]" for i in padding]),
        "tokenizer.ggml.scores": Field(FLOAT32, scores + [_PADDING_SCORE for _ in padding]),
        "tokenizer.ggml.token_type": Field(INT32, kinds + [_UNUSED for _ in padding]),
        "tokenizer.ggml.unknown_token_id": uint32(int(model.unk_id())),
        "tokenizer.ggml.add_bos_token": boolean(True),
        "tokenizer.ggml.add_eos_token": boolean(False),
        "tokenizer.ggml.add_space_prefix": boolean(True),
    }


def _kind(model: SentencePieceProcessor, token_id: int, piece: str) -> int:
    if model.IsUnknown(token_id):
        return _UNKNOWN
    if model.IsControl(token_id):
        return _CONTROL
    if model.IsByte(token_id):
        return _BYTE
    # Text that a user may write and that is one token, whatever stands around it.
    return _USER_DEFINED if piece.startswith("[REFERENCE_DOC_") else _NORMAL


def _compare(file: GgufFile, pieces: list[str], version: Version) -> None:
    model = SentencePieceProcessor(model_file=str(built_in_file(version)))
    num_pieces = int(model.vocab_size())
    if len(pieces) < num_pieces:
        raise TokenizerError(
            f"{file.path} has a vocabulary of {len(pieces)} pieces, and {version} has "
            f"{num_pieces}: it is neither v1 nor v3; only token ids can be used"
        )
    for token_id in range(num_pieces):
        has, wanted = pieces[token_id], str(model.id_to_piece(token_id))
        is_special = model.IsControl(token_id) or wanted.startswith("[REFERENCE_DOC_")
        if has != wanted and not (is_special and has == f"[control_{token_id - 2}]"):
            raise TokenizerError(
                f"{file.path} is not Mistral's {version} vocabulary: id {token_id} is {has!r}, "
                f"{version} has {wanted!r}; only token ids can be used"
            )
    kinds = file.metadata.get("tokenizer.ggml.token_type")
    for token_id in range(num_pieces, len(pieces)):
        if not _is_padding(kinds, token_id):
            raise TokenizerError(
                f"{file.path} is not Mistral's {version} vocabulary: it adds {pieces[token_id]!r} "
                f"as id {token_id}; only token ids can be used"
            )


def _is_padding(kinds: object, token_id: int) -> bool:
    if not isinstance(kinds, Sequence) or token_id >= len(kinds):
        return False
    return bool(kinds[token_id] == _UNUSED)
