"""Texts to unit vectors, in blocks that one request to an embedding model may have."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mixtral.errors import InvalidRequest

if TYPE_CHECKING:
    from mixtral.embed import Embeddings

BLOCK = 2048
"""Texts that are embedded at a time."""


class EmbedsTexts(Protocol):
    """The part of ``mixtral.embed.Embedder`` that is used here."""

    def embed(self, inputs: list[str], /) -> "Embeddings":
        """Return a unit vector for each text."""


Embed = Callable[[list[str]], ArrayLike] | EmbedsTexts
"""An ``Embedder``, or a function from N texts to their vectors, [N, D]."""

Progress = Callable[[int, int], object]
"""Called with the number of texts that are done, and of all."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class TextVectors:
    """What became of the texts."""

    vectors: NDArray[np.float32]
    """[N, D], each row of length 1."""
    num_cut: int
    """Texts whose ends the model did not read; 0 where a function cannot tell."""


def embed_texts(
    texts: Sequence[str], embed: Embed, *, progress: Progress | None = None
) -> TextVectors:
    """Embed texts block by block.

    Args:
        texts: N texts, none of them empty.
        embed: The model. Vectors of other lengths than 1 are brought to length 1.
        progress: Told after each block.

    Raises:
        InvalidRequest: A text is empty, or the model gave something else than N finite vectors.
    """
    blocks: list[NDArray[np.float32]] = []
    num_cut = 0
    for begin in range(0, len(texts), BLOCK):
        block = list(texts[begin : begin + BLOCK])
        if callable(embed):
            given: Any = embed(block)
        else:
            answer = embed.embed(block)
            given = answer.vectors
            num_cut += sum(answer.is_cut)
        blocks.append(_unit(given, num_texts=len(block)))
        if blocks[-1].shape[1] != blocks[0].shape[1]:
            raise InvalidRequest("the embedding model gives vectors of different dimensions.")
        if progress is not None:
            progress(begin + len(block), len(texts))
    vectors = np.concatenate(blocks) if blocks else np.empty((0, 1), dtype=np.float32)
    return TextVectors(vectors=vectors, num_cut=num_cut)


def _unit(given: ArrayLike, *, num_texts: int) -> NDArray[np.float32]:
    vectors = np.asarray(given, dtype=np.float32)
    if vectors.ndim != 2 or len(vectors) != num_texts or vectors.shape[1] == 0:
        raise InvalidRequest(
            f"the embedding model gave an array of shape {list(vectors.shape)} for {num_texts} "
            f"texts; it must be [{num_texts}, D]."
        )
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    if not np.isfinite(lengths).all() or not (lengths > 0).all():
        raise InvalidRequest(
            "the embedding model gave a vector of zeros, or one that is not finite."
        )
    unit: NDArray[np.float32] = vectors / lengths
    return unit
