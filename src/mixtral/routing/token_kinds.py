"""What kind of token each piece of a vocabulary is, for the question which experts like which kind.

The classes are coarse on purpose; they say what a piece looks like, not what it means. A word
start has a space before its letters. A continuation has letters and no space: the rest of a word,
but also the first word of a line, because a newline takes the place of the space.
"""

from enum import IntEnum

import torch
from torch import Tensor

from mixtral.tokenizer import Tokenizer


class TokenKind(IntEnum):
    """Kinds of token; the value is the index in every table by kind."""

    WORD_START = 0
    CONTINUATION = 1
    DIGITS = 2
    PUNCTUATION = 3
    WHITESPACE = 4
    BYTE = 5
    CONTROL = 6

    @property
    def label(self) -> str:
        """Name for people."""
        return _LABELS[self]


_LABELS = {
    TokenKind.WORD_START: "word start",
    TokenKind.CONTINUATION: "continuation",
    TokenKind.DIGITS: "digits",
    TokenKind.PUNCTUATION: "punctuation and signs",
    TokenKind.WHITESPACE: "spaces and newlines",
    TokenKind.BYTE: "byte of a character",
    TokenKind.CONTROL: "control",
}


def kinds_of_vocabulary(tokenizer: Tokenizer, vocab_size: int) -> Tensor:
    """Return the kind of every token id, [V], int64.

    Args:
        tokenizer: That of the model.
        vocab_size: V, rows of the model's embedding; rows without a piece count as control.
    """
    kinds = [TokenKind.CONTROL] * vocab_size
    for token_id in range(min(vocab_size, tokenizer.vocab_size)):
        if token_id not in tokenizer.control_ids:
            kinds[token_id] = kind_of(tokenizer.token_bytes(token_id))
    return torch.tensor(kinds)


def kind_of(token_bytes: bytes) -> TokenKind:
    r"""Return the kind of one ordinary token.

    >>> [kind_of(text).label for text in (b" the", b"ing", b"7", b" +", b"\n", b"\xe2")]
    ... # doctest: +NORMALIZE_WHITESPACE
    ['word start', 'continuation', 'digits', 'punctuation and signs', 'spaces and newlines',
     'byte of a character']
    """
    try:
        text = token_bytes.decode()
    except UnicodeDecodeError:
        return TokenKind.BYTE
    bare = text.strip()
    if not bare:
        return TokenKind.WHITESPACE
    if any(character.isalpha() for character in bare):
        return TokenKind.WORD_START if text[0].isspace() else TokenKind.CONTINUATION
    if any(character.isnumeric() for character in bare):
        return TokenKind.DIGITS
    return TokenKind.PUNCTUATION
