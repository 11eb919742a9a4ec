"""An embedding model that is loaded when somebody asks for the first embedding.

Its library takes seconds to import and hundreds of megabytes. A server that is asked for chat alone
should start without it and never pay for it.
"""

import threading
from collections.abc import Sequence
from pathlib import Path

from mixtral.embed import AsyncEmbedder, Embedder, Embeddings
from mixtral.embed.embedder import PendingEmbedder


class LazyEmbedder(AsyncEmbedder):
    """An ``AsyncEmbedder`` that waits for its first request before it loads the model.

    Args:
        model: As for ``Embedder``.

    Raises:
        UnsupportedError: The extra is not installed.
        CheckpointError: There is no such model.
    """

    def __init__(self, model: str | Path | None) -> None:
        pending = _OnDemand(model)
        self._is_wanted = pending.is_wanted
        super().__init__(pending)

    async def embedder(self) -> Embedder:
        """Load the model if need be, and return it."""
        self._is_wanted.set()
        return await super().embedder()

    async def embed(
        self, inputs: Sequence[str | Sequence[int]], *, dimension: int | None = None
    ) -> Embeddings:
        """Load the model if need be, and return the vectors of the inputs."""
        self._is_wanted.set()
        return await super().embed(inputs, dimension=dimension)


class _OnDemand(PendingEmbedder):
    def __init__(self, model: str | Path | None) -> None:
        super().__init__(model)
        self.is_wanted = threading.Event()

    def load(self) -> Embedder:
        self.is_wanted.wait()
        return super().load()
