"""The two collections of Qdrant that hold what there is, documents and chunks, and their facts.

Each ``reindex`` fills two new ones; which two count is said by the facts (``qdrant``). A document
counts when its own point is written, after its chunks; chunks of a version that does not count are
not found.
"""

import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mixtral.rag import qdrant_points as points
from mixtral.rag.chunking import Chunk
from mixtral.rag.store import EmbedderMark, KeptDocument, Vectors

if TYPE_CHECKING:
    from qdrant_client import QdrantClient
    from qdrant_client.models import Record, ScoredPoint, SparseVector

_BATCH = 256
"""Points of one request: some megabytes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Facts:
    """What the one point of NAME says."""

    settings: str
    """The settings that the collection keeps."""
    number: int = 0
    """N of the two collections that count."""
    embedder: str | None = None
    """Name of what the vectors are of; None while there are none."""
    dimension: int = 0
    """D."""
    probe: Sequence[float] | None = None
    """As in ``EmbedderMark``."""

    @property
    def mark(self) -> EmbedderMark | None:
        """What the vectors are of."""
        if self.embedder is None:
            return None
        probe = None if self.probe is None else tuple(self.probe)
        return EmbedderMark(name=self.embedder, dimension=self.dimension, probe=probe)


class Parts:
    """NAME-documents-N and NAME-chunks-N. Calls may raise whatever Qdrant's client raises.

    Args:
        client: A connection.
        name: NAME.
        facts: What says N, and the dimension of vectors.
        stem: Finds the stems of words.
    """

    def __init__(self, client: "QdrantClient", name: str, facts: Facts, stem: points.Stem) -> None:
        self.number = facts.number
        """N."""
        self._client = client
        self._dimension = facts.dimension
        self._stem = stem
        self._documents = f"{name}-documents-{facts.number}"
        self._chunks = f"{name}-chunks-{facts.number}"

    def make(self, *, with_payload_index: bool) -> None:
        """Make what is not there; another process may do the same at this moment.

        Args:
            with_payload_index: Whether chunks are found quickly by their document.
        """
        from qdrant_client.models import (
            Distance,
            Modifier,
            PayloadSchemaType,
            SparseVectorParams,
            VectorParams,
        )

        if self._is_empty_and_of_another_size():
            self.drop()
        dense = VectorParams(size=self._dimension, distance=Distance.COSINE)
        words = SparseVectorParams(modifier=Modifier.IDF)
        create_collection(self._client, self._documents, vectors_config=points.unsearched())
        create_collection(
            self._client,
            self._chunks,
            vectors_config={points.DENSE: dense},
            sparse_vectors_config={points.WORDS: words},
        )
        if with_payload_index:
            self._client.create_payload_index(
                self._chunks, "document_id", PayloadSchemaType.KEYWORD
            )

    def drop(self) -> None:
        """Delete both, where they are there."""
        for name in (self._documents, self._chunks):
            if self._client.collection_exists(name):
                self._client.delete_collection(name)

    def put(self, document: KeptDocument, chunks: Sequence[Chunk], vectors: Vectors) -> str:
        """Put a document in; return its version."""
        version = uuid.uuid4().hex
        new = points.chunk_points(document, chunks, vectors, version, self._stem)
        for begin in range(0, len(new), _BATCH):
            self._client.upsert(self._chunks, new[begin : begin + _BATCH])
        self._client.upsert(
            self._documents, [points.document_point(document, len(chunks), version)]
        )
        others = points.chunks_of(document.document_id, but_not=version)
        self._client.delete(self._chunks, others)
        return version

    def remove(self, document_ids: Sequence[str]) -> None:
        """Take documents out: their own points first, then nothing of them counts."""
        from qdrant_client.models import PointIdsList

        ids: Any = [points.point_id(one) for one in document_ids]
        self._client.delete(self._documents, PointIdsList(points=ids))
        for one in document_ids:
            self._client.delete(self._chunks, points.chunks_of(one))

    def record(self, document_id: str, fields: list[str] | bool) -> "Record | None":
        """Return the point of a document with some fields or all; None where there is none."""
        try:
            number = points.point_id(document_id)
        except ValueError:
            return None
        found = self._client.retrieve(self._documents, [number], with_payload=fields)
        return found[0] if found else None

    def version(self, document_id: str) -> str | None:
        """Return the version of a document that counts; None where there is none."""
        record = self.record(document_id, ["version"])
        return None if record is None else str((record.payload or {})["version"])

    def records(self, fields: Any) -> "Iterator[Record]":
        """Yield the points of all documents, with the fields that are chosen."""
        if not self._client.collection_exists(self._documents):
            return
        offset: Any = None
        while True:
            records, offset = self._client.scroll(
                self._documents, limit=_BATCH, offset=offset, with_payload=fields
            )
            yield from records
            if offset is None:
                return

    def versions(self) -> dict[str, str]:
        """Return the version of each document that counts."""
        records = self.records(["document_id", "version"])
        payloads = [record.payload or {} for record in records]
        return {payload["document_id"]: payload["version"] for payload in payloads}

    def versions_of(self, found: "Iterable[ScoredPoint]") -> set[str]:
        """Return the versions that count of the documents whose chunks were found."""
        ids = {points.point_id((point.payload or {})["document_id"]) for point in found}
        if not ids:
            return set()
        records = self._client.retrieve(self._documents, list(ids), with_payload=["version"])
        return {(record.payload or {})["version"] for record in records}

    def query(
        self, query: "list[float] | SparseVector", using: str, limit: int
    ) -> "dict[int, ScoredPoint]":
        """Return the chunks nearest to a vector, by their numbers."""
        answer = self._client.query_points(
            self._chunks,
            query=query,
            using=using,
            limit=limit,
            with_payload=True,
            with_vectors=[points.DENSE],
        )
        return {int(point.id): point for point in answer.points}

    def _is_empty_and_of_another_size(self) -> bool:
        """Return whether a process was killed here that was to fill them for another embedder."""
        client = self._client
        if not client.collection_exists(self._chunks):
            return False
        vectors: Any = client.get_collection(self._chunks).config.params.vectors
        return vectors[points.DENSE].size != self._dimension and not any(self.records(False))


def create_collection(client: "QdrantClient", name: str, **kinds: Any) -> None:
    """Make a collection unless it is there; another process may make it at the same moment.

    Args:
        client: A connection.
        name: What it is called.
        kinds: Its vectors, as ``QdrantClient.create_collection`` has them.
    """
    from qdrant_client.http.exceptions import ApiException

    if client.collection_exists(name):
        return
    try:
        client.create_collection(name, **kinds)
    except (ApiException, ValueError):
        if not client.collection_exists(name):
            raise


def drop_others(client: "QdrantClient", name: str, facts: Facts) -> None:
    """Delete all parts but those that count, also of processes that were killed.

    Args:
        client: A connection.
        name: NAME.
        facts: What says which count.
    """
    for one in client.get_collections().collections:
        part, _, number = one.name.rpartition("-")
        is_part = part in (f"{name}-documents", f"{name}-chunks") and number.isdigit()
        if is_part and int(number) != facts.number:
            client.delete_collection(one.name)
