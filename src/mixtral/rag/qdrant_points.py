"""Documents and chunks as points of Qdrant, and back.

A chunk is a point with a dense vector, its embedding, and a sparse one, its words: an index for
each word and the part of BM25 that depends on the passage alone,

    f (k1 + 1) / (f + k1 (1 - b + b length / average)),    k1 = 1.2, b = 0.75

for a word that occurs f times. Qdrant multiplies by the inverse document frequency when it
searches (``Modifier.IDF``). The average length is fixed, because passages have about one size
(https://qdrant.tech/documentation/concepts/indexing/#idf-modifier). A document is a point with a
vector that means nothing.
"""

import dataclasses
import hashlib
import secrets
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mixtral.errors import UnsupportedError
from mixtral.rag.chunking import Chunk
from mixtral.rag.documents import Section
from mixtral.rag.records import StoredDocument
from mixtral.rag.store import Candidate, KeptDocument, Vectors
from mixtral.rag.words import index_terms

if TYPE_CHECKING:
    from qdrant_client.models import (
        FilterSelector,
        PointStruct,
        Record,
        ScoredPoint,
        SparseVector,
        VectorParams,
    )

INSTALL = "pip install 'mixtral[qdrant]'"
DENSE, WORDS = "dense", "words"
"""Names of the two vectors of a chunk."""
NOTHING = [1.0]
"""The vector of a point that is not searched."""

_K1, _B = 1.2, 0.75
_AVERAGE_LENGTH = 128
"""Words of a passage; of 192 tokens, some are parts of words and marks."""
Stem = Callable[[list[str]], list[str]]
"""Words to their stems."""


def stemmer(*, stemming: bool) -> Stem:
    """Return what finds the stems of English words, or leaves words alone.

    Raises:
        UnsupportedError: PyStemmer is not installed.
    """
    if not stemming:
        return lambda words: words
    try:
        from Stemmer import Stemmer
    except ImportError:
        raise UnsupportedError(
            f"stems are found by PyStemmer: {INSTALL}, or make the collection with stemming=False"
        ) from None
    stem: Stem = Stemmer("english").stemWords
    return stem


def point_id(document_id: str) -> int:
    """Return the number of the point of a document."""
    return int(document_id, 16)


def words_of_chunk(text: str, stem: Stem) -> "SparseVector":
    """Return the sparse vector of a passage."""
    from qdrant_client.models import SparseVector

    counts = Counter(stem(index_terms(text).split()))
    length = _K1 * (1 - _B + _B * counts.total() / _AVERAGE_LENGTH)
    weights = {_index(word): f * (_K1 + 1) / (f + length) for word, f in counts.items()}
    return SparseVector(indices=list(weights), values=list(weights.values()))


def words_of_question(terms: Sequence[str], stem: Stem) -> "SparseVector":
    """Return the sparse vector of a question."""
    from qdrant_client.models import SparseVector

    indices = list(dict.fromkeys(_index(word) for word in stem(list(terms))))
    return SparseVector(indices=indices, values=[1.0] * len(indices))


def chunk_points(
    document: KeptDocument, chunks: Sequence[Chunk], vectors: Vectors, version: str, stem: Stem
) -> "list[PointStruct]":
    """Return the points of the chunks of one version of a document."""
    from qdrant_client.models import PointStruct

    points = []
    for chunk, vector in zip(chunks, vectors, strict=True):
        text = document.text[chunk.start : chunk.end]
        words = f"{chunk.heading}\n{text}" if chunk.heading else text
        payload = {
            "document_id": document.document_id,
            "version": version,
            "source": document.source,
            "title": document.title,
            "chunk": dataclasses.asdict(chunk),
            "text": text,
        }
        vector_of: Any = {DENSE: vector.tolist(), WORDS: words_of_chunk(words, stem)}
        # 63 bits: signed where a client has no other whole numbers.
        points.append(PointStruct(id=secrets.randbits(63), vector=vector_of, payload=payload))
    return points


def candidate(point: "ScoredPoint", keyword_score: float) -> Candidate:
    """Return a chunk that was found."""
    assert point.payload is not None
    assert isinstance(point.vector, dict)
    payload = point.payload
    return Candidate(
        id=int(point.id),
        document_id=payload["document_id"],
        source=payload["source"],
        title=payload["title"],
        chunk=Chunk(**payload["chunk"]),
        text=payload["text"],
        vector=np.asarray(point.vector[DENSE], dtype=np.float32),
        keyword_score=keyword_score,
    )


def document_point(document: KeptDocument, num_chunks: int, version: str) -> "PointStruct":
    """Return the point of a document; writing it makes a version the one that counts."""
    from qdrant_client.models import PointStruct

    payload = dataclasses.asdict(document)
    payload |= {"num_chunks": num_chunks, "version": version}
    payload["num_characters"] = len(document.text)
    return PointStruct(id=point_id(document.document_id), vector=NOTHING, payload=payload)


def kept_document(record: "Record") -> KeptDocument:
    """Return a document as it was put there."""
    assert record.payload is not None
    fields = {name: record.payload[name] for name in KeptDocument.__slots__}
    fields["sections"] = tuple(Section(**section) for section in fields["sections"])
    return KeptDocument(**fields)


def stored_document(record: "Record") -> StoredDocument:
    """Return what is listed of a document."""
    assert record.payload is not None
    return StoredDocument(**{name: record.payload[name] for name in StoredDocument.__slots__})


def unsearched() -> "VectorParams":
    """Return the kind of a vector that means nothing."""
    from qdrant_client.models import Distance, VectorParams

    return VectorParams(size=len(NOTHING), distance=Distance.DOT)


def chunks_of(document_id: str, *, but_not: str | None = None) -> "FilterSelector":
    """Return the chunks of a document, of all versions or of all but one."""
    from qdrant_client.models import FieldCondition, Filter, FilterSelector, MatchValue

    def has(field: str, value: str) -> FieldCondition:
        return FieldCondition(key=field, match=MatchValue(value=value))

    others = has("version", but_not) if but_not is not None else None
    return FilterSelector(filter=Filter(must=has("document_id", document_id), must_not=others))


def _index(word: str) -> int:
    return int.from_bytes(hashlib.blake2b(word.encode(), digest_size=4).digest(), "little")
