"""Texts to pairs and clusters, with a model of two dimensions, and the guide's three sentences."""

from math import cos, sin
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from typer.testing import CliRunner

from mixtral.cli import paraphrase as command
from mixtral.embed import Embeddings
from mixtral.errors import InvalidRequest
from mixtral.paraphrase import Pair, all_pairs, find_paraphrases
from mixtral.paraphrase import vectors as vectors_module
from mixtral.paraphrase.report import cluster_lines, guide_lines, pair_lines
from mixtral.paraphrase.text_file import Line

# Angles in radians; a small angle is about its chord.
ANGLES = {"a": 0.0, "a'": 0.1, "a''": 0.22, "b": 1.0, "b'": 1.05, "c": 3.0}

GUIDE = [
    "What led to Zidane's ban from football?",
    "This is a totally different sentence.",
    "What caused Zidane to get banned from football?",
]


def embed(texts: list[str]) -> NDArray[np.float64]:
    # Of length 3, which must make no difference.
    return 3 * np.array([[cos(ANGLES[text]), sin(ANGLES[text])] for text in texts])


def test_pairs_are_nearest_first_and_clusters_follow_from_them() -> None:
    found = find_paraphrases(["b", "a", "c", "a'", "b'", "a''"], embed, threshold=0.15)
    assert [(pair.first, pair.second) for pair in found.pairs] == [(0, 4), (1, 3), (3, 5)]
    # a and a'' are 0.22 apart, but a' lies between them.
    assert found.clusters == [[1, 3, 5], [0, 4]]
    nearest = found.pairs[0]
    assert nearest.distance == pytest.approx(2 * sin(0.025), abs=1e-6)
    assert nearest.cosine == pytest.approx(cos(0.05), abs=1e-6)
    assert found.is_exact
    assert found.num_texts == 6


def test_equal_texts_are_one_text_at_several_places() -> None:
    asked: list[str] = []

    def counting(texts: list[str]) -> NDArray[np.float64]:
        asked.extend(texts)
        return embed(texts)

    found = find_paraphrases(["c", "a", "a'", "a", "c", "b"], counting, threshold=0.15)
    assert asked == ["c", "a", "a'", "b"]
    assert found.duplicates == [[0, 4], [1, 3]]
    assert found.pairs == [Pair(first=1, second=2, distance=found.pairs[0].distance)]
    assert found.clusters == [[1, 2, 3], [0, 4]]


def test_clusters_alone_are_the_same_clusters() -> None:
    texts = ["b", "a", "c", "a'", "b'", "a''"]
    whole = find_paraphrases(texts, embed, threshold=0.15)
    alone = find_paraphrases(texts, embed, threshold=0.15, with_pairs=False)
    assert alone.clusters == whole.clusters
    assert alone.pairs == []


def test_order_of_texts_changes_places_and_nothing_else() -> None:
    texts = [*ANGLES]
    forward = find_paraphrases(texts, embed, threshold=0.3)
    backward = find_paraphrases(texts[::-1], embed, threshold=0.3)

    def named(found: Any, names: list[str]) -> set[frozenset[str]]:
        return {frozenset(names[place] for place in cluster) for cluster in found.clusters}

    assert named(forward, texts) == named(backward, texts[::-1])
    assert [p.distance for p in forward.pairs] == [p.distance for p in backward.pairs]


def test_texts_are_embedded_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vectors_module, "BLOCK", 4)
    sizes: list[int] = []
    shown: list[tuple[int, int]] = []

    def counting(texts: list[str]) -> NDArray[np.float64]:
        sizes.append(len(texts))
        return embed(texts)

    whole = find_paraphrases([*ANGLES], embed, threshold=0.15)
    found = find_paraphrases(
        [*ANGLES], counting, threshold=0.15, progress=lambda *now: shown.append(now)
    )
    assert found == whole
    assert sizes == [4, 2]
    assert shown == [(4, 6), (6, 6)]


