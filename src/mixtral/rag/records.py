"""What a collection says of its documents and of what it found. Plain data."""

from dataclasses import dataclass
from typing import Literal

Status = Literal["added", "updated", "unchanged", "refused"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Passage:
    """A chunk that was found."""

    id: int
    """The chunk's number in its collection; it is never given to another chunk."""
    document_id: str
    """16 hexadecimal digits, the same as long as the source has the same name."""
    source: str
    """The file's absolute path, the URL, or the name of the upload."""
    title: str
    """What the document calls itself, or the name of its file."""
    page: int | None
    """From 1; PDF only."""
    start: int
    """Character at which the passage begins in the document's text, from 0."""
    end: int
    """Character after its last one: ``collection.text_of(document_id)[start:end]`` is ``text``."""
    heading: str | None
    """Headings above it, outermost first, joined by `` > ``; for code, the definition it is in."""
    text: str
    """The passage as it stands in the document."""
    score: float
    """What the passages were ordered by; higher is better. Of one search only."""
    similarity: float
    """Cosine of the question and the passage, -1 to 1; comparable between searches."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredDocument:
    """A document of a collection."""

    document_id: str
    """16 hexadecimal digits of the sha256 of ``source``."""
    source: str
    """The file's absolute path, the URL, or the name of the upload."""
    title: str
    """What the document calls itself, or the name of its file."""
    num_chunks: int
    """Passages it was cut into."""
    num_characters: int
    """Length of its extracted text."""
    num_pages: int | None
    """Pages of a PDF; None for everything else."""
    added_at: float
    """When this version of it was added, in seconds since 1970."""
    sha256: str
    """Of its bytes, 64 hexadecimal digits."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AddedDocument:
    """What became of one document that was to be added."""

    source: str
    """As in ``StoredDocument``."""
    document_id: str
    """As in ``StoredDocument``."""
    title: str
    """What the document calls itself, or the name of its file."""
    status: Status
    """``refused`` is also what was skipped in a folder; ``reason`` begins with "skipped" then."""
    num_chunks: int
    """Passages of it that are in the collection now."""
    reason: str | None = None
    """Why it was refused; or what was odd about a document that was added."""
