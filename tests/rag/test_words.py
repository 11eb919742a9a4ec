"""Words of texts and questions; and SQLite's ranking is BM25, with bm25s as the oracle."""

import random
import sqlite3

import pytest

from mixtral.rag.database import make_word_index
from mixtral.rag.tables import search_words
from mixtral.rag.words import index_terms, query_terms


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Zürich's café", "zürich s café"),
        ("group_size=128", "group size 128"),
        ("HTTPServer parseJson", "httpserver http server parsejson parse json"),
        ("int4 GPT-4", "int4 gpt 4"),
        ("\ufb01ne \uff21\uff22", "fine ab"),
        ("東京 タワー 都", "東京 タワ ワー 都"),
        ("!? \n", ""),
    ],
)
def test_words_of_a_text(text: str, words: str) -> None:
    assert index_terms(text) == words


def test_question_is_its_telling_words_once_or_all_of_them() -> None:
    assert query_terms("What is the int4 of the INT4?") == ["int4"]
    assert query_terms("to be or not to be") == ["to", "be", "or", "not"]
    assert query_terms("?!") == []
    assert len(query_terms(" ".join(f"w{i}" for i in range(500)))) == 64


def connect(texts: list[str], *, stemming: bool) -> sqlite3.Connection:
    connection = sqlite3.connect(":memory:")
    make_word_index(connection, stemming=stemming)
    for number, text in enumerate(texts, start=1):
        connection.execute(
            "INSERT INTO words (rowid, terms) VALUES (?, ?)", (number, index_terms(text))
        )
    return connection


def test_stems_and_accents_are_found() -> None:
    texts = ["packing the weights", "a naïve router", "nothing here", "and more of nothing"]
    connection = connect(texts, stemming=True)
    assert list(search_words(connection, ["packed"], 5)) == [1]
    assert list(search_words(connection, ["naive"], 5)) == [2]
    connection.close()
    connection = connect(texts, stemming=False)
    assert list(search_words(connection, ["packed"], 5)) == []
    assert list(search_words(connection, ["packing"], 5)) == [1]
    connection.close()


@pytest.mark.parametrize("term", ['"', "NEAR", "OR", "a*", "terms:x", "(", "-", "東"])
def test_no_word_is_an_operator(term: str) -> None:
    connection = connect(["a b c", "x y z"], stemming=True)
    search_words(connection, [term, "x"], 5)
    assert 2 in search_words(connection, [term, "x"], 5)
    connection.close()


def test_scores_order_as_those_of_bm25s() -> None:
    bm25s = pytest.importorskip("bm25s", reason="the oracle is not installed")
    rng = random.Random(0)
    vocabulary = [f"w{i}" for i in range(200)]
    weights = [1 / (i + 1) for i in range(200)]
    texts = [" ".join(rng.choices(vocabulary, weights, k=rng.randint(5, 60))) for _ in range(300)]
    connection = connect(texts, stemming=False)
    oracle = bm25s.BM25(method="robertson", idf_method="robertson", k1=1.2, b=0.75)
    oracle.index([text.split() for text in texts], show_progress=False)
    for _ in range(30):
        # Not the commonest words: the two disagree on how little they weigh.
        query = list(dict.fromkeys(rng.choices(vocabulary[5:], k=4)))
        ours = search_words(connection, query, 10)
        theirs = oracle.get_scores([query][0])
        ratios = [ours[i] / theirs[i - 1] for i in ours]
        assert max(ratios) == pytest.approx(min(ratios), rel=1e-3)
        best = sorted(theirs, reverse=True)[: len(ours)]
        assert [theirs[i - 1] for i in ours] == pytest.approx(best, rel=1e-4)
    connection.close()
