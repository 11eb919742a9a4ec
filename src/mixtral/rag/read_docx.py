"""Word documents: paragraphs and tables in their order, cut at headings.

A docx is a zip archive of XML. What the archive says it unpacks to is added up before anything is
unpacked; ``zipfile`` gives no more than it says. The XML is parsed without entities. Headers,
footers, footnotes, comments and text boxes are not read.
"""

import io
import re
import zipfile
import zlib
from typing import TYPE_CHECKING

from mixtral.errors import UnsupportedError
from mixtral.rag.documents import Document
from mixtral.rag.limits import INSTALL, DocumentRefused, Limits
from mixtral.rag.outline import Heading, sections_under, title_of
from mixtral.rag.read_text import clean

if TYPE_CHECKING:
    from docx.document import Document as WordDocument
    from docx.table import Table

_MAX_ENTRIES = 10_000
"""Files in the archive; a book with a thousand pictures has about as many."""
_STYLE = re.compile(r"Heading ([1-9])$")


def read_docx(title: str, data: bytes, limits: Limits) -> Document:
    """Read a Word document.

    Args:
        title: The title where the document names none.
        data: The bytes of the file.
        limits: How far it may unpack.

    Raises:
        DocumentRefused: It is damaged, no docx, or unpacks too far.
        UnsupportedError: The extra is not installed.
    """
    try:
        import docx
    except ImportError:
        raise UnsupportedError(f"docx is read by python-docx: {INSTALL}") from None
    _check_archive(data, limits)
    try:
        word = docx.Document(io.BytesIO(data))
        text, headings = _read_body(word)
        own = " ".join(clean(word.core_properties.title or "").split())
    # lxml's errors are SyntaxErrors; a missing part is a KeyError.
    except (ValueError, LookupError, OSError, SyntaxError, AttributeError, TypeError) as error:
        line = " ".join(str(error).split())[:200].rstrip(".")
        raise DocumentRefused(f"it is damaged, or no Word document: {line}.") from None
    except (zipfile.BadZipFile, zlib.error, EOFError):
        raise DocumentRefused("it is damaged: a file inside it does not fit its sum.") from None
    return Document(
        title=own[:200] or title_of(headings, otherwise=title),
        text=text,
        sections=sections_under(text, headings),
    )


def _check_archive(data: bytes, limits: Limits) -> None:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError):
        raise DocumentRefused("it is no docx: it is not a zip archive, or damaged.") from None
    if len(entries) > _MAX_ENTRIES:
        raise DocumentRefused(f"it holds {len(entries):,} files; the most is {_MAX_ENTRIES:,}.")
    num_bytes = sum(entry.file_size for entry in entries)
    if num_bytes > limits.max_unpacked_bytes:
        raise DocumentRefused(
            f"it unpacks to {num_bytes:,} bytes; the limit max_unpacked_bytes is "
            f"{limits.max_unpacked_bytes:,}."
        )
    if any(entry.flag_bits & 1 for entry in entries):
        raise DocumentRefused("it is encrypted; save it without a password.")


def _read_body(word: "WordDocument") -> tuple[str, list[Heading]]:
    from docx.table import Table

    parts: list[str] = []
    headings: list[Heading] = []
    length = 0
    for block in word.iter_inner_content():
        if isinstance(block, Table):
            text, level = clean(_rows(block)), None
        else:
            text = clean(block.text).strip()
            level = _level(block.style.name if block.style is not None else None)
        if not text:
            continue
        if level is not None:
            end = length + len(text)
            headings.append(Heading(level=level, text=text, start=length, end=end))
        parts.append(text)
        length += len(text) + 2  # The empty line between blocks.
    return "\n\n".join(parts), headings


def _level(style: str | None) -> int | None:
    """Return the level of a heading's style, 0 for the title of the document."""
    if style == "Title":
        return 0
    match = _STYLE.match(style or "")
    return int(match[1]) if match else None


def _rows(table: "Table") -> str:
    """Return a table with a line for each row and tabs between cells."""
    lines = []
    for row in table.rows:
        cells: list[str] = []
        previous = None
        for cell in row.cells:
            # A cell over several columns comes once for each.
            if cell._tc is not previous:
                cells.append(" ".join(cell.text.split()))
            previous = cell._tc
        lines.append("\t".join(cells))
    return "\n".join(lines)
