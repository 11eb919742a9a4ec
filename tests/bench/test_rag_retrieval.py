"""benchmarks/rag_retrieval.py: scores by hand, halves kept apart, the page from the JSON."""

import gzip
import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("faiss", reason="the extra rag is not installed")
pytest.importorskip("sentence_transformers", reason="the extra embed is not installed")

from mixtral.rag import CollectionSettings
from mixtral.rag.chunking import estimate_tokens
from tests.rag.documents_for_tests import embed, open_at

ROOT = Path(__file__).resolve().parents[2]
TOPICS = "moon bread router cello glacier violin harbour beetle comet lantern orchard saddle"


@pytest.fixture(autouse=True)
def _scripts_find_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))


def script(name: str) -> Any:
    return importlib.import_module(name)


def passage_of(topic: str, part: int) -> list[str]:
    return [topic.title(), f"The {topic} is old.", f"Part {part} of the {topic} is {topic} {part}."]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Twelve questions of two passages each, the annotators at the second; six programs."""
    records = [
        {
            "question": f"What is part 1 of the {topic}?",
            "passages": [passage_of(topic, 0), passage_of(topic, 1)],
            "feedback": {"missing-info": [{"passage_id": 2, "sentence_id": [2]}]},
        }
        for topic in TOPICS.split()
    ]
    records.append({"question": "Nothing?", "passages": [], "feedback": {"missing-info": []}})
    programs = [
        {"task_id": 508 + i, "text": f"Write the {topic}.", "code": f"def {topic}():\r\n  pass"}
        for i, topic in enumerate(TOPICS.split()[:6])
    ]
    for folder in ("train/fg_rlhf", "eval/mbpp"):
        (tmp_path / folder).mkdir(parents=True)
    packed = gzip.compress("\n".join(map(json.dumps, records)).encode())
    (tmp_path / "train/fg_rlhf/dev_feedback.jsonl.gz").write_bytes(packed)
    (tmp_path / "eval/mbpp/mbpp.jsonl").write_text("\n".join(map(json.dumps, programs)))
    return tmp_path


def measured(data: Path, **options: Any) -> Any:
    corpora = script("rag_cases").load_corpora(data)
    return script("rag_retrieval").measure(corpora, embeddings(), sizes=(100,), **options)


def embeddings() -> Any:
    return script("rag_arms").Embeddings(embed, estimate_tokens)


def found(*names: str, num_characters: int = 600) -> Any:
    cases = script("rag_cases")
    return [cases.Found(document=name, num_characters=num_characters) for name in names]


def test_scores_are_those_worked_out_by_hand() -> None:
    cases = script("rag_cases")
    questions = [
        cases.Question(text=right, right=frozenset(right.split()), is_tuning=False)
        for right in ("a b", "e", "z")
    ]
    lists = [found("x", "a", "a", "b", "b"), found("a", "b", "c", "d", "e"), found("a")]
    scores = cases.score(lists, questions)
    assert scores["recall_4"] == [1, 0, 0]
    assert scores["recall_2048"] == [0.5, 0, 0]  # three passages of 600 characters fit
    assert scores["mrr_10"] == [1 / 2, 1 / 5, 0]
    assert cases.score([found("e", num_characters=9999)], questions[1:2])["recall_2048"] == [1]


def test_annotators_passage_is_one_of_the_questions_passages(data: Path) -> None:
    feedback, mbpp = script("rag_cases").load_corpora(data)
    any_of, named = feedback.questions.values()
    assert len(any_of) == len(named) == 12
    for loose, strict in zip(any_of, named, strict=True):
        assert strict.right < loose.right
        (name,) = strict.right
        asked = loose.text.removeprefix("What is ").removesuffix("?")
        assert asked in feedback.documents[name].lower()
    assert [q.is_tuning for q in mbpp.questions["its program"]] == [False] * 3 + [True] * 3
    assert not any("\r" in text for text in mbpp.documents.values())


def test_scores_are_of_the_half_that_nothing_was_tuned_on(data: Path) -> None:
    rag = measured(data, with_grids=True)
    (feedback, _) = script("rag_cases").load_corpora(data)
    num_report = sum(not q.is_tuning for q in feedback.questions["any of its passages"])
    assert 0 < num_report < 12
    rows = [row for row in rag["retrieval"] if row["corpus"] == "fg_rlhf"]
    assert {row["questions"] for row in rows} == {num_report}
    assert {row["arm"] for row in rows} > {"plain", "ours"}
    # The tuning half is asked in the grid alone: 12 - num_report questions have these means.
    for row in rag["fusion_grid"]:
        if row["reading"] == "named by annotators":
            hits = row["recall_4"] * (12 - num_report)
            assert hits == pytest.approx(round(hits))
    assert rag["latency"][0]["chunks"] == 100
    assert rag["adding"][0]["documents"] == 24


def test_plain_is_the_nearest_window_of_512_characters() -> None:
    texts = {"a.md": "moon " * 200, "b.md": "bread " * 30, "c.md": "a router and a moon. " * 40}
    windows = [
        (name, text[i : i + 512]) for name, text in texts.items() for i in range(0, len(text), 512)
    ]
    search = script("rag_arms").plain_search(texts, embeddings())
    vectors, query = embed([text for _, text in windows]), embed(["moon?"])[0]
    order = np.argsort(np.linalg.norm(vectors - query, axis=1), kind="stable")
    expected = [(windows[i][0], len(windows[i][1])) for i in order]
    assert [(one.document, one.num_characters) for one in search("moon?")] == expected


def test_ours_is_what_a_collection_finds(data: Path, tmp_path: Path) -> None:
    (corpus, _) = script("rag_cases").load_corpora(data)
    (tmp_path / "files").mkdir()
    for name, text in corpus.documents.items():
        (tmp_path / "files" / name).write_text(text)
    settings = CollectionSettings(keyword_weight=0.4)
    with embeddings().open(tmp_path / "store") as collection:
        collection.add([tmp_path / "files"])
    with open_at(tmp_path / "store", name="benchmark", settings=settings) as collection:
        arm = script("rag_arms").Ours(tmp_path, embeddings())
        for question in corpus.questions["any of its passages"]:
            expected = collection.search(question.text, limit=4)
            given = arm.search(question.text, settings)
            assert [one.document for one in given[:4]] == [Path(p.source).name for p in expected]
            assert len({one.document for one in given}) > 4
        arm.close()


def test_vectors_of_a_file_are_not_made_again(tmp_path: Path) -> None:
    first = embeddings()
    vectors = first(["moon", "bread\n", "moon"])
    first.save(tmp_path / "vectors.npz")

    def refuse(texts: object) -> Any:
        raise AssertionError("nothing is new")

    second = script("rag_arms").Embeddings(refuse, estimate_tokens)
    second.load(tmp_path / "vectors.npz")
    assert np.array_equal(second(["moon", "bread\n", "moon"]), vectors)


def test_left_out_passages_are_of_articles_that_are_not_there(data: Path) -> None:
    retrieval, cases = script("rag_retrieval"), script("rag_cases")
    (corpus, _) = cases.load_corpora(data)
    away = sum(not cases.is_even(topic.title()) for topic in TOPICS.split())
    assert 0 < away < 12
    rows, grid = retrieval._measure_relevance(corpus, embeddings(), with_grid=True)
    assert sum(row["absent"] for row in rows) == away
    assert sum(row["answerable"] for row in rows) == 12 - away
    # The higher the thresholds, the more is refused.
    by_setting = {tuple(list(row.values())[:3]): row["refused_share"] for row in grid}
    for (sure, low, share), refused in by_setting.items():
        assert refused <= by_setting.get((sure + 0.05, low, share), 1)


def test_grid_is_printed_best_setting_first(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"w": w, "recall": r} for w, r in [(0.1, 0.5), (0.2, 0.6), (0.1, 0.9), (0.2, 0.4)]]
    script("rag_retrieval")._print_best(rows, ("w",), ("recall",))
    assert capsys.readouterr().out == "w 0.1: recall 0.700\nw 0.2: recall 0.500\n"


def test_page_keeps_its_text_and_has_a_row_for_each_measurement(data: Path, tmp_path: Path) -> None:
    from mixtral.bench.results import Report

    tables = script("rag_tables")
    notes = {
        "threads": 1,
        "versions": {"faiss-cpu": "1"},
        "read_gb_per_s": [30.0, 29.0],
        "embedding_model": "hash",
        "other_processes": None,
    }
    report = Report(results=[], notes=notes).to_json() | {"rag": measured(data)}
    page = tmp_path / "page.md"
    page.write_text(f"before\n{tables.MARKS[0]}old\n{tables.MARKS[1]}after\n", encoding="utf-8")
    tables.write_tables(json.loads(json.dumps(report)), page)
    text = page.read_text(encoding="utf-8")
    assert text.startswith(f"before\n{tables.MARKS[0]}|")
    assert text.endswith(f"{tables.MARKS[1]}after\n")
    assert "old" not in text
    rows = len(report["rag"]["retrieval"]) + 2 + 1 + 2  # halves; sizes; corpora
    assert sum(line.startswith("| ") for line in text.splitlines()) == rows + 4  # and headers
