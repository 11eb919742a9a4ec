"""A collection in Qdrant, for those who outgrow one machine: the same interface, another place.

    http://HOST:6333/NAME     a server; its key is read from QDRANT_API_KEY
    qdrant://FOLDER           Qdrant inside this process, one process at a time, for small ones

Three of Qdrant's collections make one of ours: NAME holds one point of facts, NAME-documents-N and
NAME-chunks-N what there is. Qdrant has no transactions over several points, so a version of a
document counts when its own point is written: its chunks come before that, those of the version
before go after it, and a search drops chunks of versions that do not count. In the same way
``reindex`` fills a new N and then writes the fact. Two processes that write the same document at
once leave one of the two versions.
"""

import dataclasses
import threading
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mixtral.errors import ConfigError
from mixtral.rag import qdrant_points as points
from mixtral.rag.chunking import Chunk
from mixtral.rag.qdrant_connection import INSIDE, connect, explained_errors
from mixtral.rag.records import StoredDocument
from mixtral.rag.settings import CollectionSettings
from mixtral.rag.store import (
    Candidate,
    EmbedderMark,
    KeptDocument,
    KnownDocument,
    Vectors,
    other_embedder,
)

if TYPE_CHECKING:
    from qdrant_client.models import ScoredPoint, SparseVector

