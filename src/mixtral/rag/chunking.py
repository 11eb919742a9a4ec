"""From a document to passages: by structure first, then by tokens, with overlap.

A chunk never leaves its section. Inside it the text falls into atoms: it is cut at empty lines,
then at ends of sentences and items of lists, then at lines, words and characters, each time only
where a piece is still too large. Atoms are packed, front to back, into chunks of ``chunk_tokens``.
A chunk that must end inside a section ends at the strongest boundary in its last third; the next
one begins some atoms earlier, so that what is said across the cut stands whole in one of the two.

    at most 12 tokens, overlap 4; || begins a paragraph, | a sentence:
    atoms     || A 5 | B 4 | C 3 || D 2 | E 7
    chunks       A     B     C                     12 tokens
                             C      D     E        12 tokens, of which 3 are overlap

Sizes are what the embedding model counts. Counts of atoms are added up, which is exact for
tokenizers that split at spaces first, as BERT's, and at most a token per atom too high for others.
Plain windows of characters, as in Mistral's guide (https://docs.mistral.ai/guides/rag/), are there
to compare with.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from mixtral.rag.documents import Document, Section
from mixtral.rag.settings import CollectionSettings

CountTokens = Callable[[Sequence[str]], Sequence[int]]
"""Texts to their numbers of tokens, special tokens not counted."""

_PARAGRAPH = re.compile(r"\n(?:[ \t]*\n)+")
_SENTENCE = re.compile(
    r"[.!?\u2026][\"'\u2019\u201d)\]]*\s+|:[ \t]*\n\s*|[\u3002\uff01\uff1f]\s*"
    r"|\n(?=[ \t]*(?:[-*+|>\u2022]|\d{1,4}[.)])[ \t])"
)
_LINE = re.compile(r"\n")
_WORD = re.compile(r"\s+")
_PROSE = (_PARAGRAPH, _SENTENCE, _LINE, _WORD)
_CODE = (_PARAGRAPH, _LINE, _LINE, _WORD)
_NUM_FINE = 2
"""Of these boundaries, so many are used wherever a piece is larger than the overlap; those after
them only where it is larger than a chunk."""
_MAX_HEADING = 160
"""Characters of a heading that are embedded with its chunk: 40 tokens or so."""
_SURELY_LARGE = 32
"""Characters per token that no text has; longer pieces are cut without being counted."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Chunk:
    """A passage of a document: ``document.text[start:end]``."""

    start: int
    """Its first character, from 0."""
    end: int
    """The character after its last."""
    heading: str | None = None
    """Of its section."""
    page: int | None = None
    """Of its section, from 1."""


@dataclass(slots=True)
class _Atom:
    start: int
    end: int
    strength: int  # Of the boundary before it; 0 is the strongest.
    num_tokens: int = 0


def chunk_document(
    document: Document, settings: CollectionSettings, count_tokens: CountTokens
) -> list[Chunk]:
    """Cut a document into chunks, in order; every visible character is in at least one.

    Args:
        document: Its text and sections.
        settings: How large chunks are.
        count_tokens: Sizes of texts; called a few times with many texts.
    """
    if settings.chunk_characters is not None:
        return list(_windows(document, settings.chunk_characters, settings.overlap_characters))
    limit, overlap = settings.chunk_tokens, settings.overlap_tokens
    chunks: list[Chunk] = []
    for section, atoms in zip(
        document.sections, _atoms(document, limit, overlap, count_tokens), strict=True
    ):
        for first, after in _pack(atoms, limit, overlap):
            start, end = _trimmed(document, atoms[first].start, atoms[after - 1].end)
            # Without the space at its ends it may say nothing new, or all that the last one says.
            if start == end or (chunks and end <= chunks[-1].end):
                continue
            if chunks and chunks[-1].start == start:
                chunks.pop()
            chunks.append(Chunk(start=start, end=end, heading=section.heading, page=section.page))
    return chunks


def embedded_text(heading: str | None, text: str) -> str:
    """Return what the embedding model reads of a chunk: the end of its heading, then its text.

    A passage such as "It must be a power of two." says little without what stands above it.
    """
    return f"{heading[-_MAX_HEADING:]}\n{text}" if heading else text


