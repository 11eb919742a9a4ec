"""A document as text with its structure, and which reader makes it of which bytes.

Every reader gives one string and a list of sections that cover it, each with the heading and the
page it belongs to. Chunks and citations are spans of that string, so what a citation shows is what
was read. Where the text of a PDF ends a page it has a form feed, as in pdftotext's output; no other
text has one.

Text files are read here, in this process. Formats with structure (Markdown, HTML, PDF, docx) are
read by libraries that a hostile file may stall or bloat, so ``reader_process`` calls this module in
a process of its own.
"""

from dataclasses import dataclass
from pathlib import PurePath
from typing import Literal

from mixtral.rag.limits import DocumentRefused, Limits

Kind = Literal["text", "code", "markdown", "html", "pdf", "docx"]

PAGE_END = "\f"
"""Stands between two pages of a PDF's text."""

_KINDS: dict[Kind, str] = {
    "text": "txt text log rst adoc org tex csv tsv json jsonl yaml yml toml ini cfg conf xml srt",
    "code": "py pyi js mjs cjs jsx ts tsx java kt scala c h cc cpp cxx hpp hh cu cuh m mm cs go rs "
    "rb php swift lua pl r jl hs ml ex exs erl clj dart sh bash zsh fish ps1 sql proto cmake zig",
    "markdown": "md markdown mdx",
    "html": "html htm xhtml",
    "pdf": "pdf",
    "docx": "docx",
}
_KIND_OF_ENDING = {ending: kind for kind, ends in _KINDS.items() for ending in ends.split()}
_PLAIN_NAMES = "readme license licence notice authors changelog contributing makefile dockerfile"


@dataclass(frozen=True, kw_only=True, slots=True)
class Section:
    """A part of a document's text that chunks do not cross."""

    start: int
    """Its first character, from 0."""
    end: int
    """The character after its last."""
    heading: str | None = None
    """Headings above it, outermost first, joined by `` > ``."""
    page: int | None = None
    """From 1."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Document:
    """What was read of a document."""

    title: str
    """What it calls itself, or the name of its file."""
    text: str
    """Everything that is searched and cited; valid Unicode without NUL."""
    sections: tuple[Section, ...]
    """In order, without overlap; between them is nothing but space."""
    is_code: bool = False
    """Whether lines, rather than sentences, are its smallest parts."""
    num_pages: int | None = None
    """Pages of a PDF."""
    note: str | None = None
    """What was odd about it, for the user."""


def kind_of(name: str) -> Kind | None:
    """Return how a file is read, by its name; None where the name does not say.

    >>> kind_of("Manual.PDF"), kind_of("src/main.rs"), kind_of("Makefile"), kind_of("photo.jpg")
    ('pdf', 'code', 'text', None)
    """
    path = PurePath(name)
    if path.suffix:
        return _KIND_OF_ENDING.get(path.suffix[1:].lower())
    return "text" if path.name.lower() in _PLAIN_NAMES.split() else None


def read_document(name: str, data: bytes, kind: Kind, limits: Limits) -> Document:
    """Read one document.

    Args:
        name: The name of its file, for the title.
        data: Its bytes.
        kind: How to read them.
        limits: What it may cost; time and memory are not watched here.

    Raises:
        DocumentRefused: It is damaged, encrypted, too large, or has no text.
        UnsupportedError: The extra ``rag`` is not installed.
    """
    if len(data) > limits.max_file_bytes:
        raise DocumentRefused(
            f"it has {len(data):,} bytes; the limit max_file_bytes is {limits.max_file_bytes:,}."
        )
    document = _read(name, data, kind, limits)
    if len(document.text) > limits.max_characters:
        raise DocumentRefused(
            f"it has {len(document.text):,} characters of text; the limit max_characters is "
            f"{limits.max_characters:,}."
        )
    if not document.text.strip():
        hint = " It may be a scan: recognise its text (OCR) first." if kind == "pdf" else ""
        raise DocumentRefused(f"it has no text.{hint}")
    return document


def _read(name: str, data: bytes, kind: Kind, limits: Limits) -> Document:
    title = PurePath(name).name
    if kind == "markdown":
        from mixtral.rag.read_markdown import read_markdown

        return read_markdown(title, data)
    if kind == "html":
        from mixtral.rag.read_html import read_html

        return read_html(title, data)
    if kind == "pdf":
        from mixtral.rag.read_pdf import read_pdf

        return read_pdf(title, data, limits)
    if kind == "docx":
        from mixtral.rag.read_docx import read_docx

        return read_docx(title, data, limits)
    from mixtral.rag.read_text import read_code, read_text

    return read_code(title, data) if kind == "code" else read_text(title, data)
