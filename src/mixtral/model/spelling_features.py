"""Vectors for tokens that are alike where the tokens are spelled alike.

A tokenizer gives " Word", "word" and "WORD" three unrelated ids, and hides letters inside of
pieces. A large model learns from its text which pieces belong together; a small one on a small
budget meets most of them a few times, and can then neither quote a word in another form nor sort,
spell or upper-case it. So its first embeddings say it: each is a sum of vectors for

    word      the text without space and case, which " Word", "word" and "WORD" share
    letters   each letter with its place from the front, the first ones strongest, and from the end
    form      whether there is a space in front, a capital, or capitals alone
    own       noise, as without this

The idea is that of subword vectors (fastText, arXiv:1607.04606, section 3.2), here at the start
only: all of it learns. Letters as in ``kernels/reference.py``.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

_SHARES = {"word": 0.45, "letters": 0.3, "form": 0.1, "own": 0.15}  # of the variance
_FRONT, _BACK = 10, 3  # places that have letters of their own
_SPACE = b" "  # pieces come decoded; lstrip takes bytes, so no character of several may be here


def spelling_features(pieces: Sequence[bytes], width: int, generator: torch.Generator) -> Tensor:
    """Draw a vector for each token.

    Args:
        pieces: What each of V tokens writes; nothing for control tokens, which are noise alone.
        width: Numbers of a vector.
        generator: Decides all of it.

    Returns:
        [V, width], float32, each row of length sqrt(width).
    """
    words = [_without_form(piece) for piece in pieces]
    known = {word: index for index, word in enumerate(dict.fromkeys(words))}
    parts = {
        "word": _noise(len(known), width, generator)[[known[word] for word in words]],
        "letters": _letters(words, width, generator),
        "form": _noise(8, width, generator)[[_form(piece) for piece in pieces]],
        "own": _noise(len(pieces), width, generator),
    }
    total = sum(math.sqrt(share) * parts[name] for name, share in _SHARES.items())
    assert isinstance(total, Tensor)
    is_control = torch.tensor([not piece for piece in pieces])
    return _scaled(torch.where(is_control[:, None], parts["own"], total))


def _letters(words: Sequence[bytes], width: int, generator: torch.Generator) -> Tensor:
    """Add up the letters of each word, [V, width]."""
    table = _noise((_FRONT + _BACK) * 256, width, generator)
    indices: list[int] = []
    weights: list[float] = []
    offsets: list[int] = []
    for word in words:
        offsets.append(len(indices))
        for place, letter in enumerate(word[:_FRONT]):
            indices.append(place * 256 + letter)
            weights.append((place + 1) ** -0.5)
        for place, letter in enumerate(reversed(word[-_BACK:])):
            indices.append((_FRONT + place) * 256 + letter)
            weights.append(0.5)
    return _scaled(
        torch.nn.functional.embedding_bag(
            torch.tensor(indices),
            table,
            torch.tensor(offsets),
            mode="sum",
            per_sample_weights=torch.tensor(weights),
        )
    )


def _without_form(piece: bytes) -> bytes:
    return piece.lstrip(_SPACE).lower() or piece


def _form(piece: bytes) -> int:
    """Number the forms: a space in front, a capital in front, nothing but capitals."""
    text = piece.lstrip(_SPACE)
    return (
        (len(text) < len(piece)) + 2 * text[:1].isupper() + 4 * (len(text) > 1 and text.isupper())
    )


def _noise(rows: int, width: int, generator: torch.Generator) -> Tensor:
    return torch.randn(rows, width, generator=generator)


def _scaled(rows: Tensor) -> Tensor:
    """Return rows of length sqrt(width); what is all zero stays so."""
    return torch.nn.functional.normalize(rows, dim=1) * math.sqrt(rows.shape[1])