def estimate_tokens(texts: Sequence[str]) -> list[int]:
    """Count tokens without a tokenizer: a token for three bytes of UTF-8, at least one a word.

    Too high for English (one for 4 or 5 letters), right for Chinese, so that chunks are rather too
    short than cut by the model.

    >>> estimate_tokens(["a b c", "expert"])
    [3, 2]
    """
    return [max(-(-len(text.encode("utf-8")) // 3), len(text.split())) for text in texts]


def _windows(document: Document, size: int, overlap: int) -> Iterator[Chunk]:
    pages = [s for s in document.sections if s.page is not None]
    for part in pages or [Section(start=0, end=len(document.text))]:
        for start in range(part.start, part.end, size - overlap):
            end = min(start + size, part.end)
            if document.text[start:end].strip():
                yield Chunk(start=start, end=end, page=part.page)
            if end == part.end:
                break


def _atoms(
    document: Document, limit: int, overlap: int, count_tokens: CountTokens
) -> list[list[_Atom]]:
    """Return the atoms of each section, which cover it, none larger than ``limit``."""
    text = document.text
    sections = [[_Atom(s.start, s.end, strength=0)] for s in document.sections]
    _count([atom for atoms in sections for atom in atoms], text, limit, count_tokens)
    patterns = _CODE if document.is_code else _PROSE
    for strength, pattern in enumerate(patterns):
        small = max(overlap, 1) if strength < _NUM_FINE else limit
        new: list[_Atom] = []
        for atoms in sections:
            atoms[:] = [
                piece
                for atom in atoms
                for piece in (
                    [atom] if atom.num_tokens <= small else _split(text, atom, strength, pattern)
                )
            ]
            new.extend(atom for atom in atoms if not atom.num_tokens)
        _count(new, text, limit, count_tokens)
    for atoms in sections:
        atoms[:] = [
            piece
            for atom in atoms
            for piece in ([atom] if atom.num_tokens <= limit else _slices(atom, limit))
        ]
    return sections


def _split(text: str, atom: _Atom, strength: int, pattern: re.Pattern[str]) -> list[_Atom]:
    """Return the pieces of an atom between boundaries, not counted yet."""
    cuts = [m.end() for m in pattern.finditer(text, atom.start, atom.end) if m.end() < atom.end]
    if not cuts:
        return [atom]
    starts = [atom.start, *cuts]
    ends = [*cuts, atom.end]
    strengths = [atom.strength, *(strength for _ in cuts)]
    return [_Atom(*span) for span in zip(starts, ends, strengths, strict=True)]


def _slices(atom: _Atom, limit: int) -> list[_Atom]:
    """Return pieces of a word without end, as large as a chunk in the worst case."""
    size = max(1, limit // 4)  # A character may be four tokens, one for each byte of it.
    return [
        _Atom(
            start,
            min(start + size, atom.end),
            strength=atom.strength if start == atom.start else len(_PROSE),
            num_tokens=limit,
        )
        for start in range(atom.start, atom.end, size)
    ]


def _count(atoms: Sequence[_Atom], text: str, limit: int, count_tokens: CountTokens) -> None:
    """Set the size of each atom, at least 1, so that 0 means that it was not counted."""
    small = []
    for atom in atoms:
        if atom.end - atom.start > _SURELY_LARGE * limit:
            atom.num_tokens = atom.end - atom.start
        else:
            small.append(atom)
    if small:
        sizes = count_tokens([text[atom.start : atom.end] for atom in small])
        for atom, size in zip(small, sizes, strict=True):
            atom.num_tokens = max(1, size)


def _pack(atoms: Sequence[_Atom], limit: int, overlap: int) -> Iterator[tuple[int, int]]:
    """Yield the chunks as ranges of atoms (first, after the last)."""
    first = 0
    while first < len(atoms):
        after = _fill(atoms, first, limit)
        yield first, after
        if after == len(atoms):
            return
        # The next chunk repeats what fits into the overlap, and has room for something new.
        room = min(overlap, limit - atoms[after].num_tokens)
        begin = after
        while begin - 1 > first and atoms[begin - 1].num_tokens <= room:
            begin -= 1
            room -= atoms[begin].num_tokens
        first = begin


def _fill(atoms: Sequence[_Atom], first: int, limit: int) -> int:
    """Return where a chunk ends that begins with atom ``first``."""
    after, best, num_tokens = first, first + 1, 0
    has_late = False
    while after < len(atoms) and (num_tokens + atoms[after].num_tokens <= limit or after == first):
        num_tokens += atoms[after].num_tokens
        after += 1
        if after == len(atoms):
            return after
        if not has_late or atoms[after].strength <= atoms[best].strength:
            best = after
        has_late = num_tokens * 3 >= limit * 2
    return best


def _trimmed(document: Document, start: int, end: int) -> tuple[int, int]:
    """Return the span without the space at its ends; a line of code keeps its indentation."""
    part = document.text[start:end].rstrip()
    lead = len(part) - len(part.lstrip())
    if document.is_code:
        lead = part.rfind("\n", 0, lead) + 1
    return start + lead, start + len(part)
