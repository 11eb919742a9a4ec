"""From a source to its bytes, from bytes to a document: where from, and in which process."""

import hashlib
from pathlib import Path

from mixtral.rag.documents import Document, Kind, kind_of, read_document
from mixtral.rag.fetch import fetch
from mixtral.rag.limits import DocumentRefused
from mixtral.rag.reader_process import ReaderProcess
from mixtral.rag.settings import CollectionSettings
from mixtral.rag.sources import Source, check_upload_name, read_file

_VERSION = 1
"""Counted up when readers or chunking change, so that unchanged files are read again."""
_PLAIN: tuple[Kind, ...] = ("text", "code")


def document_id(source: str) -> str:
    """Return the id of a document, 16 hexadecimal digits, from the name of its source.

    >>> len(document_id("report.pdf"))
    16
    """
    return hashlib.sha256(source.encode()).hexdigest()[:16]


def content_key(sha256: str, settings: CollectionSettings) -> str:
    """Return a text that is the same as long as a document would get the same chunks."""
    return f"{sha256} {settings.chunking} readers={_VERSION}"


class DocumentReader:
    """Reads documents within limits. Not thread-safe.

    Args:
        settings: Limits, and what may be downloaded.
    """

    def __init__(self, settings: CollectionSettings) -> None:
        self._settings = settings
        self._process = ReaderProcess(settings.limits)

    def bytes_of(self, source: Source) -> tuple[bytes, Kind]:
        """Return the bytes of a source, and how to read them.

        Raises:
            DocumentRefused: It was skipped, cannot be had, or is too large.
        """
        limits = self._settings.limits
        if source.skipped is not None:
            raise DocumentRefused(source.skipped)
        if source.is_url:
            private = self._settings.allow_private_urls
            page = fetch(source.name, limits=limits, allow_private=private)
            return page.data, page.kind
        assert source.kind is not None
        return read_file(Path(source.name), limits), source.kind

    def kind_of_upload(self, name: str) -> Kind:
        """Return how to read an upload.

        Raises:
            DocumentRefused: Its name is no name of a file.
        """
        check_upload_name(name)
        return kind_of(name) or "text"

    def read(self, name: str, data: bytes, kind: Kind) -> Document:
        """Return what a document says.

        Args:
            name: Its path, URL or name.
            data: Its bytes.
            kind: How to read them.

        Raises:
            DocumentRefused: It is damaged, encrypted, beyond a limit, or has no text.
            UnsupportedError: The extra ``rag`` is not installed.
        """
        if kind in _PLAIN:
            return read_document(name, data, kind, self._settings.limits)
        return self._process.read(name, data, kind)

    def close(self) -> None:
        """End the process that reads."""
        self._process.close()
