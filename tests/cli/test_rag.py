"""``mixtral rag``: from files to an answer with its source; the embedder needs no model."""

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import Result

from mixtral.cli.rag_options import default_store
from mixtral.rag import Collection
from tests.cli.conftest import Run
from tests.rag.documents_for_tests import embed

pytest.importorskip("faiss", reason="the extra rag is not installed")
pytest.importorskip("sentence_transformers", reason="the extra embed is not installed")

PACKING = "# Packing\n\nTwo values share a byte. The first is in the low four bits.\n"
CATS = "Cats sleep most of the day. The old cat of the station is black.\n"


class HashingEmbedder:
    """Stands for ``Embedder``."""

    max_tokens = 256

    def __init__(self, model: str | None = None) -> None:
        self.name = "all-MiniLM-L6-v2"

    def embed(self, texts: Sequence[str]) -> SimpleNamespace:
        return SimpleNamespace(vectors=embed(texts))

    def read(self, texts: Sequence[str]) -> list[SimpleNamespace]:
        return [SimpleNamespace(token_ids=[0, *range(len(text.split())), 0]) for text in texts]


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    folder = tmp_path / "docs"
    folder.mkdir()
    (folder / "packing.md").write_text(PACKING)
    (folder / "cats.txt").write_text(CATS)
    return folder


