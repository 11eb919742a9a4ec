r"""Plain text and source code: bytes to characters, and the parts of a program.

Characters are UTF-8 unless a byte order mark says otherwise. What is not UTF-8 is read as
windows-1252, which gives every byte a meaning and is right for most old Western files; the document
then carries a note. A NUL means that the file is not text.

A program is cut at definitions that begin a line without indentation; the comment and the
decorators right above one belong to it. This is by pattern, not by parsing: it holds for forty
languages, and where it misses a definition, a chunk is merely cut elsewhere.
"""

import codecs
import re

from mixtral.rag.documents import PAGE_END, Document, Section
from mixtral.rag.limits import DocumentRefused
from mixtral.rag.outline import sections_between

# Longer marks first: that of UTF-32 begins with that of UTF-16.
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
# No space in it matches a line end: each line is tried once, however long a file of them is.
_DEFINITION = re.compile(
    r"^(?:(?:export|default|public|private|protected|internal|static|final|abstract|async|unsafe"
    r"|pub(?:\([a-z ]{1,20}\))?|extern|const|inline|virtual|sealed|data|open|override|local)"
    r"[ \t]+)*"
    r"(?P<what>(?:def|class|function|func|fn|fun|sub|interface|struct|impl|enum|trait|type|module"
    r"|namespace|record|object|protocol|extension|mod|macro_rules!|defmodule|message|service)"
    r"(?:<[^>\n]{0,60}>|[ \t]*\([^)\n]{0,60}\))?[ \t]+(?:[^\W\d]|[$~])[^\n({:=;]{0,80})",
    re.MULTILINE,
)
_BELONGS_BELOW = re.compile(r"(?:@|#|//|/\*|\*| \*|--|\[)")


def decode(data: bytes, declared: str | None = None) -> tuple[str, str | None]:
    """Return the characters, and a note where the encoding had to be guessed.

    Args:
        data: The bytes of a text.
        declared: The encoding that the text itself names, tried after UTF-8.

    Raises:
        DocumentRefused: The bytes are no text.
    """
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            return clean(data.decode(encoding, errors="replace")), None
    if b"\0" in data:
        raise DocumentRefused("it is a binary file.")
    try:
        return clean(data.decode("utf-8")), None
    except UnicodeDecodeError:
        pass
    if declared is not None:
        try:
            return clean(data.decode(declared)), None
        except (LookupError, UnicodeError):
            pass
    text = data.decode("windows-1252", errors="replace")
    return clean(text), "it is not UTF-8; it was read as windows-1252."


def clean(text: str) -> str:
    r"""Return valid Unicode with ``\n`` at line ends, without NUL and form feeds.

    >>> clean("one\r\ntwo\x00\ud800")
    'one\ntwo\ufffd?'
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    text = text.replace("\0", "\N{REPLACEMENT CHARACTER}").replace(PAGE_END, "\n")
    return text.encode("utf-8", errors="replace").decode("utf-8")


def read_text(title: str, data: bytes) -> Document:
    """Read plain text as one section.

    Raises:
        DocumentRefused: It is a binary file.
    """
    text, note = decode(data)
    sections = (Section(start=0, end=len(text)),)
    return Document(title=title, text=text, sections=sections, note=note)


def read_code(title: str, data: bytes) -> Document:
    """Read source code, a section for each definition that is not indented.

    Raises:
        DocumentRefused: It is a binary file.
    """
    text, note = decode(data)
    starts: list[tuple[int, str | None]] = [(0, None)]
    for match in _DEFINITION.finditer(text):
        start = _with_comments_above(text, match.start())
        name = " ".join(match["what"].split())
        if start <= starts[-1][0]:
            starts[-1] = (starts[-1][0], name)
        else:
            starts.append((start, name))
    sections = sections_between(text, starts)
    return Document(title=title, text=text, sections=sections, is_code=True, note=note)


def _with_comments_above(text: str, start: int) -> int:
    """Return where the comments and decorators that stand right above a definition begin."""
    while start > 0:
        above = text.rfind("\n", 0, start - 1) + 1
        if not _BELONGS_BELOW.match(text, above, start):
            break
        start = above
    return start
