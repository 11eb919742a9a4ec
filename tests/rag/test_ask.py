"""From a question to an answer: what is relevant, what the model is asked, what comes back."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from mixtral.engine import SamplingParams
from mixtral.errors import ConfigError, ContextLengthExceeded, InvalidRequest
from mixtral.outputs import CompletionChunk, Usage
from mixtral.rag.ask import Ask, RagAnswer, answer_from, ask, room_for_prompt
from mixtral.rag.prompt import NOT_FOUND
from mixtral.tokenizer import load_tokenizer
from tests.rag.ask_for_tests import CATS, INT4, FakeCollection, passage

QUESTION = "Where is the first value?"


class FakeLLM:
    """Says what it is told to; counts with the real tokenizer."""

    def __init__(self, *texts: str, max_model_len: int = 4096) -> None:
        self.max_model_len = max_model_len
        self.asked: list[tuple[Any, SamplingParams]] = []
        self._texts = texts

    def encode_chat(self, messages: Any) -> list[int]:
        return load_tokenizer("v3").encode_chat(messages)

    def stream_chat(self, messages: Any, params: SamplingParams) -> Iterator[CompletionChunk]:
        self.asked.append((messages, params))
        for number, text in enumerate(self._texts, start=1):
            yield CompletionChunk(
                text=text,
                token_ids=[number],
                finish_reason="stop" if number == len(self._texts) else None,
                usage=Usage(prompt_tokens=50, completion_tokens=number),
            )


@pytest.fixture
def collection() -> FakeCollection:
    collection = FakeCollection()
    collection.add_bytes("packing.md", INT4.encode())
    collection.add_bytes("cats.md", CATS.encode())
    return collection


def run(llm: FakeLLM, collection: FakeCollection, **options: Any) -> RagAnswer:
    return ask(llm, collection, QUESTION, **options)  # type: ignore[arg-type]


def test_answer_has_its_text_its_source_and_what_was_shown(collection: FakeCollection) -> None:
    heard: list[str] = []
    llm = FakeLLM(" in the", " low", " four bits")
    answer = run(llm, collection, on_text=heard.append)
    assert answer.text == "in the low four bits"
    assert "".join(heard).strip() == answer.text
    assert answer.is_found
    assert [one.source for one in answer.passages] == ["packing.md", "cats.md"]
    (citation,) = answer.citations
    assert collection.text_of(citation.passage.document_id)[citation.start : citation.end] == (
        "The first is in the low four bits."
    )
    assert answer.usage == Usage(prompt_tokens=50, completion_tokens=3)
    ((messages, params),) = llm.asked
    assert f"Query: {QUESTION}\nAnswer:" in messages[0]["content"]
    assert params == SamplingParams(temperature=0.0, max_tokens=256)


def test_model_is_not_asked_where_nothing_is_relevant(collection: FakeCollection) -> None:
    collection.similarity = 0.05
    heard: list[str] = []
    llm = FakeLLM("something made up")
    answer = run(llm, collection, on_text=heard.append)
    assert llm.asked == []
    assert heard == [answer.text] == [NOT_FOUND]
    assert not answer.is_found
    assert (answer.citations, answer.passages, answer.usage) == ([], [], None)


def test_empty_collection_has_no_answer() -> None:
    assert not run(FakeLLM("made up"), FakeCollection()).is_found


@pytest.mark.parametrize(
    "text", ["Not in the documents.", " not in  the documents", "The text does not say.", ""]
)
def test_model_that_finds_nothing_gives_no_citation(collection: FakeCollection, text: str) -> None:
    answer = run(FakeLLM(text), collection)
    assert not answer.is_found
    assert answer.citations == []
    assert len(answer.passages) == 2
    assert answer.nearest is not None
    assert (
        answer.nearest.text == "Two values share a byte."
    )  # of two with one word each the shorter


def test_answer_with_a_source_needs_no_other_place_to_read(collection: FakeCollection) -> None:
    assert run(FakeLLM("the low four bits"), collection).nearest is None
    named_alone = run(FakeLLM("Dogs bark at night [1]."), collection)
    assert [citation.is_supported for citation in named_alone.citations] == [False]
    assert named_alone.nearest is not None
    assert run(FakeLLM("made up"), FakeCollection()).nearest is None


@pytest.mark.parametrize(
    ("similarity", "question", "expected"),
    [
        (0.9, "Something else entirely?", True),
        (0.3, "Which bits are low?", True),
        (0.3, "Which bits are for colour and sound?", False),
        (0.1, "Which bits are low?", False),
        (0.3, "What is it?", False),
    ],
)
def test_passage_is_relevant_by_similarity_or_by_similarity_and_words(
    similarity: float, question: str, expected: bool
) -> None:
    settings = Ask(sure_similarity=0.5, min_similarity=0.2, min_keyword_share=0.5)
    assert settings.is_relevant(question, passage(similarity=similarity)) is expected


def test_title_and_heading_count_as_words_of_a_passage() -> None:
    settings = Ask(sure_similarity=0.5, min_similarity=0.2)
    weak = passage(similarity=0.3, title="Colours", heading="Sound")
    assert settings.is_relevant("Which colours, which sound?", weak)


@pytest.mark.parametrize("name", ["sure_similarity", "min_similarity", "min_keyword_share"])
def test_thresholds_outside_their_range_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name} is 1.5"):
        Ask(**{name: 1.5})


def test_prompt_and_answer_fit_into_a_short_context(collection: FakeCollection) -> None:
    collection.texts["packing.md"] = INT4 * 9
    llm = FakeLLM("x", max_model_len=240)
    answer = run(llm, collection)
    ((messages, params),) = llm.asked
    assert params.max_tokens is not None
    assert len(llm.encode_chat(messages)) + params.max_tokens <= 240
    assert (answer.num_left_out, answer.is_cut) == (1, True)


def test_answer_longer_than_the_context_is_refused(collection: FakeCollection) -> None:
    with pytest.raises(ContextLengthExceeded):
        run(FakeLLM("x"), collection, params=SamplingParams(max_tokens=5000))


def test_empty_question_is_refused_before_the_search() -> None:
    with pytest.raises(InvalidRequest, match="the question is empty"):
        ask(FakeLLM("x"), FakeCollection(), "  ")  # type: ignore[arg-type]


def test_json_has_every_key_of_the_interface() -> None:
    answer = answer_from(
        FakeLLM("the low four bits [2], [5]"),  # type: ignore[arg-type]
        QUESTION,
        [passage(CATS), passage(INT4, page=2, heading="Layout")],
    )
    body = json.loads(json.dumps(answer.as_dict()))
    assert body["object"] == "rag.answer"
    assert body["answer"] == "the low four bits [2], [5]"
    assert body["is_found"] is True
    assert body["unknown_numbers"] == [5]
    assert body["finish_reason"] == "stop"
    assert body["usage"] == {"prompt_tokens": 50, "completion_tokens": 1, "total_tokens": 51}
    (citation,) = body["citations"]
    wanted = {"number", "document_id", "source", "title", "page", "start", "end", "text"}
    assert wanted <= set(citation)
    assert (citation["number"], citation["page"], citation["heading"]) == (2, 2, "Layout")
    assert body["nearest"] is None
    assert set(body["passages"][0]) == {
        *("id", "document_id", "source", "title", "page", "start", "end", "heading", "text"),
        *("score", "similarity"),
    }


@pytest.mark.parametrize(
    ("max_model_len", "max_tokens", "room"),
    [(32_768, None, 32_512), (400, None, 300), (2048, 48, 2000), (100, 200, -100)],
)
def test_room_for_the_prompt_is_what_the_answer_leaves(
    max_model_len: int, max_tokens: int | None, room: int
) -> None:
    assert room_for_prompt(max_model_len, max_tokens) == room
