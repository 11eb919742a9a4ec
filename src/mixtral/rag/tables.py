"""What is asked of the tables of a collection: SQL, one question to a function.

Every function takes the connection of an open transaction (``database``). Vectors are kept as
little-endian float32, whatever the machine.
"""

import dataclasses
import json
import sqlite3
import uuid
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from mixtral.rag.chunking import Chunk
from mixtral.rag.database import make_word_index
from mixtral.rag.documents import Section
from mixtral.rag.settings import CollectionSettings
from mixtral.rag.store import Candidate, EmbedderMark, KeptDocument, Vectors
from mixtral.rag.vector_index import Ids
from mixtral.rag.words import index_terms

_BATCH = 500
"""Rows of one query by id; SQLite takes up to 999 in all versions."""


class LocalWriter:
    """Puts documents into an open transaction."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._done: set[str] = set()

    def remaining(self) -> list[str]:
        """Return the ids of the documents that were not put yet."""
        rows = self._connection.execute("SELECT id FROM documents ORDER BY source").fetchall()
        return [row[0] for row in rows if row[0] not in self._done]

    def document(self, document_id: str) -> KeptDocument:
        """Return a document as it was put there."""
        row = self._connection.execute(
            "SELECT id, source, title, text, sections, is_code, num_pages, sha256, content_key, "
            "added_at FROM documents WHERE id = ?",
            (document_id,),
        ).fetchone()
        fields = dict(zip(KeptDocument.__slots__, row, strict=True))
        fields["sections"] = _sections(fields["sections"])
        fields["is_code"] = bool(fields["is_code"])
        return KeptDocument(**fields)

    def put(self, document: KeptDocument, chunks: Sequence[Chunk], vectors: Vectors) -> bool:
        """Put one in; return whether it replaced an earlier version."""
        connection = self._connection
        was_there = forget(connection, document.document_id)
        connection.execute(
            "INSERT INTO documents (id, source, title, num_pages, num_chunks, num_characters, "
            "sha256, content_key, added_at, is_code, sections, text) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                document.document_id,
                document.source,
                document.title,
                document.num_pages,
                len(chunks),
                len(document.text),
                document.sha256,
                document.content_key,
                document.added_at,
                document.is_code,
                json.dumps([[s.start, s.end, s.heading, s.page] for s in document.sections]),
                document.text,
            ),
        )
        for chunk, vector in zip(chunks, vectors, strict=True):
            text = document.text[chunk.start : chunk.end]
            cursor = connection.execute(
                'INSERT INTO chunks (document_id, start, "end", page, vector, heading, text) '
                "VALUES (?, ?, ?, ?, ?, ?, ?)",
                (
                    document.document_id,
                    chunk.start,
                    chunk.end,
                    chunk.page,
                    vector.astype("<f4").tobytes(),
                    chunk.heading,
                    text,
                ),
            )
            words = index_terms(f"{chunk.heading}\n{text}" if chunk.heading else text)
            connection.execute(
                "INSERT INTO words (rowid, terms) VALUES (?, ?)", (cursor.lastrowid, words)
            )
        self._done.add(document.document_id)
        return was_there


def begin(connection: sqlite3.Connection, settings: CollectionSettings) -> None:
    """Put the first facts into new tables."""
    make_word_index(connection, stemming=settings.stemming)
    set_fact(connection, "settings", settings.to_json())
    set_fact(connection, "owner", uuid.uuid4().hex)
    set_fact(connection, "generation", "0")


def fact(connection: sqlite3.Connection, name: str) -> str:
    """Return a fact that every collection has."""
    row = connection.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
    return str(row[0])


def set_fact(connection: sqlite3.Connection, name: str, value: str) -> None:
    """Set a fact."""
    connection.execute("INSERT OR REPLACE INTO facts (name, value) VALUES (?, ?)", (name, value))


def embedder_of(connection: sqlite3.Connection) -> EmbedderMark | None:
    """Return what the vectors are of; None while there are none."""
    row = connection.execute("SELECT value FROM facts WHERE name = 'embedder'").fetchone()
    if row is None:
        return None
    fields = json.loads(row[0])
    if fields.get("probe") is not None:
        fields["probe"] = tuple(fields["probe"])
    return EmbedderMark(**fields)


def set_embedder(connection: sqlite3.Connection, mark: EmbedderMark) -> None:
    """Say what the vectors are of."""
    set_fact(connection, "embedder", json.dumps(dataclasses.asdict(mark)))


def _sections(text: str) -> tuple[Section, ...]:
    return tuple(
        Section(start=start, end=end, heading=heading, page=page)
        for start, end, heading, page in json.loads(text)
    )


def forget(connection: sqlite3.Connection, document_id: str) -> bool:
    """Take a document out; return whether it was there. Every change of chunks begins here."""
    connection.execute("UPDATE facts SET value = value + 1 WHERE name = 'generation'")
    connection.execute(
        "DELETE FROM words WHERE rowid IN (SELECT id FROM chunks WHERE document_id = ?)",
        (document_id,),
    )
    connection.execute("DELETE FROM chunks WHERE document_id = ?", (document_id,))
    return connection.execute("DELETE FROM documents WHERE id = ?", (document_id,)).rowcount > 0


def search_words(
    connection: sqlite3.Connection, terms: Sequence[str], limit: int
) -> dict[int, float]:
    """Return chunks with any of the words and their BM25 scores, best first."""
    # Quoted, a word is never an operator of the query language.
    query = " OR ".join('"' + term.replace('"', '""') + '"' for term in terms)
    rows = connection.execute(
        "SELECT rowid, rank FROM words WHERE words MATCH ? ORDER BY rank LIMIT ?", (query, limit)
    )
    return {row[0]: -row[1] for row in rows}


def load_vectors(
    connection: sqlite3.Connection, wanted: Ids, dimension: int
) -> Iterator[tuple[Ids, NDArray[np.float32]]]:
    """Yield ids and vectors, [N] and [N, D], in batches."""
    for begin in range(0, len(wanted), _BATCH):
        some = wanted[begin : begin + _BATCH].tolist()
        rows = connection.execute(
            f"SELECT id, vector FROM chunks WHERE id IN ({_marks(some)})", some
        ).fetchall()
        vectors = np.frombuffer(b"".join(row[1] for row in rows), dtype="<f4")
        ids = np.array([row[0] for row in rows], dtype=np.int64)
        yield ids, vectors.reshape(len(rows), dimension).astype(np.float32, copy=False)


def fetch_candidates(
    connection: sqlite3.Connection, ids: Sequence[int], scores: dict[int, float]
) -> list[Candidate]:
    """Return chunks with everything that is shown of them, in any order."""
    found = []
    for begin in range(0, len(ids), _BATCH):
        some = ids[begin : begin + _BATCH]
        found += connection.execute(
            'SELECT c.id, c.document_id, d.source, d.title, c.start, c."end", c.heading, c.page, '
            "c.text, c.vector FROM chunks c JOIN documents d ON d.id = c.document_id "
            f"WHERE c.id IN ({_marks(some)}) ORDER BY c.id",
            some,
        ).fetchall()
    return [
        Candidate(
            id=row[0],
            document_id=row[1],
            source=row[2],
            title=row[3],
            chunk=Chunk(start=row[4], end=row[5], heading=row[6], page=row[7]),
            text=row[8],
            vector=np.frombuffer(row[9], dtype="<f4"),
            keyword_score=scores.get(row[0], 0.0),
        )
        for row in found
    ]


def _marks(values: Sequence[int]) -> str:
    return ",".join("?" * len(values))
