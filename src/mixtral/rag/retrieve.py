"""Which candidates become passages: scores joined, repetitions held back. Arrays only.

Two indexes propose candidates: vectors find what means the same, words find names and numbers.

- ``weights``: (1 - w) * similarity + w * BM25, each divided by that of the best candidate (Bruch,
  Gai and Ingber, "An analysis of fusion functions for hybrid retrieval", arXiv:2210.11934, section
  4: better than ranks, and stable in w). They put 0 at the least cosine that is possible, -1. Here
  it is at 0, which unrelated texts have: with -1 the cosines of all candidates are nearly the same
  after scaling, and a word that they share counts for more than what they say.
- ``ranks``: the sum of 1 / (60 + rank) over both orders (Cormack, Clarke and Buettcher, "Reciprocal
  rank fusion outperforms Condorcet and individual rank learning methods", SIGIR 2009).

Then passages are chosen one by one, each by its score less its likeness to those chosen already:
maximal marginal relevance (Carbonell and Goldstein, "The use of MMR", SIGIR 1998).
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from mixtral.rag.records import Passage
from mixtral.rag.settings import CollectionSettings, Fusion
from mixtral.rag.store import Candidate

Scores = NDArray[np.float64]
"""[N], one for each candidate; higher is better."""
Rerank = Callable[[str, Sequence[str]], Sequence[float]]
"""A question and texts to a score for each; higher is better."""

_RANK_OFFSET = 60
_RERANKED = 20
"""Candidates that a re-ranker reads: it takes about as long for each as an embedding."""


def choose_passages(
    question: str,
    vector: NDArray[np.float32],
    candidates: Sequence[Candidate],
    *,
    limit: int,
    settings: CollectionSettings,
    rerank: Rerank | None = None,
) -> list[Passage]:
    """Return the best passages, best first.

    Args:
        question: For the re-ranker.
        vector: [D], the question's, of length 1.
        candidates: What the indexes propose, in any order.
        limit: How many to return at most.
        settings: How scores are joined and how much passages may repeat each other.
        rerank: Scores the best candidates anew.
    """
    if not candidates:
        return []
    candidates = sorted(candidates, key=lambda candidate: candidate.id)
    vectors = np.stack([candidate.vector for candidate in candidates])  # [N, D]
    similarities = (vectors @ vector).astype(np.float64)  # [N]
    keywords = np.array([candidate.keyword_score for candidate in candidates])
    scores = fuse(
        similarities, keywords, fusion=settings.fusion, keyword_weight=settings.keyword_weight
    )
    order = _without_repeated_texts(candidates, scores)
    if rerank is not None:
        order = order[: max(limit, _RERANKED)]
        scores[order] = rerank(question, [candidates[i].text for i in order])
        order = order[np.argsort(-scores[order], kind="stable")]
    kept = order[diversify(scores[order], vectors[order], limit, diversity=settings.diversity)]
    best_first = kept[np.argsort(-scores[kept], kind="stable")]
    return [_passage(candidates[i], scores[i], similarities[i]) for i in best_first]


def fuse(
    similarities: Scores, keywords: Scores, *, fusion: Fusion, keyword_weight: float
) -> Scores:
    """Return one score for each candidate.

    Args:
        similarities: [N] cosines, -1 to 1.
        keywords: [N] BM25 scores, 0 where a candidate has none of the words.
        fusion: How to join them.
        keyword_weight: The share of the words in ``weights``.

    >>> fuse(np.array([0.5, 0.2]), np.array([0.0, 7.0]), fusion="weights", keyword_weight=0.5)
    array([0.5, 0.7])
    """
    if fusion == "ranks":
        by_vector = 1 / (_RANK_OFFSET + _ranks(similarities))
        by_words = np.where(keywords > 0, 1 / (_RANK_OFFSET + _ranks(keywords)), 0)
        joined: Scores = by_vector + by_words
        return joined
    by_vector = np.maximum(similarities, 0) / max(similarities.max(), 1e-9)
    by_words = keywords / max(keywords.max(), 1e-9)
    weighted: Scores = (1 - keyword_weight) * by_vector + keyword_weight * by_words
    return weighted


def diversify(
    scores: Scores, vectors: NDArray[np.float32], limit: int, *, diversity: float
) -> NDArray[np.int64]:
    """Return which candidates to take, in the order in which they are taken.

    Args:
        scores: [N], scaled here to 0..1.
        vectors: [N, D], of length 1.
        limit: How many to take at most.
        diversity: 0 takes the best; 1 takes the best one and then the most unlike ones.
    """
    spread = max(float(np.ptp(scores)), 1e-9)
    relevance = (scores - scores.min()) / spread
    likeness = np.zeros(len(scores))
    taken: list[int] = []
    left = np.ones(len(scores), dtype=bool)
    for _ in range(min(limit, len(scores))):
        marginal = np.where(left, (1 - diversity) * relevance - diversity * likeness, -np.inf)
        # The first one has nothing to be unlike.
        best = int(np.argmax(marginal if taken else relevance))
        taken.append(best)
        left[best] = False
        likeness = np.maximum(likeness, vectors @ vectors[best])
    return np.array(taken, dtype=np.int64)


def _ranks(scores: Scores) -> Scores:
    """Return 1 for the best; each has as many before it as are better."""
    ranks: Scores = np.searchsorted(np.sort(-scores), -scores) + np.float64(1)
    return ranks


def _without_repeated_texts(candidates: Sequence[Candidate], scores: Scores) -> NDArray[np.int64]:
    """Return the candidates best first, each text once: copies of a file are common."""
    seen: set[str] = set()
    order = []
    for i in np.argsort(-scores, kind="stable"):
        if candidates[i].text not in seen:
            seen.add(candidates[i].text)
            order.append(i)
    return np.array(order, dtype=np.int64)


def _passage(candidate: Candidate, score: float, similarity: float) -> Passage:
    return Passage(
        id=candidate.id,
        document_id=candidate.document_id,
        source=candidate.source,
        title=candidate.title,
        page=candidate.chunk.page,
        start=candidate.chunk.start,
        end=candidate.chunk.end,
        heading=candidate.chunk.heading,
        text=candidate.text,
        score=float(score),
        similarity=float(similarity),
    )
