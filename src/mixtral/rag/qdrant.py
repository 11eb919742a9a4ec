"""A collection in Qdrant, for those who outgrow one machine: the same interface, another place.

    http://HOST:6333/NAME     a server; its key is read from QDRANT_API_KEY
    qdrant://FOLDER           Qdrant inside this process, one process at a time, for small ones

Three of Qdrant's collections make one of ours: NAME holds one point of facts, NAME-documents-N and
NAME-chunks-N what there is. Qdrant has no transactions over several points, so a version of a
document counts when its own point is written: its chunks come before that, those of the version
before go after it, and a search drops chunks of versions that do not count. In the same way
``reindex`` fills a new N, a random number, and then writes the fact.

Whoever changes something looks at the facts again afterwards, and does it once more where another N
counts by then. ``reindex`` looks at the old N again after it has written the fact, so what was
changed before is carried over, and what is changed after goes to the new N. Two processes that
write the same document at once leave one of the two versions; of two that reindex at once one
fails.
"""

import dataclasses
import secrets
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from mixtral.errors import ConfigError
from mixtral.rag import qdrant_points as points
from mixtral.rag.chunking import Chunk
from mixtral.rag.qdrant_connection import INSIDE, connect, explained_errors
from mixtral.rag.qdrant_parts import Facts, Parts, create_collection, drop_others
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

Result = TypeVar("Result")

_FACTS_ID = 1


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
                is_there = self._client.collection_exists(self._name)
                facts = self._find_facts() if is_there else None
                facts = facts or self._begin(settings, create=create)
                kept = CollectionSettings.from_json(facts.settings)
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

        fields = PayloadSelectorExclude(exclude=["text", "sections"])
        with self._using():
            records = self._parts(self._facts()).records(fields)
            found = list(map(points.stored_document, records))
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
            was_there = self._payload(document.document_id, ["version"]) is not None
            self._settle(
                lambda: self._facts_for(embedder),
                lambda parts: parts.put(document, chunks, vectors),
            )
        return was_there

    def remove(self, document_ids: Sequence[str]) -> None:
        """Take documents out."""
        with self._using():
            if document_ids and self._facts().mark is not None:
                self._settle(self._facts, lambda parts: parts.remove(document_ids))

    @contextmanager
    def rewriting(
        self, settings: CollectionSettings, embedder: EmbedderMark
    ) -> "Iterator[_QdrantWriter]":
        """Fill new collections beside the old ones, which count until all is there."""
        stem = points.stemmer(stemming=settings.stemming)
        with self._using():
            before = self._facts()
            after = dataclasses.replace(
                _with_mark(before, embedder),
                settings=settings.to_json(),
                number=secrets.randbits(31),  # Another process may reindex, too.
            )
            old = self._parts(before)
            new = Parts(self._client, self._name, after, stem)
            self._make(new)
        try:
            yield _QdrantWriter(self, old, new, switch=lambda: self._switch(before, after))
        finally:
            with self._using():
                if self._facts().number == after.number:
                    self.settings, self._stem = settings, stem
                    drop_others(self._client, self._name, after)
                else:
                    new.drop()

    # ---- Searching -----------------------------------------------------------------------------

    def candidates(
        self, vector: NDArray[np.float32], terms: Sequence[str], *, limit: int
    ) -> list[Candidate]:
        """Return the nearest chunks and those with most of the words, in any order."""
        with self._using():
            facts = self._facts()
            if facts.mark is None:
                return []
            parts = self._parts(facts)
            near = parts.query(vector.tolist(), points.DENSE, limit)
            wordy = {}
            if terms:
                words = points.words_of_question(terms, self._stem)
                wordy = parts.query(words, points.WORDS, limit)
            found = {**wordy, **near}
            versions = parts.versions_of(found.values())
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

    def _begin(self, settings: CollectionSettings, *, create: bool) -> Facts:
        """Make NAME with its first facts, or write those that a killed process did not.

        Raises:
            ConfigError: There is no collection and none is to be made.
        """
        if not create:
            raise ConfigError(
                f"{self._url} has no collection; add documents first (mixtral rag add), or name "
                "another."
            )
        create_collection(self._client, self._name, vectors_config=points.unsearched())
        facts = Facts(settings=settings.to_json())
        self._write(facts)
        return facts

    def _find_facts(self) -> Facts | None:
        """Return the facts; None where nothing was put into NAME yet.

        Raises:
            ConfigError: NAME holds something else.
        """
        records = self._client.retrieve(self._name, [_FACTS_ID])
        try:
            if records:
                return Facts(**(records[0].payload or {}))
            info: Any = self._client.get_collection(self._name)
            kind, ours = info.config.params.vectors, points.unsearched()
            is_ours = (kind.size, kind.distance) == (ours.size, ours.distance)
            if is_ours and not self._client.count(self._name).count:
                return None
        except (AttributeError, TypeError):  # Other fields, other vectors.
            pass
        raise ConfigError(
            f"{self._url} holds something else than documents of mixtral; name another collection."
        )

    def _facts(self) -> Facts:
        facts = self._find_facts()
        if facts is None:
            raise ConfigError(f"{self._url} was deleted by somebody; open it again.")
        return facts

    def _facts_for(self, embedder: EmbedderMark) -> Facts:
        """Return the facts, with collections for vectors of this embedder.

        Raises:
            ConfigError: There are vectors of another one.
        """
        facts = self._facts()
        if facts.mark is None:
            facts = _with_mark(facts, embedder)
            self._make(self._parts(facts))
            self._write(facts)
        elif not facts.mark.fits(embedder):
            raise other_embedder(facts.mark, embedder)
        return facts

    def _settle(self, get_facts: Callable[[], Facts], change: Callable[[Parts], object]) -> None:
        """Change what counts; again where another process has reindexed by the end."""
        while True:
            facts = get_facts()
            try:
                with explained_errors(self._url):
                    change(self._parts(facts))
            except ConfigError:  # It may have been dropped under our hands.
                if self._facts().number == facts.number:
                    raise
            if self._facts().number == facts.number:
                return

    def _switch(self, before: Facts, after: Facts) -> None:
        """Let the new collections count.

        Raises:
            ConfigError: Another process has reindexed meanwhile.
        """
        with self._using():
            if self._facts().number != before.number:
                raise ConfigError(
                    f"another process has reindexed {self._url} meanwhile; try again."
                )
            self._write(after)

    def _write(self, facts: Facts) -> None:
        from qdrant_client.models import PointStruct

        payload = dataclasses.asdict(facts)
        point = PointStruct(id=_FACTS_ID, vector=points.NOTHING, payload=payload)
        self._client.upsert(self._name, [point])

    def _parts(self, facts: Facts) -> Parts:
        return Parts(self._client, self._name, facts, self._stem)

    def _make(self, parts: Parts) -> None:
        # Inside this process an index does nothing, and says so.
        parts.make(with_payload_index=not self._url.startswith(INSIDE))

    def _payload(self, document_id: str, fields: list[str]) -> dict[str, Any] | None:
        """Return some fields of a document; None where there is no such document."""
        with self._using():
            facts = self._facts()
            if facts.mark is None:
                return None
            record = self._parts(facts).record(document_id, fields)
        return None if record is None else record.payload


