"""A collection of documents that can be searched: ``add``, ``search``, ``remove``, ``reindex``.

    >>> with Collection.of("notes", Embedder()) as notes:  # doctest: +SKIP
    ...     notes.add(["docs/"])
    ...     for passage in notes.search("How is int4 packed?"):
    ...         print(passage.source, passage.heading, passage.text)

Adding goes from bytes (``sources``, ``fetch``) to text (``reader_process``) to chunks
(``chunking``) to vectors, and a document at a time into the store, which has it whole or not at
all. What was reported as added is there, whatever ends the process.

Searches wait for nobody: one may run while documents are added, and finds what was committed before
it began.
"""

import difflib
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from mixtral.errors import ConfigError
from mixtral.rag.adding import Adding, rewrite_all
from mixtral.rag.chunking import CountTokens, estimate_tokens
from mixtral.rag.embedding import (
    Embed,
    Models,
    check_question,
    embed_all,
    longest_chunk,
    token_counter,
)
from mixtral.rag.open_store import open_store
from mixtral.rag.reading import DocumentReader
from mixtral.rag.records import AddedDocument, Passage, StoredDocument
from mixtral.rag.retrieve import Rerank, choose_passages
from mixtral.rag.settings import CollectionSettings
from mixtral.rag.sources import find_sources
from mixtral.rag.store import other_embedder
from mixtral.rag.words import query_terms

if TYPE_CHECKING:
    from mixtral.embed import Embedder


