"""HTML: what a reader of the page would see, cut at its headings.

Scripts, styles and everything that the page hides are dropped: text that nobody sees is a place to
put instructions for a language model. A new block is a new line, cells of a table have tabs
between them, and space counts once, except in ``pre``. Nothing is loaded and nothing is run.
"""

import re
from typing import TYPE_CHECKING

from mixtral.errors import UnsupportedError
from mixtral.rag.documents import Document
from mixtral.rag.limits import INSTALL
from mixtral.rag.outline import Heading, sections_under, title_of
from mixtral.rag.read_text import clean, decode

if TYPE_CHECKING:
    from bs4 import Tag

_INVISIBLE = (
    "script style noscript template svg math canvas iframe object audio video head title datalist "
    "select button input textarea"
)
_BLOCKS = (
    "address article aside blockquote body br caption dd details dialog div dl dt fieldset "
    "figcaption figure footer form h1 h2 h3 h4 h5 h6 header hr html li main nav ol p pre section "
    "summary table tbody tfoot thead tr ul"
)
_SPACED = "blockquote dl figure h1 h2 h3 h4 h5 h6 ol p pre section table ul"
_IS_INVISIBLE = frozenset(_INVISIBLE.split())
_IS_BLOCK = frozenset(_BLOCKS.split())
_IS_SPACED = frozenset(_SPACED.split())
_LEVELS = {f"h{level}": level for level in range(1, 7)}
_HIDING = re.compile(r"display\s*:\s*none|visibility\s*:\s*hidden", re.IGNORECASE)


def read_html(title: str, data: bytes) -> Document:
    """Read a page.

    Args:
        title: The title of a page that has none.
        data: The bytes of the page.

    Raises:
        DocumentRefused: It is a binary file.
        UnsupportedError: The extra is not installed.
    """
    try:
        from bs4 import BeautifulSoup, FeatureNotFound
        from bs4.dammit import EncodingDetector
    except ImportError:
        raise UnsupportedError(f"HTML is read by beautifulsoup4: {INSTALL}") from None
    declared = EncodingDetector.find_declared_encoding(data, is_html=True)
    markup, note = decode(data, declared)
    try:
        soup = BeautifulSoup(markup, "lxml")
    except FeatureNotFound:
        raise UnsupportedError(f"HTML is parsed by lxml: {INSTALL}") from None
    page = _Page()
    page.read(soup)
    text = page.text()
    own = " ".join(soup.title.get_text().split()) if soup.title is not None else ""
    return Document(
        title=own[:200] or title_of(page.headings, otherwise=title),
        text=text,
        sections=sections_under(text, page.headings),
        note=note,
    )


class _Page:
    """The visible text of a page, as it grows."""

    def __init__(self) -> None:
        self.headings: list[Heading] = []
        self._parts: list[str] = []
        self._length = 0
        self._num_newlines = 0  # At the end of the text.
        self._separator = ""  # Stands before the next word, unless a line begins there.
        self._heading: tuple[int, int] | None = None  # Character and part where one begins.

    def text(self) -> str:
        return "".join(self._parts)

    def read(self, soup: "Tag") -> None:
        """Walk through a page without recursion, however deep it is."""
        from bs4 import Tag
        from bs4.element import NavigableString, PreformattedString

        # Each entry is a node to enter, or an element whose end comes.
        stack: list[tuple[object, bool]] = [(soup, False)]
        num_pre = 0
        while stack:
            node, is_end = stack.pop()
            if isinstance(node, Tag) and is_end:
                num_pre -= node.name == "pre"
                self._leave(node.name)
            elif isinstance(node, Tag) and not _is_hidden(node):
                num_pre += node.name == "pre"
                self._enter(node.name)
                stack.append((node, True))
                stack.extend((child, False) for child in reversed(node.contents))
            # Comments and the like are preformatted strings.
            elif isinstance(node, NavigableString) and not isinstance(node, PreformattedString):
                self._add_text(clean(str(node)), is_pre=num_pre > 0)

    def _enter(self, name: str) -> None:
        if name in _IS_BLOCK:
            self._break(name)
        if name in _LEVELS and self._heading is None:
            self._heading = (self._length, len(self._parts))

    def _leave(self, name: str) -> None:
        if name in _LEVELS and self._heading is not None:
            start, part = self._heading
            self._heading = None
            words = "".join(self._parts[part:])
            level = _LEVELS[name]
            self.headings.append(Heading(level=level, text=words, start=start, end=self._length))
        if name in ("td", "th"):
            self._separator = "\t"
        if name in _IS_BLOCK:
            self._break(name)

    def _break(self, name: str) -> None:
        self._separator = ""
        missing = (2 if name in _IS_SPACED else 1) - self._num_newlines
        if self._length and missing > 0:
            self._put("\n" * missing)
            self._num_newlines += missing

    def _add_text(self, text: str, *, is_pre: bool) -> None:
        words = text if is_pre else " ".join(text.split())
        if not is_pre and text[:1].isspace():
            self._separator = self._separator or " "
        if not words:
            return
        if self._num_newlines == 0 and self._length:
            self._put(self._separator)
        self._put(words)
        self._num_newlines = len(words) - len(words.rstrip("\n"))
        self._separator = " " if text[-1].isspace() and not is_pre else ""

    def _put(self, text: str) -> None:
        self._parts.append(text)
        self._length += len(text)


def _is_hidden(tag: "Tag") -> bool:
    if tag.name in _IS_INVISIBLE or tag.has_attr("hidden"):
        return True
    return bool(_HIDING.search(str(tag.get("style", ""))))
