"""Tokens that a fine-tune added to its vocabulary, and chat templates that are not Mistral's.

A fine-tune on another chat format often keeps Mistral's SentencePiece file and names its new
tokens, ``<|im_start|>`` for one, in files of Hugging Face beside it. Their rows of the embedding
are trained, but the SentencePiece file would spell them with ordinary pieces. Such a tokenizer is
refused. Tokens that only pad (``<pad>``) change nothing, and neither do those that have a piece.
"""

import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mixtral.errors import TokenizerError

_SETTINGS_FILE = "tokenizer_config.json"
_FILES = ("added_tokens.json", _SETTINGS_FILE, "tokenizer.json")
_PADDING = re.compile(r"<\|?pad_?\d*\|?>|\[pad\d*\]", re.IGNORECASE)

logger = logging.getLogger(__name__)


def refuse_added_tokens(folder: Path, *, num_pieces: int, vocab_size: int | None) -> None:
    """Check that no file of a folder names tokens behind the last piece of its tokenizer.

    Args:
        folder: A model folder.
        num_pieces: Pieces of its SentencePiece file.
        vocab_size: The model's; a token that it has no row for cannot matter. None is unknown.

    Raises:
        TokenizerError: One does, or it cannot be read.
    """
    if vocab_size is not None and vocab_size <= num_pieces:
        return
    for file in (folder / name for name in _FILES):
        added = {
            token_id: content
            for token_id, content in (_added_tokens(file) if file.is_file() else ())
            if num_pieces <= token_id and (vocab_size is None or token_id < vocab_size)
            if not _PADDING.fullmatch(content)
        }
        if added:
            first = min(added)
            raise TokenizerError(
                f"{file} adds {added[first]!r} as id {first} to the {num_pieces} pieces of the "
                "tokenizer; supported are Mistral's v1 and v3 without added tokens. Give token "
                "ids, or name v1 or v3 as the tokenizer to run the model without those tokens"
            )


def warn_of_other_template(folder: Path) -> None:
    """Say so where a folder has a chat template that is not Mistral's, which is used anyway."""
    file = folder / _SETTINGS_FILE
    try:
        template = _read(file).get("chat_template") if file.is_file() else None
    except TokenizerError:
        return  # Nothing else is read from it.
    # Every template of Mistral spells this, of whatever version.
    if template and "[INST]" not in json.dumps(template):
        logger.warning(
            "%s has a chat template without [INST]; conversations are written in Mistral's own",
            file,
        )


def _added_tokens(file: Path) -> Iterator[tuple[int, str]]:
    """Yield ids and tokens that a file names, in whichever of the three forms it has."""
    values = _read(file)
    try:
        if file.name == _SETTINGS_FILE:
            for token_id, token in dict(values.get("added_tokens_decoder") or {}).items():
                yield int(token_id), str(token["content"])
        elif file.name == "tokenizer.json":
            for token in list(values.get("added_tokens") or []):
                yield int(token["id"]), str(token["content"])
        else:
            for content, token_id in values.items():
                yield int(token_id), str(content)
    except (ValueError, KeyError, TypeError) as error:
        raise _unreadable(file, error) from error


def _read(file: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(file.read_bytes()))
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise _unreadable(file, error) from error


def _unreadable(file: Path, error: Exception) -> TokenizerError:
    return TokenizerError(
        f"{file} does not say which tokens are added ({type(error).__name__}); it is damaged. "
        "Get it again, or remove it"
    )
