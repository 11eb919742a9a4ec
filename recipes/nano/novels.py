"""Pieces of real novels for the tasks that hide or ask something in them.

Training draws from the novels of the corpus, held-out cases from two other novels, of which an
excerpt lies in the package (``mixtral.eval.nano_card``), so that a case can name a piece of it
instead of holding thousands of words.
"""

import re
from dataclasses import dataclass
from functools import cache
from random import Random
from typing import Any

from words import Split

from mixtral.eval.cases import EXCERPTS, read_excerpt

_SENTENCE_END = re.compile(r"(?<=[.!?]) (?=[A-Z])|\n\n")


@dataclass(frozen=True, kw_only=True, slots=True)
class Piece:
    """A piece of a novel."""

    book: str
    """Name of the excerpt; empty in training."""
    start: int
    """Where it begins in that excerpt, in characters."""
    text: str
    """The piece."""

    def sentence_starts(self) -> list[int]:
        """Return where sentences begin, the end of the piece included."""
        return [0, *(m.end() for m in _SENTENCE_END.finditer(self.text)), len(self.text)]


class Novels:
    """Text of novels for both halves.

    Args:
        train: Texts for training; empty ones make ``piece`` fail for that half.
    """

    def __init__(self, train: list[str]) -> None:
        self._texts: dict[Split, list[tuple[str, str]]] = {
            "train": [("", text) for text in train],
            "heldout": [(name, read_excerpt(name)) for name in EXCERPTS],
        }

    def piece(self, rng: Random, split: Split, num_characters: int) -> Piece:
        """Cut a piece of about that length; it begins and ends with a sentence."""
        longest = max(len(text) for _, text in self._texts[split])
        wanted = min(num_characters, longest * 9 // 10)
        book, text = rng.choice([pair for pair in self._texts[split] if len(pair[1]) >= wanted])
        begin = rng.randint(0, len(text) - wanted)
        start = _next_sentence(text, begin) if begin else 0
        end = _next_sentence(text, min(len(text), start + wanted - 60))
        return Piece(book=book, start=start, text=text[start:end].rstrip())


def filler_of(piece: Piece, inserted: str, at: int) -> dict[str, Any]:
    """Describe a piece with something put into it, as held-out cases do."""
    return {
        "book": piece.book,
        "start": piece.start,
        "length": len(piece.text),
        "at": at,
        "insert": inserted,
    }


@cache
def sample_novels() -> Novels:
    """Return novels whose training half is made up, for tests and for runs without the corpus."""
    plain = (
        "The rain had stopped before noon. Nobody in the house spoke of it. A cart went slowly "
        "along the road, and the old man looked after it for a long time. "
    )
    return Novels([plain * 200])


def _next_sentence(text: str, begin: int) -> int:
    found = _SENTENCE_END.search(text, begin)
    return found.end() if found else len(text)
