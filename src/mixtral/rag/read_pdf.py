"""PDF: the text of each page as pypdf finds it, and the bookmarks as headings.

A page is a section: chunks do not cross pages, so each has one page number. Words that a line break
cut at a hyphen are joined. A page that cannot be read is left out and named in the note. There is
no recognition of scans. pypdf limits what a stream may unpack to; memory and time are limited by
the process that this runs in.
"""

import io
import re
import struct
import zlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from mixtral.errors import UnsupportedError
from mixtral.rag.documents import PAGE_END, Document, Section
from mixtral.rag.limits import INSTALL, DocumentRefused, Limits
from mixtral.rag.read_text import clean

if TYPE_CHECKING:
    from pypdf import PdfReader

_CUT_WORD = re.compile(r"(?<=[a-z])-\n(?=[a-z])")
_DAMAGE = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    NotImplementedError,
    OSError,
    RecursionError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
)
"""What a damaged file makes pypdf raise, beside its own errors; they have no common base."""
_MAX_DEPTH = 8
"""Bookmarks inside one another that become headings."""


def read_pdf(title: str, data: bytes, limits: Limits) -> Document:
    """Read a PDF, a section for each page.

    Args:
        title: The title where the file names none.
        data: The bytes of the file.
        limits: How many pages and characters it may have.

    Raises:
        DocumentRefused: It is no PDF, damaged, encrypted, or longer than the limits.
        UnsupportedError: The extra is not installed.
    """
    try:
        from pypdf import PdfReader
        from pypdf.errors import DependencyError, PyPdfError
    except ImportError:
        raise UnsupportedError(f"PDF is read by pypdf: {INSTALL}") from None
    if b"%PDF-" not in data[:1024]:
        raise DocumentRefused("it is no PDF, whatever its name says.")
    try:
        reader = PdfReader(io.BytesIO(data))
        if reader.is_encrypted and not reader.decrypt(""):
            raise DocumentRefused("it is encrypted; save it without a password.")
        num_pages = len(reader.pages)
    except DocumentRefused:
        raise
    except DependencyError:  # A cipher that pypdf has no library for.
        raise DocumentRefused("it is encrypted; save it without a password.") from None
    except (PyPdfError, *_DAMAGE) as error:
        raise DocumentRefused(f"it is damaged: {_one_line(error)}.") from None
    if num_pages > limits.max_pages:
        raise DocumentRefused(
            f"it has {num_pages:,} pages; the limit max_pages is {limits.max_pages:,}."
        )
    pages, unread = _read_pages(reader, num_pages, limits)
    return _assemble(_own_title(reader) or title, pages, _bookmarks(reader), unread)


def _read_pages(reader: "PdfReader", num_pages: int, limits: Limits) -> tuple[list[str], list[int]]:
    """Return the text of each page, and the numbers of those that cannot be read."""
    from pypdf.errors import PyPdfError

    pages: list[str] = []
    unread: list[int] = []
    first_error = ""
    num_characters = 0
    for number in range(num_pages):
        try:
            text = clean(reader.pages[number].extract_text())
        except (PyPdfError, *_DAMAGE) as error:
            text = ""
            unread.append(number + 1)
            first_error = first_error or _one_line(error)
        pages.append(_CUT_WORD.sub("", text))
        num_characters += len(text) + 1
        if num_characters > limits.max_characters:
            raise DocumentRefused(
                f"its first {number + 1:,} pages have {num_characters:,} characters; the limit "
                f"max_characters is {limits.max_characters:,}."
            )
    if unread and len(unread) == num_pages:
        raise DocumentRefused(f"none of its pages can be read: {first_error}.")
    return pages, unread


def _assemble(
    title: str, pages: list[str], bookmarks: dict[int, str], unread: list[int]
) -> Document:
    sections: list[Section] = []
    start, heading = 0, None
    for number, page in enumerate(pages, start=1):
        heading = bookmarks.get(number, heading)
        end = start + len(page)
        sections.append(Section(start=start, end=end, heading=heading, page=number))
        start = end + len(PAGE_END)
    note = None
    if unread:
        some = ", ".join(map(str, unread[:5])) + (", ..." if len(unread) > 5 else "")
        note = f"{len(unread)} of {len(pages)} pages cannot be read: {some}."
    return Document(
        title=title,
        text=PAGE_END.join(pages),
        sections=tuple(sections),
        num_pages=len(pages),
        note=note,
    )


def _own_title(reader: "PdfReader") -> str:
    """Return the title in the file's properties, unless it is the name of some other file."""
    try:
        own = " ".join(clean(str(reader.metadata.title or "")).split()) if reader.metadata else ""
    except _DAMAGE:
        return ""
    is_name = re.search(r"\.\w{2,5}$|^untitled$|^Microsoft Word", own, re.IGNORECASE)
    return "" if is_name else own[:200]


def _bookmarks(reader: "PdfReader") -> dict[int, str]:
    """Return the last bookmark of each page that has one, with those around it; pages from 1."""
    from pypdf.errors import PyPdfError

    names: dict[int, str] = {}
    try:
        for path, destination in _walk(reader.outline, ()):
            page = reader.get_destination_page_number(destination)
            if page is not None and path:
                names[page + 1] = " > ".join(path)
    # A document is no worse for broken bookmarks.
    except (PyPdfError, *_DAMAGE):
        return names
    return names


def _walk(outline: Any, above: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Walk through bookmarks; a list in them holds those below the one before it."""
    path = above
    for item in outline:
        if isinstance(item, list):
            if len(path) < _MAX_DEPTH:
                yield from _walk(item, path)
            continue
        name = " ".join(clean(str(item.title or "")).split())[:200]
        path = (*above, name) if name else above
        yield path, item


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())[:200].rstrip(".")
    return text or type(error).__name__
