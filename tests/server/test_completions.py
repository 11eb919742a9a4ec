"""/v1/completions and /v1/fim/completions."""

import json
from typing import Any

import pytest

from mixtral.engine import SamplingParams
from tests.server.engine_for_tests import (
    FakeAsyncLLM,
    answer_of,
    choice,
    chunk,
    events_of,
    make_service,
    post,
    route,
)

PATH = "/v1/completions"
FIM = "/v1/fim/completions"


def ask(llm: FakeAsyncLLM | None = None, **fields: Any) -> Any:
    return post(make_service(llm), PATH, {"model": "mixtral-test", "prompt": "Hi", **fields})


def test_answer_is_a_text_completion_of_at_most_16_tokens() -> None:
    llm = FakeAsyncLLM()
    body = ask(llm).json()
    assert body["object"] == "text_completion"
    assert body["choices"] == [
        {"index": 0, "text": "Hello world", "logprobs": None, "finish_reason": "stop"}
    ]
    assert body["usage"]["total_tokens"] == 9
    assert llm.submitted[0].params == SamplingParams(max_tokens=16)
    assert llm.submitted[0].prompt_token_ids == llm.tokenizer.encode("Hi")


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        (["a", "b"], ["a", "b"]),
        ([1, 2, 3], [[1, 2, 3]]),
        ([[1, 2], [3]], [[1, 2], [3]]),
        ("", [""]),
    ],
)
def test_every_form_of_prompt_is_read(prompt: Any, expected: list[Any]) -> None:
    llm = FakeAsyncLLM()
    body = ask(llm, prompt=prompt).json()
    encode = llm.tokenizer.encode
    prompts = [encode(p) if isinstance(p, str) else p for p in expected]
    assert [request.prompt_token_ids for request in llm.submitted] == prompts
    assert [choice["index"] for choice in body["choices"]] == list(range(len(prompts)))
    assert body["usage"]["prompt_tokens"] == 7 * len(prompts)


def test_answers_of_several_prompts_are_numbered_prompt_by_prompt() -> None:
    def script(request: Any) -> Any:
        word = {1: "a", 2: "b"}[request.prompt_token_ids[0]]
        return [*answer_of(word + "0"), *answer_of(word + "1", index=1)]

    fields = {"prompt": [[1], [2]], "n": 2}
    body = ask(FakeAsyncLLM(script=script), **fields).json()
    assert [c["text"] for c in body["choices"]] == ["a0", "a1", "b0", "b1"]
    assert body["usage"] == {"prompt_tokens": 14, "completion_tokens": 4, "total_tokens": 18}
    *events, done = events_of(ask(FakeAsyncLLM(script=script), stream=True, **fields))
    pieces = [json.loads(event) for event in events]
    assert done == "[DONE]"
    assert {(p["choices"][0]["index"], p["choices"][0]["text"]) for p in pieces} == {
        (0, "a0"),
        (1, "a1"),
        (2, "b0"),
        (3, "b1"),
    }
    assert pieces[-1]["usage"] == body["usage"]


def test_echo_repeats_each_prompt() -> None:
    body = ask(prompt=["One", "Two"], echo=True).json()
    assert [c["text"] for c in body["choices"]] == ["OneHello world", "TwoHello world"]
    llm = FakeAsyncLLM()
    ids = llm.tokenizer.encode("Three")
    *events, _ = events_of(ask(llm, prompt=ids, echo=True, stream=True))
    assert json.loads(events[0])["choices"][0]["text"] == "Three"


def test_logprobs_have_openais_four_lists() -> None:
    def script(request: Any) -> Any:
        return [
            chunk("a", logprobs=[choice(23325)]),
            chunk("b", position=2, logprobs=[choice(1291)], finish_reason="stop"),
        ]

    llm = FakeAsyncLLM(script=script)
    logprobs = ask(llm, logprobs=2).json()["choices"][0]["logprobs"]
    assert llm.submitted[0].params.logprobs == 2
    spell = llm.tokenizer.decode_token
    assert logprobs["tokens"] == [spell(23325), spell(1291)]
    assert logprobs["token_logprobs"] == [-0.5, -0.5]
    assert logprobs["top_logprobs"][0] == {spell(23325): -0.5, spell(23326): -1.5}
    assert logprobs["text_offset"] == [0, len(spell(23325))]
    *events, _ = events_of(ask(FakeAsyncLLM(script=script), logprobs=2, stream=True))
    streamed = [json.loads(event)["choices"][0]["logprobs"]["text_offset"] for event in events]
    assert streamed == [[0], [len(spell(23325))]]


