"""Documents into a store: read, cut, embedded together, committed one by one.

A forward pass over many chunks costs less for each than over few, so chunks of small documents are
gathered until there are ``_BATCH_CHUNKS``. What is gathered is in memory only: it is reported when
it has been committed, and a process that ends before does it again.
"""

import dataclasses
import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import PurePath
from typing import Literal

import numpy as np

from mixtral.rag.chunking import Chunk, chunk_document, embedded_text
from mixtral.rag.documents import Document, Kind
from mixtral.rag.embedding import Models, embed_all
from mixtral.rag.limits import DocumentRefused
from mixtral.rag.reading import DocumentReader, content_key, document_id
from mixtral.rag.records import AddedDocument
from mixtral.rag.settings import CollectionSettings
from mixtral.rag.sources import Source
from mixtral.rag.store import KeptDocument, KnownDocument, Store, Vectors, Writer

_BATCH_CHUNKS = 256
"""About 5 s of embedding with all-MiniLM-L6-v2 on one core: how often something is reported."""
Cut = tuple[KeptDocument, list[Chunk]]
"""A document and its chunks."""


class Adding:
    """One call of ``add``.

    Args:
        store: Where documents go.
        reader: What reads them.
        models: What embeds them.
        report: Called for each document when it is certain what became of it.
    """

    def __init__(
        self,
        store: Store,
        reader: DocumentReader,
        models: Models,
        report: Callable[[AddedDocument], None],
    ) -> None:
        self._store = store
        self._reader = reader
        self._models = models
        self._report = report
        self._gathered: list[tuple[Cut, str | None]] = []
        self._num_chunks = 0

    def take(self, source: Source) -> None:
        """Take one file or page."""
        self._take(source.name, lambda: self._reader.bytes_of(source))

    def take_upload(self, name: str, data: bytes) -> None:
        """Take the bytes of one file."""
        self._take(name, lambda: (data, self._reader.kind_of_upload(name)))

    def finish(self) -> None:
        """Commit what is gathered."""
        gathered, self._gathered, self._num_chunks = self._gathered, [], 0
        vectors = embed_chunks([cut for cut, _ in gathered], self._models)
        for ((document, chunks), note), some in zip(gathered, vectors, strict=True):
            mark = self._models.mark()
            was_there = self._store.put(document, chunks, some, embedder=mark)
            self._report(
                AddedDocument(
                    source=document.source,
                    document_id=document.document_id,
                    title=document.title,
                    status="updated" if was_there else "added",
                    num_chunks=len(chunks),
                    reason=note,
                )
            )

    def _take(self, name: str, get: Callable[[], tuple[bytes, Kind]]) -> None:
        known = self._store.known(document_id(name))
        try:
            data, kind = get()
            sha256 = hashlib.sha256(data).hexdigest()
            if known is None or known.content_key != content_key(sha256, self._store.settings):
                self._gather(name, self._reader.read(name, data, kind), sha256)
                return
        except DocumentRefused as error:
            reason = str(error)
            if known is not None:
                reason += " The version added before stays."
            self._end(name, "refused", known, reason)
            return
        self._end(name, "unchanged", known, None)

    def _gather(self, name: str, read: Document, sha256: str) -> None:
        settings = self._store.settings
        document = KeptDocument(
            document_id=document_id(name),
            source=name,
            title=read.title,
            text=read.text,
            sections=read.sections,
            is_code=read.is_code,
            num_pages=read.num_pages,
            sha256=sha256,
            content_key=content_key(sha256, settings),
            added_at=time.time(),
        )
        self._models.check_chunks(settings)
        chunks = chunk_document(read, settings, self._models.count_tokens)
        self._gathered.append(((document, chunks), read.note))
        self._num_chunks += len(chunks)
        if self._num_chunks >= _BATCH_CHUNKS:
            self.finish()

    def _end(
        self,
        name: str,
        status: Literal["unchanged", "refused"],
        known: KnownDocument | None,
        reason: str | None,
    ) -> None:
        self._report(
            AddedDocument(
                source=name,
                document_id=document_id(name),
                title=known.title if known is not None else PurePath(name).name,
                status=status,
                num_chunks=known.num_chunks if known is not None else 0,
                reason=reason,
            )
        )


def embed_chunks(cuts: Sequence[Cut], models: Models) -> Iterator[Vectors]:
    """Return the vectors of the chunks of each document, all embedded together.

    Raises:
        ConfigError: The embedder gives no vectors of length 1.
    """
    texts = [
        embedded_text(chunk.heading, document.text[chunk.start : chunk.end])
        for document, chunks in cuts
        for chunk in chunks
    ]
    vectors = embed_all(texts, models.embed) if texts else np.empty((0, 0), dtype=np.float32)
    begin = 0
    for _, chunks in cuts:
        yield vectors[begin : begin + len(chunks)]
        begin += len(chunks)


def rewrite_all(writer: Writer, settings: CollectionSettings, models: Models) -> None:
    """Cut and embed all documents again, from the text that the store has.

    Raises:
        ConfigError: The embedder does not read a whole chunk, or gives no vectors of length 1.
    """
    models.check_chunks(settings)
    while remaining := writer.remaining():
        gathered: list[Cut] = []
        num_gathered = 0
        for place, one in enumerate(remaining, start=1):
            document = writer.document(one)
            if document is not None:
                gathered.append(_cut_again(document, settings, models))
                num_gathered += len(gathered[-1][1])
            if num_gathered >= _BATCH_CHUNKS or place == len(remaining):
                vectors = embed_chunks(gathered, models)
                for (kept, chunks), some in zip(gathered, vectors, strict=True):
                    writer.put(kept, chunks, some)
                gathered, num_gathered = [], 0


def _cut_again(document: KeptDocument, settings: CollectionSettings, models: Models) -> Cut:
    read = Document(
        title=document.title,
        text=document.text,
        sections=document.sections,
        is_code=document.is_code,
    )
    chunks = chunk_document(read, settings, models.count_tokens)
    key = content_key(document.sha256, settings)
    return dataclasses.replace(document, content_key=key), chunks
