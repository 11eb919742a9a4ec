"""benchmarks/paraphrase.py: sentences of dialogues, and three ways that agree."""

import gzip
import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("faiss", reason="the extra rag is not installed")
pytest.importorskip("sentence_transformers", reason="the extra embed is not installed")

from mixtral.errors import EngineError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("paraphrase")


def near_vectors() -> Any:
    """Fifty topics of four vectors each, near each other within a topic and far between."""
    rng = np.random.default_rng(0)
    topics = np.repeat(rng.standard_normal((50, 32)), 4, axis=0)
    vectors = (topics + 0.1 * rng.standard_normal(topics.shape)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_sentences_are_different_and_have_words(script: Any, tmp_path: Path) -> None:
    folder = tmp_path / "train/topical_chat"
    folder.mkdir(parents=True)
    texts = ["Hi there! Do you like  old films?", "Do you like old films? No.", "I do like them."]
    line = json.dumps({"messages": [{"text": text} for text in texts]})
    (folder / "conversations.jsonl.gz").write_bytes(gzip.compress(line.encode()))
    assert script.read_sentences(tmp_path, most=2) == ["Do you like old films?", "I do like them."]
    with pytest.raises(SystemExit, match=r"has 2 sentences; 3 are needed\."):
        script.read_sentences(tmp_path, most=3)
    with pytest.raises(SystemExit, match=r"elsewhere/train/.* does not exist; name its folder"):
        script.read_sentences(tmp_path / "elsewhere", most=3)


def test_all_ways_find_the_pairs_of_each_topic(script: Any) -> None:
    row = script.compare(near_vectors())
    assert row["pairs"] == 50 * 6
    assert row["index"]["found"] == row["peer"]["found"] == 300


def test_a_pair_that_is_none_makes_nothing_count(
    script: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = iter([({(0, 1): 0.5}, 1.0), ({(0, 2): 0.5}, 1.0)])
    monkeypatch.setattr(script, "_timed_pairs", lambda vectors, method: next(answers))
    with pytest.raises(EngineError, match="disagree; nothing counts"):
        script.compare(near_vectors())