def test_routing_is_reported() -> None:
    llm = FakeAsyncLLM(
        script=lambda request: [chunk("a", routing=[route(5)], finish_reason="stop")]
    )
    assert ask(llm, routing=True).json()["choices"][0]["routing"][0]["token_id"] == 5


def test_error_of_a_stream_is_a_piece_of_its_own_shape() -> None:
    llm = FakeAsyncLLM(script=lambda request: [chunk("a"), ValueError("x")])
    *events, done = events_of(ask(llm, stream=True, prompt=["a", "b"]))
    assert done == "[DONE]"
    last = json.loads(events[-1])
    assert last["choices"][0]["finish_reason"] == "error"
    assert last["choices"][0]["text"] == ""
    assert last["error"]["type"] == "server_error"


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"suffix": "x"}, "/v1/fim/completions"),
        ({"best_of": 2}, "best_of is 2 and n is 1"),
        ({"logprobs": 6}, "logprobs is 6"),
        ({"echo": True, "logprobs": 1}, "Leave one out"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [[]]}, "prompt"),
        ({"prompt": ["a"] * 129}, "prompt"),
        ({"prompt": ["a"] * 65, "n": 2}, "130 answers"),
        ({"prompt": [-1]}, "prompt"),
    ],
)
def test_wrong_values_are_refused(fields: dict[str, Any], told: str) -> None:
    response = ask(**fields)
    assert response.status_code == 400, response.text
    assert told in response.json()["message"]


@pytest.mark.parametrize("prompt", [5, [1, "a"], ["a", 1], [[1], "a"], None])
def test_mixed_prompts_are_refused_by_shape(prompt: Any) -> None:
    assert ask(prompt=prompt).status_code == 422


def test_when_one_prompt_is_refused_the_others_are_cancelled() -> None:
    llm = FakeAsyncLLM()
    submit = llm.submit

    def refuse_second(request: Any) -> Any:
        if llm.streams:
            llm.error = ValueError("no")
        return submit(request)

    llm.submit = refuse_second  # type: ignore[method-assign]
    assert ask(llm, prompt=["a", "b"]).status_code == 500
    assert [stream.is_cancelled for stream in llm.streams] == [True]


def test_fim_is_answered_like_a_chat() -> None:
    llm = FakeAsyncLLM()
    fields = {"model": "mixtral-test", "prompt": "def f():", "suffix": "return 1", "stop": ["\n"]}
    body = post(make_service(llm), FIM, fields).json()
    assert body["object"] == "chat.completion"
    assert body["choices"][0]["message"]["content"] == "Hello world"
    assert llm.submitted[0].prompt_token_ids == llm.tokenizer.encode_fim("def f():", "return 1")
    assert llm.submitted[0].params.stop == ("\n",)
    *events, done = events_of(post(make_service(llm), FIM, {**fields, "stream": True}))
    assert done == "[DONE]"
    assert json.loads(events[0])["object"] == "chat.completion.chunk"


def test_fim_without_suffix_is_taken() -> None:
    fields = {"model": "mixtral-test", "prompt": "a", "suffix": None, "top_p": 1.0}
    assert post(make_service(), FIM, fields).status_code == 200


def test_fim_on_a_v1_model_is_refused_with_the_reason() -> None:
    service = make_service(FakeAsyncLLM(version="v1"))
    response = post(service, FIM, {"model": "mixtral-test", "prompt": "a", "suffix": "b"})
    assert response.status_code == 400
    assert "[SUFFIX]" in response.json()["message"]
