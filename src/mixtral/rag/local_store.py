"""A collection in a folder: SQLite holds everything, a faiss index mirrors its vectors.

    collection.sqlite     documents, chunks, vectors, words; each document is one transaction
    vectors.faiss         a cache of the vectors for quick opening; may be deleted at any time

Opening costs a read of the cache (154 MB for 100,000 chunks of 384 components) and of what was
added since. Each search looks at one number in SQLite that says whether anyone, in any process,
has changed the collection, and then takes over the difference.
"""

import logging
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mixtral.rag import tables
from mixtral.rag.chunking import Chunk
from mixtral.rag.database import Database, make_word_index
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
from mixtral.rag.vector_index import Ids, VectorIndex, import_faiss

_LOG = logging.getLogger(__name__)

_INDEX_NAME = "vectors.faiss"
_SAVE_SHARE = 8
"""The cache is written again when an eighth of the vectors has changed since."""


class LocalStore:
    """A ``Store`` in a folder.

    Args:
        folder: Where it is.
        create: Whether to make it where there is none.
        settings: Those of a new collection; of another one, what is to be different
            (``CollectionSettings.over``).

    Raises:
        ConfigError: There is no collection, or it is damaged or of another version.
        UnsupportedError: faiss is not installed, or Python's SQLite lacks FTS5.
    """

    def __init__(self, folder: Path, *, create: bool, settings: CollectionSettings) -> None:
        import_faiss()
        self._folder = folder
        self._database = Database(
            folder, create=create, on_new=lambda connection: tables.begin(connection, settings)
        )
        try:
            with self._database.reading() as connection:
                kept = CollectionSettings.from_json(tables.fact(connection, "settings"))
            self.settings = settings.over(kept)
            """What holds for it: what it was made with, and what was said when it was opened."""
        except BaseException:
            self._database.close()
            raise
        self._index: VectorIndex | None = None
        self._generation = -1  # Of what the index holds.
        self._num_unsaved = 0

    def embedder(self) -> EmbedderMark | None:
        """Return what its vectors are of; None while it has none."""
        with self._database.reading() as connection:
            return tables.embedder_of(connection)

    def known(self, document_id: str) -> KnownDocument | None:
        """Return the version that is kept; None where there is none."""
        with self._database.reading() as connection:
            row = connection.execute(
                "SELECT content_key, title, num_chunks FROM documents WHERE id = ?", (document_id,)
            ).fetchone()
        return None if row is None else KnownDocument(*row)

    def documents(self) -> list[StoredDocument]:
        """Return all documents, by source."""
        with self._database.reading() as connection:
            rows = connection.execute(
                "SELECT id, source, title, num_chunks, num_characters, num_pages, added_at, sha256 "
                "FROM documents ORDER BY source"
            ).fetchall()
        names = StoredDocument.__slots__
        return [StoredDocument(**dict(zip(names, row, strict=True))) for row in rows]

    def text_of(self, document_id: str) -> str | None:
        """Return the text of a document; None where there is none."""
        with self._database.reading() as connection:
            row = connection.execute(
                "SELECT text FROM documents WHERE id = ?", (document_id,)
            ).fetchone()
        return None if row is None else str(row[0])

    # ---- Writing -------------------------------------------------------------------------------

    def put(
        self,
        document: KeptDocument,
        chunks: Sequence[Chunk],
        vectors: Vectors,
        *,
        embedder: EmbedderMark,
    ) -> bool:
        """Put a document in, in one transaction; return whether it replaced an earlier version.

        Raises:
            ConfigError: The vectors are of another embedder, or it cannot be written.
        """
        with self._database.writing() as connection:
            kept = tables.embedder_of(connection)
            if kept is None:
                tables.set_embedder(connection, embedder)
            elif not kept.fits(embedder):
                raise other_embedder(kept, embedder)
            return tables.LocalWriter(connection).put(document, chunks, vectors)

    def remove(self, document_ids: Sequence[str]) -> None:
        """Take documents out, all or none."""
        with self._database.writing() as connection:
            for document_id in document_ids:
                tables.forget(connection, document_id)

    @contextmanager
    def rewriting(
        self, settings: CollectionSettings, embedder: EmbedderMark
    ) -> "Iterator[tables.LocalWriter]":
        """Begin again in one transaction: until it ends, everyone finds what was there before."""
        with self._database.writing() as connection:
            connection.execute("DELETE FROM chunks")
            make_word_index(connection, stemming=settings.stemming)
            tables.set_fact(connection, "settings", settings.to_json())
            tables.set_embedder(connection, embedder)
            yield tables.LocalWriter(connection)
        self.settings = settings
        self._index = None

    # ---- Searching -----------------------------------------------------------------------------

    def candidates(
        self, vector: NDArray[np.float32], terms: Sequence[str], *, limit: int
    ) -> list[Candidate]:
        """Return the nearest chunks and those with most of the words, in any order."""
        with self._database.reading() as connection:
            index = self._synchronised(connection)
            near = index.search(vector, limit) if index is not None else []
            scores = tables.search_words(connection, terms, limit) if terms else {}
            ids = list(dict.fromkeys((*near, *scores)))
            return tables.fetch_candidates(connection, ids, scores)

    def refresh(self) -> None:
        """Bring the index up to date, so that the next search need not."""
        with self._database.reading() as connection:
            self._synchronised(connection)

    def close(self) -> None:
        """Give everything back."""
        self._database.close()
        self._index = None

    def _synchronised(self, connection: sqlite3.Connection) -> VectorIndex | None:
        """Return the index as SQLite's view of this moment has it; None for no vectors at all."""
        mark = tables.embedder_of(connection)
        if mark is None:
            return None
        generation = int(tables.fact(connection, "generation"))
        if self._index is not None and self._generation == generation:
            return self._index
        owner = tables.fact(connection, "owner")
        index, self._index = self._index, None  # Gone if the update fails half way.
        if index is None or index.dimension != mark.dimension:
            index = VectorIndex.load(
                self._folder / _INDEX_NAME,
                owner=owner,
                dimension=mark.dimension,
                exact_up_to=self.settings.exact_up_to,
            )
        rows = connection.execute("SELECT id FROM chunks ORDER BY id").fetchall()
        ids: Ids = np.array([row[0] for row in rows], dtype=np.int64)
        self._num_unsaved += index.update(
            ids, lambda wanted: tables.load_vectors(connection, wanted, mark.dimension)
        )
        self._index, self._generation = index, generation
        if self._num_unsaved * _SAVE_SHARE > len(index):
            self._save(index, owner)
        return index

    def _save(self, index: VectorIndex, owner: str) -> None:
        self._num_unsaved = 0
        try:
            index.save(self._folder / _INDEX_NAME, owner=owner)
        except OSError as error:  # A cache: a folder that may only be read works, too.
            _LOG.warning("%s cannot be written: %s", self._folder / _INDEX_NAME, error)
