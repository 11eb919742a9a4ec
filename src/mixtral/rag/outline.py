"""From the headings of a text to its sections. Spans and names only; no format is known here."""

from collections.abc import Sequence
from dataclasses import dataclass

from mixtral.rag.documents import Section

_MAX_HEADING = 200
"""Characters of a heading that are kept: a whole paragraph may be marked as one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Heading:
    """A heading and where it stands."""

    level: int
    """1 is the outermost."""
    text: str
    """Its words."""
    start: int
    """Its first character in the document's text."""
    end: int
    """The character after its last."""


def sections_under(text: str, headings: Sequence[Heading]) -> tuple[Section, ...]:
    r"""Return the sections that headings make of a text, each with all headings above it.

    A heading belongs to its section. One with nothing but another heading below it begins the
    section of that one, so that no section is a lone heading.

    >>> text = "# A\n## B\nsome words"
    >>> headings = [Heading(level=1, text="A", start=0, end=3),
    ...             Heading(level=2, text="B", start=4, end=8)]
    >>> [(s.start, s.end, s.heading) for s in sections_under(text, headings)]
    [(0, 19, 'A > B')]
    """
    starts: list[tuple[int, str | None]] = [(0, None)]
    above: list[Heading] = []
    body_start = 0
    for heading in headings:
        above = [*(h for h in above if h.level < heading.level), heading]
        name = " > ".join(" ".join(h.text.split())[:_MAX_HEADING] for h in above if h.text.strip())
        if text[body_start : heading.start].strip():
            starts.append((heading.start, name or None))
        else:
            starts[-1] = (starts[-1][0], name or None)
        body_start = heading.end
    return sections_between(text, starts)


def sections_between(text: str, starts: Sequence[tuple[int, str | None]]) -> tuple[Section, ...]:
    """Return the sections that begin at ``starts``, each with the heading that stands beside it."""
    ends = [start for start, _ in starts[1:]] + [len(text)]
    return tuple(
        Section(start=start, end=end, heading=heading)
        for (start, heading), end in zip(starts, ends, strict=True)
        if start < end
    )


def title_of(headings: Sequence[Heading], *, otherwise: str) -> str:
    """Return the first heading of the first level; it is what most documents are called by."""
    names = (" ".join(h.text.split())[:_MAX_HEADING] for h in headings if h.level <= 1)
    return next((name for name in names if name), otherwise)