def test_too_many_pairs_are_an_error_and_not_a_shorter_list() -> None:
    with pytest.raises(InvalidRequest, match="more than 3 pairs are within 2"):
        find_paraphrases([*ANGLES], embed, threshold=2, max_pairs=3)


def test_few_texts_have_no_pairs() -> None:
    assert find_paraphrases([], embed).clusters == []
    assert find_paraphrases(["a"], embed).pairs == []
    assert all_pairs(["a"], embed) == []


@pytest.mark.parametrize(
    ("texts", "model", "changes", "expected"),
    [
        (["a", " "], embed, {}, r"texts\[1\] is ' '"),
        (["a", 3], embed, {}, r"texts\[1\] is 3"),
        ("ab", embed, {}, "texts is one text"),
        (["a"], embed, {"threshold": 2.1}, "threshold is 2.1"),
        (["a"], embed, {"threshold": float("nan")}, "threshold is nan"),
        (["a"], embed, {"threshold": True}, "threshold is True"),
        (["a", "b"], lambda texts: [[1.0, 0.0]], {}, r"shape \[1, 2\] for 2 texts"),
        (["a"], lambda texts: [[0.0, 0.0]], {}, "a vector of zeros"),
        (["a"], lambda texts: [[float("inf"), 0.0]], {}, "not finite"),
    ],
)
def test_wrong_input_is_named(texts: Any, model: Any, changes: Any, expected: str) -> None:
    with pytest.raises(InvalidRequest, match=expected):
        find_paraphrases(texts, model, **changes)


def test_tables_show_each_text_with_its_line() -> None:
    lines = [Line(number=3, text="one"), Line(number=12, text="two")]
    pair = Pair(first=0, second=1, distance=0.5)
    assert [*pair_lines([pair], lines)] == [
        "distance  cosine  line  text",
        "  0.5000  0.8750     3  one",
        "                    12  two",
    ]
    assert [*cluster_lines([[0, 1]], lines)] == ["cluster 1: 2 texts", "   3  one", "  12  two"]


class CuttingEmbedder:
    """A model that reads one token."""

    name = "short"
    max_tokens = 1

    def embed(self, texts: list[str], /) -> Embeddings:
        vectors = np.eye(len(texts), dtype=np.float32)
        return Embeddings(
            vectors=vectors, num_tokens=[1] * len(texts), is_cut=[" " in text for text in texts]
        )


@pytest.mark.parametrize("options", [[], ["--all"]])
def test_texts_that_the_model_did_not_read_to_their_ends_are_told_of(
    tmp_path: Path, options: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "_load", lambda model, device: CuttingEmbedder())
    file, out = tmp_path / "texts.txt", tmp_path / "found.json"
    file.write_text("one\none two\nthree\n")
    result = CliRunner().invoke(command.app, [str(file), *options, "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert "1 texts are longer than the 1 tokens that short reads" in result.stderr
    assert '"num_cut": 1' in out.read_text()


def test_guide_table_orders_the_pairs_as_mistral_embed_does() -> None:
    pytest.importorskip("sentence_transformers", reason="the extra embed is not installed")
    from mixtral.embed import Embedder

    embedder = Embedder()
    pairs = all_pairs(GUIDE, embedder)
    assert [(pair.first, pair.second) for pair in pairs] == [(0, 1), (0, 2), (1, 2)]
    # 0.845, 0.287 and 0.838 with mistral-embed.
    by_distance = sorted(pairs, key=lambda pair: pair.distance)
    assert [(pair.first, pair.second) for pair in by_distance] == [(0, 2), (1, 2), (0, 1)]
    rows = [*guide_lines(pairs, GUIDE)]
    assert rows[0].startswith(f"({GUIDE[0]!r}, {GUIDE[1]!r}) [[")
    found = find_paraphrases(GUIDE, embedder)
    assert found.clusters == [[0, 2]]
    assert found.num_cut == 0