@pytest.fixture
def rag(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setattr("mixtral.embed.Embedder", HashingEmbedder)
    monkeypatch.setenv("MIXTRAL_RAG_STORE", str(tmp_path / "store"))
    monkeypatch.delenv("MIXTRAL_EMBEDDING_MODEL", raising=False)

    def invoke(*args: object, input: str | bytes = "") -> Result:
        return run("rag", *args, input=input)

    return invoke


def read(result: Result) -> dict[str, Any]:
    assert result.exit_code == 0, result.stderr
    value: dict[str, Any] = json.loads(result.stdout)
    return value


# ---- Documents ---------------------------------------------------------------------------------


def test_documents_are_added_once_listed_and_removed(rag: Run, docs: Path, tmp_path: Path) -> None:
    assert rag("add", docs).stdout == f"2 added, in {tmp_path / 'store'}\n"
    assert rag("add", docs).stdout.startswith("2 unchanged")
    (docs / "cats.txt").write_text(CATS + "It is old.")
    assert rag("add", docs / "*.txt").stdout.startswith("1 updated")
    listed = read(rag("list", "--json"))
    assert listed["store"] == str(tmp_path / "store")
    assert [Path(one["source"]).name for one in listed["documents"]] == ["cats.txt", "packing.md"]
    shown = rag("list").stdout.splitlines()
    assert shown[0].startswith(f"{listed['documents'][0]['document_id']}  cats.txt (1 passage, ")
    assert shown[3] == f"    {docs / 'packing.md'}"
    first, second = listed["documents"]
    assert rag("remove", first["source"]).stdout.startswith("1 document removed")
    assert read(rag("remove", second["document_id"], "--json"))["removed"] == 1
    assert read(rag("list", "--json"))["documents"] == []


def test_json_of_add_says_what_became_of_each_document(rag: Run, docs: Path) -> None:
    (docs / "broken.pdf").write_bytes(b"%PDF-1.4 nothing")
    values = read(rag("add", docs, "--json"))
    status = {Path(one["source"]).name: one["status"] for one in values["documents"]}
    assert status == {"broken.pdf": "refused", "cats.txt": "added", "packing.md": "added"}


def test_refused_files_are_named_and_others_go_on(rag: Run, docs: Path) -> None:
    (docs / "broken.pdf").write_bytes(b"%PDF-1.4 nothing")
    result = rag("add", docs)
    assert result.exit_code == 0
    assert result.stdout.startswith("2 added, 1 refused")
    assert "broken.pdf: " in result.stderr.replace("\n", "")


def test_nothing_but_refused_files_is_a_failure(rag: Run, docs: Path) -> None:
    (docs / "broken.pdf").write_bytes(b"%PDF-1.4 nothing")
    assert rag("add", docs / "broken.pdf").exit_code == 1


def test_interrupt_keeps_what_was_added_and_says_it(
    rag: Run, docs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Collection.add

    def interrupted(self: Collection, paths: Any, *, on_document: Any) -> Any:
        whole(self, [docs / "cats.txt"], on_document=on_document)
        raise KeyboardInterrupt

    monkeypatch.setattr(Collection, "add", interrupted)
    result = rag("add", docs)
    assert result.exit_code == 130
    assert "what was done before stays: 1 added" in result.stderr
    assert len(read(rag("list", "--json"))["documents"]) == 1


def test_reindex_cuts_and_embeds_anew(rag: Run, docs: Path) -> None:
    (docs / "long.txt").write_text(CATS * 40)
    rag("add", docs)
    assert "reads chunks of up to 253" in rag("reindex", "--chunk-tokens", 300).stderr
    before = sum(one["num_chunks"] for one in read(rag("list", "--json"))["documents"])
    after = read(rag("reindex", "--json", "--chunk-characters", 64))["passages"]
    assert after > before
    assert "chunk_tokens is 192" in rag("add", docs, "--chunk-tokens", 192).stderr
    again = read(rag("reindex", "--json", "--chunk-tokens", 64))["passages"]
    assert before < again < after


def test_store_of_short_passages_takes_a_model_that_reads_no_more(
    rag: Run, docs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(HashingEmbedder, "max_tokens", 128)
    assert "chunk_tokens is 192, and " in rag("add", docs).stderr
    assert rag("reindex", "--chunk-tokens", 100).exit_code == 0
    assert rag("add", docs).exit_code == 0
    monkeypatch.setattr(HashingEmbedder, "max_tokens", 64)
    assert "chunk_tokens is 100, and " in rag("reindex").stderr
    assert rag("reindex", "--chunk-tokens", 50, "--overlap-tokens", 0).exit_code == 0


# ---- Questions ---------------------------------------------------------------------------------


def test_search_finds_the_passage_and_shows_where_it_is(rag: Run, docs: Path) -> None:
    rag("add", docs)
    values = read(rag("search", "values that share a byte", "--limit", 1, "--json"))
    (passage,) = values["passages"]
    assert passage["source"] == str(docs / "packing.md")
    assert "Two values share a byte" in passage["text"]
    shown = rag("search", "values that share a byte").stdout
    assert f"[1] {docs / 'packing.md'}, Packing, similarity " in shown
    assert "    Two values share a byte." in shown


@pytest.fixture
def says(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Returns a function that fixes what the model answers; the rest of it is real."""
    from mixtral.llm import LLM
    from mixtral.outputs import CompletionChunk, Usage

    def fix(text: str, finish_reason: Any = "stop") -> list[Any]:
        asked: list[Any] = []

        def stream(self: LLM, messages: Any, params: Any) -> Any:
            asked.append((messages, params))
            usage = Usage(prompt_tokens=9, completion_tokens=1)
            yield CompletionChunk(
                text=text, token_ids=[5], finish_reason=finish_reason, usage=usage
            )

        monkeypatch.setattr(LLM, "stream_chat", stream)
        return asked

    return fix


ALL = ("--min-similarity", "-1")


def test_answer_names_file_heading_and_span(rag: Run, docs: Path, tiny: Path, says: Any) -> None:
    rag("add", docs)
    asked = says("the low four bits")
    arguments = ("ask", "Where is the first value?", "--model", tiny, "--limit", 2, *ALL)
    result = rag(*arguments, "--show-passages")
    assert result.exit_code == 0, result.stderr
    start = PACKING.index("The first")
    end = PACKING.index("\n", start)
    lines = result.stdout.splitlines()
    assert lines[0] == "the low four bits"
    where = f"{docs / 'packing.md'}, Packing, characters {start} to {end}"
    assert any(line.endswith(where) for line in lines)
    assert "    The first is in the low four bits." in lines
    assert "The old cat of the station is black." in result.stdout
    ((messages, _),) = asked
    assert "Query: Where is the first value?" in messages[0]["content"]
    values = read(rag(*arguments, "--json"))
    (citation,) = values["citations"]
    assert (citation["start"], citation["end"]) == (start, end)
    assert values["question"] == "Where is the first value?"


def test_question_that_has_nothing_to_do_with_the_documents_loads_no_model(
    rag: Run, docs: Path
) -> None:
    rag("add", docs)
    result = rag("ask", "zzz qqq", "--model", "no-such-model", "--min-similarity", 0.99)
    assert result.exit_code == 0, result.stderr
    assert result.stdout == "Not in the documents.\n"
    assert "the nearest passage has a similarity of" in result.stderr


@pytest.mark.parametrize(
    ("text", "finish_reason", "told"),
    [
        ("Dogs bark at night.", "stop", "no passage supports this answer"),
        ("the low four bits [9]", "stop", "the answer names [9], and there is no such passage"),
        ("the low four bits", "length", "the answer was cut off; --max-tokens"),
    ],
)
def test_what_an_answer_does_not_show_is_said(
    rag: Run, docs: Path, tiny: Path, says: Any, text: str, finish_reason: str, told: str
) -> None:
    rag("add", docs)
    says(text, finish_reason)
    result = rag("ask", "Where is the first value?", "--model", tiny, *ALL)
    assert result.exit_code == 0
    assert told in result.stderr


def test_answer_without_a_source_is_followed_by_the_sentence_to_read(
    rag: Run, docs: Path, tiny: Path, says: Any
) -> None:
    rag("add", docs)
    says("Dogs bark.")
    arguments = ("ask", "In which bits is the first value?", "--model", tiny, *ALL)
    lines = rag(*arguments).stdout.splitlines()
    at = lines.index("Nearest to the question, in the document's words:")
    assert f"{docs / 'packing.md'}, Packing, characters" in lines[at + 1]
    assert lines[at + 2] == "    The first is in the low four bits."
    assert read(rag(*arguments, "--json"))["nearest"]["text"] == lines[at + 2].strip()


# ---- What is wrong -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (("list",), "has no collection; add documents first (mixtral rag add)"),
        (("search", "x"), "has no collection"),
        (("ask", " "), "the question is empty"),
        (("ask", "x", "--min-similarity", 2), "min_similarity is 2"),
        (("add", "no-such-file.txt"), "no-such-file.txt"),
        (("add", "https://example.com/a.html"), "URL"),
        (("add", "x.txt", "--chunk-tokens", 3), "chunk_tokens is 3"),
        (("add", "x.txt", "--chunk-tokens", 192, "--chunk-characters", 512), "leave one out"),
        (("list", "--store", ""), "'' is no place for a collection"),
        (("list", "--store", "~nosuchuser/x"), "the home of nobody here"),
        (("list", "--store", "http://[::1/x"), "is no place for a collection"),
    ],
)
def test_failure_is_one_line(rag: Run, arguments: Sequence[object], part: str) -> None:
    result = rag(*arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    assert part in result.stderr


def test_unknown_document_is_refused_with_near_names(rag: Run, docs: Path) -> None:
    rag("add", docs)
    result = rag("remove", docs.parent / "cats.txt")
    assert result.exit_code == 2
    assert f"did you mean {docs / 'cats.txt'}" in result.stderr
    assert len(read(rag("list", "--json"))["documents"]) == 2


def test_default_store_is_the_same_from_every_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", "/data")
    assert default_store() == Path("/data/mixtral/rag")
    monkeypatch.delenv("XDG_DATA_HOME")
    assert default_store() == Path.home() / ".local" / "share" / "mixtral" / "rag"
