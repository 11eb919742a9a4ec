"""The models that a collection asks: one that embeds, perhaps one that ranks again.

A collection knows an embedder as a function from texts to vectors, so that a test needs no model
and a server can share one between its threads. Here are those functions made of models, and the
check of what they give.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mixtral.errors import CheckpointError, ConfigError, InvalidRequest, UnsupportedError
from mixtral.rag.chunking import CountTokens
from mixtral.rag.limits import INSTALL
from mixtral.rag.retrieve import Rerank
from mixtral.rag.settings import CollectionSettings
from mixtral.rag.store import EmbedderMark, Vectors

if TYPE_CHECKING:
    from mixtral.embed import Embedder

Embed = Callable[[Sequence[str]], Vectors]
"""Texts to vectors of length 1, [N, D] float32."""

_BATCH = 512
"""Texts of one call; an ``Embedder`` takes up to 2,048 and sorts them by length."""


PROBE = "A sentence by which an embedding model is known again."
"""What ``EmbedderMark.probe`` is the vector of."""


@dataclass(kw_only=True, slots=True)
class Models:
    """What a collection asks."""

    name: str
    """The embedder's; vectors of another one cannot be compared."""
    embed: Embed
    """Makes vectors."""
    count_tokens: CountTokens
    """Counts as the embedder does."""
    max_chunk_tokens: Callable[[], int] | None
    """Tells the longest chunk that the embedder reads whole; None where nobody knows."""
    rerank: Rerank | None
    """Ranks the best passages again."""
    _mark: EmbedderMark | None = field(default=None, init=False)

    def mark(self) -> EmbedderMark:
        """Return how the embedder is known again; it is asked for a vector once."""
        if self._mark is None:
            vector = embed_all([PROBE], self.embed)[0]
            probe = tuple(round(float(value), 6) for value in vector)
            self._mark = EmbedderMark(name=self.name, dimension=len(probe), probe=probe)
        return self._mark

    def check_chunks(self, settings: CollectionSettings) -> None:
        """Check that the embedder reads chunks of this size whole.

        Raises:
            ConfigError: The ends of chunks would be lost.
        """
        if self.max_chunk_tokens is None or settings.chunk_characters is not None:
            return
        most = self.max_chunk_tokens()
        if settings.chunk_tokens > most:
            raise ConfigError(
                f"chunk_tokens is {settings.chunk_tokens}, and {self.name} reads chunks of up to "
                f"{most}; lower it (where there are documents already, with reindex), or take a "
                "model that reads more."
            )


def embed_all(texts: Sequence[str], embed: Embed) -> Vectors:
    """Return the vectors of any number of texts, checked, [N, D] float32.

    Raises:
        ConfigError: The embedder gives something else than one vector of length 1 for each text.
    """
    parts = []
    for begin in range(0, len(texts), _BATCH):
        some = list(texts[begin : begin + _BATCH])
        vectors = np.asarray(embed(some), dtype=np.float32)
        if vectors.ndim != 2 or len(vectors) != len(some) or not vectors.shape[1]:
            raise ConfigError(
                f"the embedder gives an array {list(vectors.shape)} for {len(some)} texts; it must "
                "give one vector for each."
            )
        # Written so that a vector with NaN fails, too.
        if not np.all(np.abs(np.linalg.norm(vectors, axis=1) - 1) < 1e-3):
            raise ConfigError("the embedder gives a vector whose length is not 1; normalise them.")
        parts.append(vectors)
    return np.concatenate(parts)


def token_counter(embedder: "Embedder") -> CountTokens:
    """Return what counts the tokens of texts as an embedding model does."""
    special = _num_special(embedder)

    def count(texts: Sequence[str]) -> list[int]:
        sizes: list[int] = []
        for begin in range(0, len(texts), _BATCH):
            pieces = embedder.read(list(texts[begin : begin + _BATCH]))
            sizes.extend(len(piece.token_ids) - special for piece in pieces)
        return sizes

    return count


def longest_chunk(embedder: "Embedder") -> int:
    """Return the tokens of the longest chunk that an embedding model reads whole."""
    return embedder.max_tokens - _num_special(embedder) - 1  # 1: a heading has one at least.


def _num_special(embedder: "Embedder") -> int:
    return len(embedder.read([" "])[0].token_ids)


def cross_encoder(model: str | Path, *, device: str = "cpu") -> Rerank:
    """Return a re-ranker: a model that reads question and passage together.

    Args:
        model: A folder that sentence-transformers saved; nothing is downloaded.
        device: ``cpu`` or ``cuda``.

    Raises:
        CheckpointError: There is no such folder, or it has no such model.
        UnsupportedError: sentence-transformers is not installed.
    """
    try:
        from sentence_transformers import CrossEncoder
    except ImportError:
        raise UnsupportedError(f"re-ranking needs sentence-transformers: {INSTALL}") from None
    if not Path(model).is_dir():
        raise CheckpointError(f"{model} is no folder; name that of a saved CrossEncoder.")
    try:
        encoder = CrossEncoder(str(model), device=device, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        line = " ".join(str(error).split())[:200].rstrip(".")
        raise CheckpointError(f"{model} cannot be loaded as a CrossEncoder: {line}.") from error

    def rerank(question: str, texts: Sequence[str]) -> Sequence[float]:
        pairs = [(question, text) for text in texts]
        scores: list[float] = np.asarray(encoder.predict(pairs, show_progress_bar=False)).tolist()
        return scores

    return rerank


def check_question(question: str, limit: int) -> None:
    """Check what is asked of ``search``.

    Raises:
        InvalidRequest: The question is empty or no text, or the limit outside 1 to 100.
    """
    if not isinstance(question, str) or not question.strip():
        raise InvalidRequest("the question is empty; ask with at least one word.")
    if not isinstance(limit, int) or isinstance(limit, bool) or not 1 <= limit <= 100:
        raise InvalidRequest(f"limit is {limit!r}; it must be a whole number from 1 to 100.")
