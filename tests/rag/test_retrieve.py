"""How scores are joined and passages chosen; arrays only."""

import numpy as np
import pytest

from mixtral.rag.chunking import Chunk
from mixtral.rag.retrieve import choose_passages, diversify, fuse
from mixtral.rag.settings import CollectionSettings
from mixtral.rag.store import Candidate


def candidate(
    number: int, vector: list[float], *, words: float = 0.0, text: str | None = None
) -> Candidate:
    unit = np.array(vector, dtype=np.float32)
    return Candidate(
        id=number,
        document_id="d",
        source="s",
        title="t",
        chunk=Chunk(start=0, end=4, heading="H", page=2),
        text=text or f"text {number}",
        vector=unit / np.linalg.norm(unit),
        keyword_score=words,
    )


QUERY = np.array([1, 0, 0], dtype=np.float32)


def choose(candidates: list[Candidate], limit: int = 4, **fields: object) -> list[int]:
    settings = CollectionSettings(**fields)  # type: ignore[arg-type]
    found = choose_passages("q", QUERY, candidates, limit=limit, settings=settings)
    return [passage.id for passage in found]


def test_weight_zero_is_similarity_alone_and_one_is_words_alone() -> None:
    found = [
        candidate(1, [1, 0, 0], words=1),
        candidate(2, [1, 1, 0], words=3),
        candidate(3, [0, 1, 0], words=2),
    ]
    assert choose(found, keyword_weight=0, diversity=0) == [1, 2, 3]
    assert choose(found, keyword_weight=1, diversity=0) == [2, 3, 1]


def test_ranks_add_up_and_no_word_is_no_rank() -> None:
    scores = fuse(
        np.array([0.9, 0.1, 0.5]), np.array([0.0, 9.0, 1.0]), fusion="ranks", keyword_weight=0.3
    )
    assert scores == pytest.approx([1 / 61, 1 / 63 + 1 / 61, 1 / 62 + 1 / 62])


def test_passage_that_shares_a_word_does_not_beat_one_that_is_twice_as_near() -> None:
    near = candidate(1, [0.6, 0.8, 0], words=2)
    wordy = candidate(2, [0.3, 0.954, 0], words=5)
    assert choose([near, wordy], limit=1) == [1]


def test_candidates_unlike_the_question_are_joined_by_their_words_alone() -> None:
    scores = fuse(
        np.array([-0.2, -0.1]), np.array([1.0, 2.0]), fusion="weights", keyword_weight=0.3
    )
    assert scores == pytest.approx([0.15, 0.3])


@pytest.mark.parametrize("fusion", ["weights", "ranks"])
def test_joined_order_does_not_depend_on_the_order_or_scale_of_candidates(fusion: str) -> None:
    rng = np.random.default_rng(0)
    found = [candidate(i, rng.normal(size=3).tolist(), words=float(i % 4)) for i in range(20)]
    expected = choose(found, fusion=fusion)
    assert choose(found[::-1], fusion=fusion) == expected
    scaled = [candidate(c.id, c.vector.tolist(), words=c.keyword_score * 50) for c in found]
    assert choose(scaled, fusion=fusion) == expected


def test_repetition_gives_way_to_something_new() -> None:
    found = [
        candidate(1, [1, 0.10, 0]),
        candidate(2, [1, 0.11, 0]),
        candidate(3, [1, 0.12, 0]),
        candidate(4, [0.5, -0.8, 0.3]),
    ]
    assert choose(found, limit=2, keyword_weight=0, diversity=0) == [1, 2]
    assert choose(found, limit=2, keyword_weight=0, diversity=0.8) == [1, 4]


def test_diversity_is_maximal_marginal_relevance() -> None:
    rng = np.random.default_rng(1)
    vectors = rng.normal(size=(15, 4)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    scores = rng.random(15)
    relevance = (scores - scores.min()) / np.ptp(scores)
    chosen = [int(np.argmax(scores))]
    while len(chosen) < 6:
        left = [i for i in range(15) if i not in chosen]
        likeness = {i: max(0, *(float(vectors[i] @ vectors[j]) for j in chosen)) for i in left}
        chosen.append(max(left, key=lambda i: 0.6 * relevance[i] - 0.4 * likeness[i]))
    assert diversify(scores, vectors, 6, diversity=0.4).tolist() == chosen
    assert sorted(diversify(scores, vectors, 99, diversity=0.4).tolist()) == list(range(15))


def test_same_text_comes_once() -> None:
    found = [candidate(i, [1, 0, 0], text="the same") for i in range(3)]
    assert choose([*found, candidate(9, [0, 1, 0])]) == [0, 9]


def test_reranker_has_the_last_word_on_scores() -> None:
    found = [candidate(i, [1, i / 10, 0]) for i in range(5)]
    asked: list[str] = []

    def rerank(question: str, texts: list[str]) -> list[float]:
        asked.extend([question, *texts])
        return [float(text[-1]) for text in texts]

    settings = CollectionSettings(diversity=0)
    passages = choose_passages(
        "why?",
        QUERY,
        found,
        limit=2,
        settings=settings,
        rerank=rerank,  # type: ignore[arg-type]
    )
    assert [passage.id for passage in passages] == [4, 3]
    assert [passage.score for passage in passages] == [4.0, 3.0]
    assert asked[0] == "why?"
    assert len(asked) == 6


def test_passage_says_where_it_stands_and_how_near_it_is() -> None:
    (passage,) = choose_passages(
        "q", QUERY, [candidate(7, [3, 4, 0])], limit=4, settings=CollectionSettings()
    )
    assert (passage.id, passage.page, passage.heading, passage.start, passage.end) == (
        7,
        2,
        "H",
        0,
        4,
    )
    assert passage.similarity == pytest.approx(0.6)
    assert choose_passages("q", QUERY, [], limit=4, settings=CollectionSettings()) == []
