"""Paraphrases among texts: unique texts -> unit vectors -> near pairs -> clusters.

The same text twice is one text that stands at two places: it is embedded once, appears in pairs as
its first place, and in clusters with all its places.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from mixtral.errors import InvalidRequest
from mixtral.paraphrase.clusters import UnionFind
from mixtral.paraphrase.near_pairs import Method, distances, is_exact, near_pairs
from mixtral.paraphrase.vectors import Embed, Progress, embed_texts

DEFAULT_THRESHOLD = 0.6
"""Euclidean distance of paraphrases with all-MiniLM-L6-v2, a cosine of 0.82; others differ."""
MAX_PAIRS = 1_000_000
"""Pairs that are kept, about 150 MB."""
_MAX_IN_TABLE = 1000


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """Two texts that differ and lie near each other."""

    first: int
    """Place of one text among the inputs; where it is there twice, the first."""
    second: int
    """Place of the other, which comes later."""
    distance: float
    """Euclidean distance of their unit vectors, 0 to 2."""

    @property
    def cosine(self) -> float:
        """Cosine of their angle, 1 to -1: 1 - distance**2 / 2."""
        return 1 - self.distance**2 / 2


@dataclass(frozen=True, kw_only=True, slots=True)
class Paraphrases:
    """What was found."""

    pairs: list[Pair]
    """Nearest first; pairs of one distance by their places. Empty if they were not wanted."""
    clusters: list[list[int]]
    """Places of texts that are joined by pairs, directly or through others, and of equal texts;
    largest first, then by their first place."""
    duplicates: list[list[int]]
    """Places of equal texts, for each text that comes more than once."""
    threshold: float
    """Largest distance of a pair."""
    num_texts: int
    """Texts that were given, equal ones counted each time."""
    num_cut: int
    """Texts whose ends the model did not read."""
    is_exact: bool
    """Whether all texts were compared, or an index was asked, which misses a pair now and then."""


def find_paraphrases(
    texts: Sequence[str],
    embed: Embed | None = None,
    *,
    threshold: float = DEFAULT_THRESHOLD,
    method: Method = "auto",
    with_pairs: bool = True,
    max_pairs: int = MAX_PAIRS,
    progress: Progress | None = None,
) -> Paraphrases:
    """Find the texts that say the same.

    Args:
        texts: Any number of them; none is empty.
        embed: An ``Embedder``, or a function from N texts to vectors [N, D], which are brought to
            length 1. None takes the embedding model of the extra ``embed``.
        threshold: Largest euclidean distance of a pair, 0 to 2.
        method: ``exact`` compares all texts, ``index`` asks an index, ``auto`` compares up to
            20,000 different texts and asks the index above.
        with_pairs: Whether to keep the pairs; clusters alone take no memory for them.
        max_pairs: More pairs are an error, because a loose threshold makes billions.
        progress: Called with the number of texts embedded so far, and of all.

    Raises:
        InvalidRequest: A text is empty or no text, the threshold is outside its range, or there are
            more than ``max_pairs`` pairs.
        UnsupportedError: The extra for the default model or for the index is not installed.
    """
    check_threshold(threshold)
    places = _places(texts)
    unique = list(places)
    way_is_exact = is_exact(len(unique), method)
    embedded = embed_texts(unique, _model(embed), progress=progress)
    firsts = np.array([where[0] for where in places.values()], dtype=np.int64)
    joined = UnionFind(len(unique))
    pairs: list[Pair] = []
    for block in near_pairs(embedded.vectors, threshold, method=method):
        joined.join(block.first, block.second)
        if with_pairs:
            pairs += _pairs(firsts, block.first, block.second, block.distance)
        if len(pairs) > max_pairs:
            raise InvalidRequest(
                f"more than {max_pairs} pairs are within {threshold}; choose a smaller threshold, "
                "ask for clusters alone, or raise max_pairs."
            )
    return Paraphrases(
        pairs=sorted(pairs, key=lambda pair: (pair.distance, pair.first, pair.second)),
        clusters=_clusters(joined, list(places.values())),
        duplicates=[where for where in places.values() if len(where) > 1],
        threshold=threshold,
        num_texts=len(texts),
        num_cut=embedded.num_cut,
        is_exact=way_is_exact,
    )


def all_pairs(texts: Sequence[str], embed: Embed | None = None) -> list[Pair]:
    """Return every pair of texts with its distance, in the order of the texts.

    Args:
        texts: Up to 1,000; equal ones are pairs, too, of distance 0.
        embed: As for ``find_paraphrases``.

    Raises:
        InvalidRequest: A text is empty or no text, or there are too many.
        UnsupportedError: The extra for the default model is not installed.
    """
    return pair_table(texts, embed)[0]


def pair_table(texts: Sequence[str], embed: Embed | None = None) -> tuple[list[Pair], int]:
    """Return what ``all_pairs`` does, and the number of texts whose ends the model did not read.

    Raises:
        InvalidRequest: As ``all_pairs``.
        UnsupportedError: As ``all_pairs``.
    """
    if len(texts) > _MAX_IN_TABLE:
        raise InvalidRequest(
            f"there are {len(texts)} texts; a table of all pairs takes up to {_MAX_IN_TABLE}."
        )
    places = _places(texts)
    embedded = embed_texts(list(places), _model(embed))
    row = {place: index for index, where in enumerate(places.values()) for place in where}
    named = list(combinations(range(len(texts)), 2))
    sides = np.array([(row[one], row[other]) for one, other in named], dtype=np.int64)
    first, second = sides.reshape(-1, 2).T
    far = distances(embedded.vectors, first, second).tolist()
    pairs = [
        Pair(first=one, second=other, distance=distance)
        for (one, other), distance in zip(named, far, strict=True)
    ]
    return pairs, embedded.num_cut


def check_threshold(threshold: float) -> None:
    """Check that a threshold is a distance that unit vectors can have.

    Raises:
        InvalidRequest: It is not.
    """
    is_number = isinstance(threshold, (int, float)) and not isinstance(threshold, bool)
    if not is_number or not 0 <= threshold <= 2:
        raise InvalidRequest(
            f"threshold is {threshold!r}; it is a euclidean distance of unit vectors, from 0 (the "
            "same) to 2 (opposite)."
        )


def _places(texts: Sequence[str]) -> dict[str, list[int]]:
    """Return the places of each text, texts in the order of their first places."""
    if isinstance(texts, str):
        raise InvalidRequest("texts is one text; it must be a list of texts.")
    places: dict[str, list[int]] = {}
    for place, text in enumerate(texts):
        if not isinstance(text, str) or not text.strip():
            raise InvalidRequest(f"texts[{place}] is {text!r}; it must be a text with words in it.")
        places.setdefault(text, []).append(place)
    return places


def _model(embed: Embed | None) -> Embed:
    if embed is not None:
        return embed
    # Here, because it imports torch, which callers with a model of their own may do without.
    from mixtral.embed import Embedder

    return Embedder()


def _pairs(
    firsts: NDArray[np.int64],
    first: NDArray[np.int64],
    second: NDArray[np.int64],
    distance: NDArray[np.float64],
) -> list[Pair]:
    # Unique texts are in the order of their first places, so these are in order, too.
    columns = (firsts[first].tolist(), firsts[second].tolist(), distance.tolist())
    return [
        Pair(first=one, second=other, distance=far)
        for one, other, far in zip(*columns, strict=True)
    ]


def _clusters(joined: UnionFind, places: Sequence[list[int]]) -> list[list[int]]:
    """Return clusters of places: joined texts, and texts that stand at several places."""
    clusters = [
        sorted(place for item in items for place in places[item]) for items in joined.sets()
    ]
    return sorted(
        (cluster for cluster in clusters if len(cluster) > 1),
        key=lambda cluster: (-len(cluster), cluster[0]),
    )