class _QdrantWriter:
    """Puts the documents of some parts into others, which count once all are there."""

    def __init__(
        self, store: QdrantStore, old: Parts, new: Parts, *, switch: Callable[[], None]
    ) -> None:
        self._store = store
        self._old = old
        self._new = new
        self._switch = switch
        self._counts = False
        self._read: dict[str, str] = {}  # Versions that were read of the old ones,
        self._written: dict[str, str] = {}  # and those that became of them.

    def remaining(self) -> list[str]:
        with self._store._using():
            left = self._look()
            if left or self._counts:
                return left
            self._switch()
            self._counts = True
            # What was changed while the fact was written; nobody writes there any more.
            return self._look()

    def document(self, document_id: str) -> KeptDocument | None:
        with self._store._using():
            record = self._old.record(document_id, True)
        if record is None:
            return None
        self._read[document_id] = (record.payload or {})["version"]
        return points.kept_document(record)

    def put(self, document: KeptDocument, chunks: Sequence[Chunk], vectors: Vectors) -> bool:
        with self._store._using():
            version = self._new.put(document, chunks, vectors)
        self._written[document.document_id] = version
        return True

    def _look(self) -> list[str]:
        """Return what is new or changed in the old ones; remove what is gone from there."""
        there = self._old.versions()
        gone = [one for one in self._read if one not in there]
        for one in gone:
            if self._is_ours(one):
                self._new.remove([one])
                self._written.pop(one, None)
            del self._read[one]
        changed = [one for one, version in there.items() if self._read.get(one) != version]
        return [one for one in changed if self._is_ours(one)]

    def _is_ours(self, document_id: str) -> bool:
        """Return whether nobody else has changed a document in the new ones."""
        if not self._counts:
            return True
        return self._new.version(document_id) == self._written.get(document_id)


def _with_mark(facts: Facts, embedder: EmbedderMark) -> Facts:
    return dataclasses.replace(
        facts, embedder=embedder.name, dimension=embedder.dimension, probe=embedder.probe
    )