_FACTS_ID = 1
_BATCH = 256
"""Points of one request: some megabytes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Facts:
    """What the one point of NAME says."""

    settings: str
    number: int = 0
    """N of the two collections that count."""
    embedder: str | None = None
    dimension: int = 0

    @property
    def mark(self) -> EmbedderMark | None:
        if self.embedder is None:
            return None
        return EmbedderMark(name=self.embedder, dimension=self.dimension)


class QdrantStore:
    """A ``Store`` in Qdrant.

    Args:
        url: Where it is.
        create: Whether to make it where there is none.
        settings: Those of a new collection; of another one, what is to be different
            (``CollectionSettings.over``).

    Raises:
        ConfigError: There is no collection or no server.
        UnsupportedError: The extra ``qdrant`` is not installed.
    """

    def __init__(self, url: str, *, create: bool, settings: CollectionSettings) -> None:
        self._lock = threading.RLock()  # The client inside this process takes one call at a time.
        with explained_errors(url):
            self._client, self._name = connect(url)
        self._url = url
        try:
            with self._using():
                if not self._client.collection_exists(self._name):
                    self._make(settings, create=create)
                kept = CollectionSettings.from_json(self._facts().settings)
            self.settings = settings.over(kept)
            """What holds for it: what it was made with, and what was said when it was opened."""
            self._stem = points.stemmer(stemming=self.settings.stemming)
        except BaseException:
            self._client.close()
            raise

    def embedder(self) -> EmbedderMark | None:
        """Return what its vectors are of; None while it has none."""
        with self._using():
            return self._facts().mark

    def known(self, document_id: str) -> KnownDocument | None:
        """Return the version that is kept; None where there is none."""
        payload = self._payload(document_id, list(KnownDocument._fields))
        return None if payload is None else KnownDocument(**payload)

    def documents(self) -> list[StoredDocument]:
        """Return all documents, by source."""
        from qdrant_client.models import PayloadSelectorExclude

        found: list[StoredDocument] = []
        with self._using():
            facts = self._facts()
            if facts.mark is None:
                return []
            offset: Any = None
            while True:
                records, offset = self._client.scroll(
                    self._documents(facts),
                    limit=_BATCH,
                    offset=offset,
                    with_payload=PayloadSelectorExclude(exclude=["text", "sections"]),
                )
                found.extend(map(points.stored_document, records))
                if offset is None:
                    return sorted(found, key=lambda document: document.source)

    def text_of(self, document_id: str) -> str | None:
        """Return the text of a document; None where there is none."""
        payload = self._payload(document_id, ["text"])
        return None if payload is None else str(payload["text"])

    # ---- Writing -------------------------------------------------------------------------------

    def put(
        self,
        document: KeptDocument,
        chunks: Sequence[Chunk],
        vectors: Vectors,
        *,
        embedder: EmbedderMark,
    ) -> bool:
        """Put a document in; return whether it replaced an earlier version.

        Raises:
            ConfigError: The vectors are of another embedder, or the server cannot be reached.
        """
        with self._using():
            facts = self._facts()
            if facts.mark is None:
                facts = dataclasses.replace(
                    facts, embedder=embedder.name, dimension=embedder.dimension
                )
                self._make_parts(facts)
                self._write(facts)
            elif facts.mark != embedder:
                raise other_embedder(facts.mark, embedder)
            was_there = self._payload(document.document_id, ["version"]) is not None
            self._put(facts, document, chunks, vectors)
        return was_there

    def remove(self, document_ids: Sequence[str]) -> None:
        """Take documents out: their own points first, then nothing of them counts."""
        from qdrant_client.models import PointIdsList

        with self._using():
            facts = self._facts()
            ids: Any = [points.point_id(one) for one in document_ids]
            if facts.mark is None or not ids:
                return
            self._client.delete(self._documents(facts), PointIdsList(points=ids))
            for one in document_ids:
                self._client.delete(self._chunks(facts), points.chunks_of(one))

    @contextmanager
    def rewriting(
        self, settings: CollectionSettings, embedder: EmbedderMark
    ) -> "Iterator[_QdrantWriter]":
        """Fill new collections beside the old ones, which count until this ends."""
        with self._using():
            old = self._facts()
            new = _Facts(
                settings=settings.to_json(),
                number=old.number + 1,
                embedder=embedder.name,
                dimension=embedder.dimension,
            )
            self._drop_parts(new)  # What a process left that was killed here.
            self._make_parts(new)
        stem, self._stem = self._stem, points.stemmer(stemming=settings.stemming)
        try:
            yield _QdrantWriter(self, old, new)
        except BaseException:
            self._stem = stem
            with self._using():
                self._drop_parts(new)
            raise
        with self._using():
            self._write(new)
            self._drop_parts(old)
        self.settings = settings

    # ---- Searching -----------------------------------------------------------------------------

    def candidates(
        self, vector: NDArray[np.float32], terms: Sequence[str], *, limit: int
    ) -> list[Candidate]:
        """Return the nearest chunks and those with most of the words, in any order."""
        with self._using():
            facts = self._facts()
            if facts.mark is None:
                return []
            near = self._query(facts, vector.tolist(), points.DENSE, limit)
            wordy = {}
            if terms:
                words = points.words_of_question(terms, self._stem)
                wordy = self._query(facts, words, points.WORDS, limit)
            found = {**wordy, **near}
            versions = self._versions(facts, found.values())
        return [
            points.candidate(point, wordy[i].score if i in wordy else 0.0)
            for i, point in sorted(found.items())
            if (point.payload or {})["version"] in versions
        ]

    def refresh(self) -> None:
        """Do nothing: Qdrant keeps its own indexes up to date."""

    def close(self) -> None:
        """Close the connection."""
        with self._lock:
            self._client.close()

    # ---- Requests ------------------------------------------------------------------------------

    @contextmanager
    def _using(self) -> Iterator[None]:
        with self._lock, explained_errors(self._url):
            yield

    def _make(self, settings: CollectionSettings, *, create: bool) -> None:
        if not create:
            raise ConfigError(
                f"{self._url} has no collection; add documents first (mixtral rag add), or name "
                "another."
            )
        self._client.create_collection(self._name, vectors_config=points.unsearched())
        self._write(_Facts(settings=settings.to_json()))

    def _facts(self) -> _Facts:
        (record,) = self._client.retrieve(self._name, [_FACTS_ID])
        return _Facts(**(record.payload or {}))

    def _write(self, facts: _Facts) -> None:
        from qdrant_client.models import PointStruct

        payload = dataclasses.asdict(facts)
        point = PointStruct(id=_FACTS_ID, vector=points.NOTHING, payload=payload)
        self._client.upsert(self._name, [point])

    def _documents(self, facts: _Facts) -> str:
        return f"{self._name}-documents-{facts.number}"

    def _chunks(self, facts: _Facts) -> str:
        return f"{self._name}-chunks-{facts.number}"

    def _make_parts(self, facts: _Facts) -> None:
        from qdrant_client.models import (
            Distance,
            Modifier,
            PayloadSchemaType,
            SparseVectorParams,
            VectorParams,
        )

        self._drop_parts(facts)
        self._client.create_collection(self._documents(facts), vectors_config=points.unsearched())
        self._client.create_collection(
            self._chunks(facts),
            vectors_config={
                points.DENSE: VectorParams(size=facts.dimension, distance=Distance.COSINE)
            },
            sparse_vectors_config={points.WORDS: SparseVectorParams(modifier=Modifier.IDF)},
        )
        if not self._url.startswith(INSIDE):  # There it does nothing, and says so.
            self._client.create_payload_index(
                self._chunks(facts), "document_id", PayloadSchemaType.KEYWORD
            )

    def _drop_parts(self, facts: _Facts) -> None:
        for name in (self._documents(facts), self._chunks(facts)):
            if self._client.collection_exists(name):
                self._client.delete_collection(name)

    def _put(
        self, facts: _Facts, document: KeptDocument, chunks: Sequence[Chunk], vectors: Vectors
    ) -> None:
        version = uuid.uuid4().hex
        new = points.chunk_points(document, chunks, vectors, version, self._stem)
        for begin in range(0, len(new), _BATCH):
            self._client.upsert(self._chunks(facts), new[begin : begin + _BATCH])
        self._client.upsert(
            self._documents(facts), [points.document_point(document, len(chunks), version)]
        )
        others = points.chunks_of(document.document_id, but_not=version)
        self._client.delete(self._chunks(facts), others)

    def _payload(self, document_id: str, fields: list[str]) -> dict[str, Any] | None:
        """Return some fields of a document; None where there is no such document."""
        with self._using():
            facts = self._facts()
            if facts.mark is None:
                return None
            try:
                number = points.point_id(document_id)
            except ValueError:
                return None
            found = self._client.retrieve(self._documents(facts), [number], with_payload=fields)
        return found[0].payload if found else None

    def _query(
        self, facts: _Facts, query: "list[float] | SparseVector", using: str, limit: int
    ) -> "dict[int, ScoredPoint]":
        answer = self._client.query_points(
            self._chunks(facts),
            query=query,
            using=using,
            limit=limit,
            with_payload=True,
            with_vectors=[points.DENSE],
        )
        return {int(point.id): point for point in answer.points}

    def _versions(self, facts: _Facts, found: "Iterable[ScoredPoint]") -> set[str]:
        """Return the versions that count of the documents that were found."""
        ids = {points.point_id((point.payload or {})["document_id"]) for point in found}
        if not ids:
            return set()
        records = self._client.retrieve(self._documents(facts), list(ids), with_payload=["version"])
        return {(record.payload or {})["version"] for record in records}


class _QdrantWriter:
    """Puts documents into new collections."""

    def __init__(self, store: QdrantStore, old: _Facts, new: _Facts) -> None:
        self._store = store
        self._old = old
        self._new = new

    def document(self, document_id: str) -> KeptDocument:
        store = self._store
        with store._using():
            (record,) = store._client.retrieve(
                store._documents(self._old), [points.point_id(document_id)]
            )
        return points.kept_document(record)

    def put(self, document: KeptDocument, chunks: Sequence[Chunk], vectors: Vectors) -> bool:
        with self._store._using():
            self._store._put(self._new, document, chunks, vectors)
        return True
