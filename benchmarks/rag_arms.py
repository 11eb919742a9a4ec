"""The two ways of finding passages that are compared, over the same files and embeddings."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rag_cases import DEPTH, Found, Question

from mixtral.rag import Collection, CollectionSettings
from mixtral.rag.ask import DEFAULT_LIMIT
from mixtral.rag.chunking import CountTokens
from mixtral.rag.embedding import Embed, embed_all
from mixtral.rag.open_store import open_store
from mixtral.rag.retrieve import choose_passages
from mixtral.rag.store import Candidate
from mixtral.rag.vector_index import import_faiss
from mixtral.rag.words import query_terms

WINDOW = 512
"""Characters of a chunk in the guide."""


class Embeddings:
    """An embedder that makes each vector once: all arms of a comparison ask the same questions."""

    def __init__(self, embed: Embed, count_tokens: CountTokens) -> None:
        self.anew = embed
        """The embedder itself."""
        self.count_tokens = count_tokens
        """Sizes of texts."""
        self._known: dict[str, NDArray[np.float32]] = {}

    def __call__(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return the vectors, [N, D]."""
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        if new:
            self._known.update(zip(new, embed_all(new, self.anew), strict=True))
        return np.stack([self._known[text] for text in texts])

    def open(self, folder: Path) -> Collection:
        """Open a collection with its default settings."""
        return Collection(
            folder, embed=self, embedder_name="benchmark", count_tokens=self.count_tokens
        )

    def load(self, path: Path) -> None:
        """Know the vectors of a file."""
        with np.load(path) as file:
            self._known.update(zip(file["texts"].tolist(), file["vectors"], strict=True))

    def save(self, path: Path) -> None:
        """Write all vectors to a file."""
        vectors = np.stack(list(self._known.values()))
        np.savez(path, texts=np.array(list(self._known)), vectors=vectors)


class Ours:
    """A collection whose questions are looked up once for all settings of what comes after.

    ``Collection.search`` is these two calls; a test holds that they give the same.
    """

    def __init__(self, folder: Path, embeddings: Embeddings) -> None:
        self._embeddings = embeddings
        self._store = open_store(folder / "store", create=False, settings=CollectionSettings())
        self._known: dict[str, list[Candidate]] = {}

    def close(self) -> None:
        """Close its files."""
        self._store.close()

    def search(self, question: str, settings: CollectionSettings) -> list[Found]:
        """Return the four passages of a search, then what a search for ten adds."""
        (vector,) = self._embeddings([question])
        if question not in self._known:
            self._known[question] = self._store.candidates(
                vector, query_terms(question), limit=settings.num_candidates
            )
        four, ten = (
            choose_passages(question, vector, self._known[question], limit=limit, settings=settings)
            for limit in (DEFAULT_LIMIT, DEPTH)
        )
        first = {one.id for one in four}
        return [
            Found(document=Path(one.source).name, num_characters=len(one.text))
            for one in [*four, *(one for one in ten if one.id not in first)]
        ]

    def search_all(
        self, questions: Sequence[Question], fields: Mapping[str, Any]
    ) -> list[list[Found]]:
        """Return the passages of each question, with fields of the settings."""
        settings = CollectionSettings(**fields)
        return [self.search(question.text, settings) for question in questions]


def plain_search(
    documents: Mapping[str, str], embeddings: Embeddings
) -> Callable[[str], list[Found]]:
    """Return what searches windows of 512 characters by their distance alone."""
    faiss = import_faiss()
    windows = [
        (name, text[begin : begin + WINDOW])
        for name, text in documents.items()
        for begin in range(0, len(text), WINDOW)
    ]
    vectors = embeddings([text for _, text in windows])
    index = faiss.IndexFlatL2(vectors.shape[1])
    index.add(vectors)

    def search(question: str) -> list[Found]:
        _, ids = index.search(embeddings([question]), DEPTH)
        hits = (windows[i] for i in ids[0] if i >= 0)
        return [Found(document=name, num_characters=len(text)) for name, text in hits]

    return search