class Collection:
    """Documents in one place. Methods may be called from several threads; writers take turns.

    Args:
        location: A folder, or the URL of a Qdrant collection (``open_store``).
        embed: Texts to vectors of length 1, [N, D] float32.
        embedder_name: What the embedder is called; a collection is searched by the one that filled
            it.
        settings: Those of a new collection; for an old one, what is to be different now. Chunks
            are changed by ``reindex`` alone.
        create: Whether to make the collection where there is none.
        count_tokens: Sizes of texts in tokens of the embedder; an estimate where None.
        max_chunk_tokens: Tells the longest chunk that the embedder reads whole, when it is first
            needed; longer ones are refused. None where nobody knows.
        rerank: Scores the best passages again.

    Raises:
        ConfigError: There is no collection, it is damaged, or the settings do not fit it.
        UnsupportedError: The extra ``rag`` is not installed.
    """

    def __init__(
        self,
        location: str | Path,
        *,
        embed: Embed,
        embedder_name: str,
        settings: CollectionSettings | None = None,
        create: bool = True,
        count_tokens: CountTokens | None = None,
        max_chunk_tokens: Callable[[], int] | None = None,
        rerank: Rerank | None = None,
    ) -> None:
        self._models = Models(
            name=embedder_name,
            embed=embed,
            count_tokens=count_tokens or estimate_tokens,
            max_chunk_tokens=max_chunk_tokens,
            rerank=rerank,
        )
        self._store = open_store(location, create=create, settings=settings or CollectionSettings())
        self._writing = threading.Lock()
        self._reader = DocumentReader(self._store.settings)

    @classmethod
    def of(
        cls,
        location: str | Path,
        embedder: "Embedder",
        *,
        settings: CollectionSettings | None = None,
        create: bool = True,
        rerank: Rerank | None = None,
    ) -> Self:
        """Open a collection with a loaded embedding model, which also counts the tokens.

        Args:
            location: As for ``Collection``, like the rest.
            embedder: The model.
            settings: Its settings.
            create: Whether to make it.
            rerank: Scores the best passages again.

        Raises:
            ConfigError: As ``Collection``.
            UnsupportedError: The extra ``rag`` is not installed.
        """
        return cls(
            location,
            embed=lambda texts: embedder.embed(texts).vectors,
            embedder_name=embedder.name,
            settings=settings,
            create=create,
            count_tokens=token_counter(embedder),
            max_chunk_tokens=lambda: longest_chunk(embedder),
            rerank=rerank,
        )

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close it."""
        self.close()

    @property
    def settings(self) -> CollectionSettings:
        """What holds for it."""
        return self._store.settings

    def add(
        self,
        paths: Sequence[str | Path],
        *,
        on_document: Callable[[AddedDocument], None] | None = None,
    ) -> list[AddedDocument]:
        """Add documents, or their new versions; what has not changed is left alone.

        Args:
            paths: Files, folders, globs, and URLs where ``settings.allow_urls``.
            on_document: Called for each document once it is certain what became of it, added ones
                after they are on disk.

        Returns:
            What became of each document, in the order of its source.

        Raises:
            ConfigError: A path does not exist, the collection is of another embedder, the embedder
                does not read a whole chunk, or the collection cannot be written.
            UnsupportedError: A URL where they are not allowed, or the extra is not installed.
        """
        settings = self.settings
        sources = find_sources(paths, limits=settings.limits, allow_urls=settings.allow_urls)
        ended: dict[str, AddedDocument] = {}

        def report(document: AddedDocument) -> None:
            ended[document.source] = document
            if on_document is not None:
                on_document(document)

        with self._adding(report) as adding:
            for source in sources:
                adding.take(source)
        return [ended[source.name] for source in sources]

    def add_bytes(self, name: str, data: bytes) -> AddedDocument:
        """Add a document that has no file, such as an upload; the same name replaces it.

        Args:
            name: The name of a file, without a path.
            data: Its bytes.

        Raises:
            ConfigError: As ``add``.
            UnsupportedError: The extra is not installed.
        """
        ended: list[AddedDocument] = []
        with self._adding(ended.append) as adding:
            adding.take_upload(name, data)
        return ended[0]

    def search(self, question: str, *, limit: int = 4) -> list[Passage]:
        """Return the passages that may answer a question, best first.

        Args:
            question: In words; names and numbers in it are also looked for as they are.
            limit: How many at most, 1 to 100.

        Raises:
            InvalidRequest: The question is empty, or the limit outside its range.
            ConfigError: The collection is of another embedder, or damaged.
        """
        check_question(question, limit)
        if not self._is_filled():
            return []
        self._require_embedder()
        vector = embed_all([question], self._models.embed)[0]
        settings = self.settings
        candidates = self._store.candidates(
            vector, query_terms(question), limit=max(limit, settings.num_candidates)
        )
        return choose_passages(
            question,
            vector,
            candidates,
            limit=limit,
            settings=settings,
            rerank=self._models.rerank,
        )

    def check_embedder(self) -> None:
        """Check that the vectors that are there are of this embedder, by its name.

        Raises:
            ConfigError: They are of another one.
        """
        self._is_filled()

    def documents(self) -> list[StoredDocument]:
        """Return what is in the collection, by source."""
        return self._store.documents()

    def text_of(self, document_id: str) -> str:
        """Return the text of a document, of which passages are spans.

        Raises:
            ConfigError: There is no such document.
        """
        text = self._store.text_of(document_id)
        if text is None:
            raise ConfigError(
                f"there is no document {document_id!r}; documents() and mixtral rag list show them."
            )
        return text

    def remove(self, document_ids_or_sources: Sequence[str]) -> int:
        """Take documents out, all or none; return how many.

        Args:
            document_ids_or_sources: Ids, URLs, names of uploads, or paths. What is both an id and
                a name is the id.

        Raises:
            ConfigError: There is no such document, or the collection cannot be written.
        """
        with self._writing:
            ids = {document.source: document.document_id for document in self._store.documents()}
            chosen = [_find(name, ids) for name in document_ids_or_sources]
            self._store.remove(list(dict.fromkeys(chosen)))
        return len(set(chosen))

    def reindex(self, settings: CollectionSettings | None = None) -> int:
        """Cut and embed every document again, from the texts that are kept; return the chunks.

        For another embedder, or other settings. Until it ends, everyone finds the old chunks.

        Args:
            settings: New ones; None keeps those of the collection.

        Raises:
            ConfigError: The embedder does not read a whole chunk, or the collection cannot be
                written.
        """
        with self._writing:
            new = settings or self.settings
            mark = self._models.mark()  # Loads the model, which no other writer is to wait for.
            with self._store.rewriting(new, mark) as writer:
                rewrite_all(writer, new, self._models)
            self._reader.close()
            self._reader = DocumentReader(new)
            self._store.refresh()
            return sum(document.num_chunks for document in self._store.documents())

    def close(self) -> None:
        """Give files and processes back, after what is being written is written."""
        with self._writing:
            self._reader.close()
            self._store.close()

    @contextmanager
    def _adding(self, report: Callable[[AddedDocument], None]) -> Iterator[Adding]:
        with self._writing:
            self._is_filled()
            adding = Adding(self._store, self._reader, self._models, report)
            yield adding
            adding.finish()
            self._store.refresh()

    def _is_filled(self) -> bool:
        """Return whether there are vectors, without asking the embedder for one.

        Raises:
            ConfigError: They are of an embedder of another name.
        """
        mark = self._store.embedder()
        if mark is not None and mark.name != self._models.name:
            raise other_embedder(mark, self._models.name)
        return mark is not None

    def _require_embedder(self) -> None:
        """Check that vectors of the embedder can be compared with those that are there.

        Raises:
            ConfigError: They cannot.
        """
        mark = self._store.embedder()
        if mark is not None and not mark.fits(self._models.mark()):
            raise other_embedder(mark, self._models.mark())


def _find(name: str, ids: dict[str, str]) -> str:
    """Return the id of a document from what the user calls it, of ids by source."""
    if name in ids.values():
        return name
    for spelling in (name, os.path.abspath(os.path.expanduser(name))):
        if spelling in ids:
            return ids[spelling]
    names = [*ids, *ids.values()]
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    base = os.path.basename(name)
    near += [
        one
        for one in names
        if difflib.get_close_matches(base, [os.path.basename(one)], cutoff=0.7) and one not in near
    ]
    hint = (
        f"did you mean {' or '.join(near[:3])}?"
        if near
        else "documents() and mixtral rag list show them."
    )
    raise ConfigError(f"there is no document {name!r}; {hint}")
