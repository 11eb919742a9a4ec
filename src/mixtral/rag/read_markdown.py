"""Markdown: the text as it was written, cut at its headings.

The markup stays: a citation shows the lines of the file, and a language model reads Markdown well.
Headings are found by a parser of blocks, so a ``#`` in a code block is none.
"""

import itertools
import re

from mixtral.errors import UnsupportedError
from mixtral.rag.documents import Document
from mixtral.rag.limits import INSTALL
from mixtral.rag.outline import Heading, sections_under, title_of
from mixtral.rag.read_text import decode

# Bounded, so that a heading of a million brackets or spaces takes no longer than its length.
_MARKUP = re.compile(r"!?\[([^\[\]]*)\]\([^)]{0,2000}\)|[*_`]+|(?<!\s)\s+#+\s*$")


def read_markdown(title: str, data: bytes) -> Document:
    """Read Markdown, a section for each heading.

    Args:
        title: The title where there is no heading of the first level.
        data: The bytes of the file.

    Raises:
        DocumentRefused: It is a binary file.
        UnsupportedError: The extra is not installed.
    """
    text, note = decode(data)
    headings = _headings(text)
    return Document(
        title=title_of(headings, otherwise=title),
        text=text,
        sections=sections_under(text, headings),
        note=note,
    )


def _headings(text: str) -> list[Heading]:
    try:
        from markdown_it import MarkdownIt
    except ImportError:
        raise UnsupportedError(f"Markdown is read by markdown-it-py: {INSTALL}") from None
    # Not str.splitlines: it ends a line at characters that end none in Markdown.
    line_starts = [0, *(match.end() for match in re.finditer("\n", text)), len(text)]
    # Blocks alone are wanted; what stands in a line is left as it is.
    tokens = MarkdownIt("commonmark").disable(["inline"]).parse(text)
    found = []
    for token, inline in itertools.pairwise(tokens):
        if token.type == "heading_open" and token.map is not None:
            first, after = token.map
            words = _MARKUP.sub(lambda match: match[1] or " ", inline.content)
            level = int(token.tag[1])
            start, end = line_starts[first], line_starts[min(after, len(line_starts) - 1)]
            found.append(Heading(level=level, text=words, start=start, end=end))
    return found
