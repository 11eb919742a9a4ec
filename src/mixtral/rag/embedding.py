"""The models that a collection asks: one that embeds, perhaps one that ranks again.

A collection knows an embedder as a function from texts to vectors, so that a test needs no model
and a server can share one between its threads. Here are those functions made of models, and the
check of what they give.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mixtral.errors import CheckpointError, ConfigError, InvalidRequest, UnsupportedError
from mixtral.rag.chunking import CountTokens
from mixtral.rag.limits import INSTALL
from mixtral.rag.retrieve import Rerank
from mixtral.rag.store import EmbedderMark, Vectors

if TYPE_CHECKING:
    from mixtral.embed import Embedder

Embed = Callable[[Sequence[str]], Vectors]
"""Texts to vectors of length 1, [N, D] float32."""

_BATCH = 512
"""Texts of one call; an ``Embedder`` takes up to 2,048 and sorts them by length."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Models:
    """What a collection asks."""

    name: str
    """The embedder's; vectors of another one cannot be compared."""
    embed: Embed
    """Makes vectors."""
    count_tokens: CountTokens
    """Counts as the embedder does."""
    rerank: Rerank | None
    """Ranks the best passages again."""

    def mark(self) -> EmbedderMark:
        """Return name and dimension; the embedder is asked for a vector."""
        return EmbedderMark(name=self.name, dimension=embed_all(["size"], self.embed).shape[1])


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


def token_counter(embedder: "Embedder", *, chunk_tokens: int) -> CountTokens:
    """Return what counts the tokens of texts as an embedding model does.

    Args:
        embedder: The model.
        chunk_tokens: How long chunks are to be.

    Raises:
        ConfigError: The model does not read so far, so that the ends of chunks would be lost.
    """
    special = len(embedder.read([" "])[0].token_ids)
    room = embedder.max_tokens - special
    if chunk_tokens >= room:
        raise ConfigError(
            f"chunk_tokens is {chunk_tokens}, and {embedder.name} reads {room} tokens; lower it to "
            f"less than {room}."
        )

    def count(texts: Sequence[str]) -> list[int]:
        sizes: list[int] = []
        for begin in range(0, len(texts), _BATCH):
            pieces = embedder.read(list(texts[begin : begin + _BATCH]))
            sizes.extend(len(piece.token_ids) - special for piece in pieces)
        return sizes

    return count


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
