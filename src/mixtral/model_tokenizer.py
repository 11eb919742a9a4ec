"""Which tokenizer belongs to a model. Importing this file does not import torch."""

import logging
from pathlib import Path

from mixtral.errors import ConfigError, TokenizerError
from mixtral.model_source import ModelSource
from mixtral.tokenizer import Tokenizer, has_tokenizer, load_tokenizer

logger = logging.getLogger(__name__)

_VERSION_BY_VOCAB_SIZE = {32000: "v1", 32768: "v3"}


def find_tokenizer_or_why(
    source: ModelSource, tokenizer: str | Path | None = None
) -> Tokenizer | TokenizerError:
    """Return the tokenizer of a model, or why it has none; token ids still work then."""
    vocab_size = source.config.vocab_size
    if tokenizer is not None:
        if not isinstance(tokenizer, (str, Path)):
            raise ConfigError(
                f"tokenizer is {tokenizer!r}; it must be 'v1', 'v3', or the path of a file."
            )
        return load_tokenizer(tokenizer, vocab_size=vocab_size)
    if source.gguf is not None:
        from mixtral.tokenizer.gguf_vocabulary import load_gguf_tokenizer

        try:
            return load_gguf_tokenizer(source.gguf, vocab_size=vocab_size)
        except TokenizerError as error:
            logger.warning("%s; only token ids can be used", error)
            return error
    version = _VERSION_BY_VOCAB_SIZE.get(vocab_size)
    if source.folder is not None and has_tokenizer(source.folder):
        try:
            return load_tokenizer(source.folder, vocab_size=vocab_size)
        except TokenizerError as error:
            logger.warning("%s; only token ids can be used", error)
            return error
    if version is None:
        return TokenizerError(
            f"{source.name} has no tokenizer and {vocab_size} words, unlike v1 (32000) and "
            "v3 (32768); give token ids, or name a tokenizer file with tokenizer=..."
        )
    if source.folder is not None:
        logger.warning(
            "%s has no tokenizer; taking %s for its %d words", source.name, version, vocab_size
        )
    return load_tokenizer(version, vocab_size=vocab_size)


def find_tokenizer(source: ModelSource) -> Tokenizer:
    """Return the tokenizer of a model.

    Raises:
        TokenizerError: It has none, or its files are wrong.
    """
    found = find_tokenizer_or_why(source)
    if isinstance(found, TokenizerError):
        raise found
    return found
