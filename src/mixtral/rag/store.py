"""What a collection needs of the place where it is kept.

``local_store`` keeps it in a folder, ``qdrant`` in a Qdrant server. A store knows documents, chunks
and vectors; what a document is read from, how it is cut and how scores are joined is not its
business.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from mixtral.errors import ConfigError
from mixtral.rag.chunking import Chunk
from mixtral.rag.documents import Section
from mixtral.rag.records import StoredDocument
from mixtral.rag.settings import CollectionSettings

Vectors = NDArray[np.float32]
"""[N, D], rows of length 1."""


@dataclass(frozen=True, kw_only=True, slots=True)
class KeptDocument:
    """A document as it is kept: enough to cut it again without its file."""

    document_id: str
    """16 hexadecimal digits."""
    source: str
    """Path, URL or name of the upload."""
    title: str
    """For people."""
    text: str
    """What was read of it."""
    sections: tuple[Section, ...]
    """Its parts."""
    is_code: bool
    """Whether it is cut as code."""
    num_pages: int | None
    """Of a PDF."""
    sha256: str
    """Of its bytes."""
    content_key: str
    """Of its bytes and everything that shapes its chunks: the same key, the same chunks."""
    added_at: float
    """Seconds since 1970."""


class KnownDocument(NamedTuple):
    """What decides whether a document must be read again."""

    content_key: str
    """As in ``KeptDocument``."""
    title: str
    """As in ``KeptDocument``."""
    num_chunks: int
    """Chunks of it."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Candidate:
    """A chunk that may answer a question."""

    id: int
    """The number of the chunk."""
    document_id: str
    """Of its document, as are the next two."""
    source: str
    """Path, URL or name of the upload."""
    title: str
    """For people."""
    chunk: Chunk
    """Where it stands."""
    text: str
    """What it says."""
    vector: NDArray[np.float32]
    """[D], of length 1."""
    keyword_score: float
    """BM25, higher is better; 0 where the keyword index did not propose it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EmbedderMark:
    """Which embedder the vectors of a collection are of."""

    name: str
    """Its name."""
    dimension: int
    """D."""
    probe: tuple[float, ...] | None = None
    """Its vector of a text that is always the same, which tells two models of one name apart; None
    in collections of before there was one."""

    def fits(self, other: "EmbedderMark") -> bool:
        """Return whether vectors of the two can be compared."""
        if (self.name, self.dimension) != (other.name, other.dimension):
            return False
        if self.probe is None or other.probe is None:
            return True
        # Machines differ by 1e-5; another model, pooling or revision by far more than 1e-3.
        return float(np.dot(self.probe, other.probe)) > 1 - 1e-3


def other_embedder(kept: EmbedderMark, given: EmbedderMark | str) -> ConfigError:
    """Return the error where vectors of two embedders would come together.

    Args:
        kept: Of the collection.
        given: Of the one it was opened with; its name, where that alone tells them apart.
    """
    if isinstance(given, str):
        found = given
    elif (kept.name, kept.dimension) == (given.name, given.dimension):
        return ConfigError(
            f"the collection is of another {kept.name} than this one, which gives other vectors: "
            "another revision, or another folder of that name; open it with the one that filled "
            "it, or embed everything again with reindex."
        )
    else:
        found = f"{given.name} with {given.dimension}"
    return ConfigError(
        f"the collection is of the embedder {kept.name} with {kept.dimension} components, and it "
        f"was opened with {found}; open it with that one, or embed everything again with reindex."
    )


class Writer(Protocol):
    """Puts documents into a store, inside ``Store.rewriting``."""

    def remaining(self) -> list[str]:
        """Return the ids of the documents that are to be put; none once all are there."""

    def document(self, document_id: str) -> KeptDocument | None:
        """Return a document as it was put there; None where it was removed meanwhile."""

    def put(self, document: KeptDocument, chunks: Sequence[Chunk], vectors: Vectors) -> bool:
        """Put one in; return whether it replaced an earlier version."""


class Store(Protocol):
    """The place. Calls may come from several threads; one of them at a time writes."""

    settings: CollectionSettings
    """What holds for the collection: what it was made with, and what was said on opening."""

    def embedder(self) -> EmbedderMark | None:
        """Return what its vectors are of; None while it has none."""

    def known(self, document_id: str) -> KnownDocument | None:
        """Return the version that is kept; None where there is none."""

    def put(
        self,
        document: KeptDocument,
        chunks: Sequence[Chunk],
        vectors: Vectors,
        *,
        embedder: EmbedderMark,
    ) -> bool:
        """Put a document in, whole or not at all; return whether it replaced an earlier version.

        When this returns, the document outlives the end of the process.

        Raises:
            ConfigError: The vectors are not of the embedder of the collection, or it cannot be
                written.
        """

    def remove(self, document_ids: Sequence[str]) -> None:
        """Take documents out, all or none."""

    def rewriting(
        self, settings: CollectionSettings, embedder: EmbedderMark
    ) -> AbstractContextManager[Writer]:
        """Begin again with the same documents, other settings and another embedder."""

    def documents(self) -> list[StoredDocument]:
        """Return all documents, by source."""

    def text_of(self, document_id: str) -> str | None:
        """Return the text of a document; None where there is none."""

    def candidates(
        self, vector: NDArray[np.float32], terms: Sequence[str], *, limit: int
    ) -> list[Candidate]:
        """Return the chunks nearest to a vector and those with most of the words, in any order.

        Args:
            vector: [D], of length 1.
            terms: Words of the question; none finds by the vector alone.
            limit: How many each of the two proposes.
        """

    def refresh(self) -> None:
        """Bring indexes up to date, so that the next search need not."""

    def close(self) -> None:
        """Give everything back."""
