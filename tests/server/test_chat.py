"""What goes in and out of /v1/chat/completions when nothing goes wrong."""

import json
from typing import Any

import pytest

from mixtral.engine import SamplingParams
from tests.server.engine_for_tests import (
    FakeAsyncLLM,
    answer_of,
    chat,
    choice,
    chunk,
    events_of,
    make_service,
    post,
    route,
    tool_call,
)

PATH = "/v1/chat/completions"


def params_of(**fields: Any) -> SamplingParams:
    llm = FakeAsyncLLM()
    response = post(make_service(llm), PATH, chat(**fields))
    assert response.status_code == 200, response.text
    params = llm.submitted[0].params
    assert isinstance(params, SamplingParams)
    return params


def request_of(body: dict[str, Any], *, version: str = "v3") -> Any:
    llm = FakeAsyncLLM(version=version)
    response = post(make_service(llm), PATH, body)
    assert response.status_code == 200, response.text
    return llm.submitted[0]


def stream_of(llm: FakeAsyncLLM, **fields: Any) -> list[dict[str, Any]]:
    events = events_of(post(make_service(llm), PATH, chat(stream=True, **fields)))
    assert events[-1] == "[DONE]"
    return [json.loads(event) for event in events[:-1]]


def test_answer_has_text_usage_and_the_name_that_was_asked_for() -> None:
    body = post(make_service(), PATH, chat(model="mistral-small-latest")).json()
    assert body["object"] == "chat.completion"
    assert body["model"] == "mistral-small-latest"
    assert body["choices"][0]["message"] == {
        "role": "assistant",
        "content": "Hello world",
        "tool_calls": None,
    }
    assert body["choices"][0]["finish_reason"] == "stop"
    assert body["usage"] == {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9}


def test_prompt_is_the_official_template_of_the_messages() -> None:
    llm = FakeAsyncLLM()
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    post(make_service(llm), PATH, chat(messages=messages))
    assert llm.submitted[0].prompt_token_ids == llm.tokenizer.encode_chat(messages)


def test_fields_of_mistral_openai_and_ours_reach_the_engine() -> None:
    params = params_of(
        temperature=0.5,
        top_p=0.9,
        top_k=40,
        min_p=0.05,
        max_tokens=12,
        min_tokens=2,
        stop="END",
        random_seed=7,
        n=1,
        presence_penalty=0.5,
        frequency_penalty=-0.5,
        repetition_penalty=1.1,
        logit_bias={"17": -100, "18": 2.5},
        ignore_eos=True,
        logprobs=True,
        top_logprobs=3,
    )
    assert params == SamplingParams(
        temperature=0.5,
        top_p=0.9,
        top_k=40,
        min_p=0.05,
        max_tokens=12,
        min_tokens=2,
        stop=("END",),
        seed=7,
        presence_penalty=0.5,
        frequency_penalty=-0.5,
        repetition_penalty=1.1,
        logit_bias={17: -100, 18: 2.5},
        ignore_eos=True,
        logprobs=3,
    )


def test_absent_and_null_fields_take_the_defaults() -> None:
    nulls = dict.fromkeys(
        ("temperature", "top_p", "max_tokens", "stop", "random_seed", "seed", "n", "tools", "user")
    )
    assert params_of() == SamplingParams() == params_of(**nulls)


@pytest.mark.parametrize(
    "fields",
    [
        {"max_completion_tokens": 9},
        {"max_tokens": 9},
        {"max_tokens": 9, "max_completion_tokens": 9},
    ],
)
def test_both_names_of_max_tokens_are_one_setting(fields: dict[str, int]) -> None:
    assert params_of(**fields).max_tokens == 9


@pytest.mark.parametrize("fields", [{"seed": 5}, {"random_seed": 5}, {"seed": 5, "random_seed": 5}])
def test_both_names_of_the_seed_are_one_setting(fields: dict[str, int]) -> None:
    assert params_of(**fields).seed == 5


def test_safe_prompt_puts_the_official_text_first() -> None:
    request = request_of(chat(safe_prompt=True))
    tokenizer = FakeAsyncLLM().tokenizer
    assert "Always assist with care" in tokenizer.decode(request.prompt_token_ids)


def test_last_message_with_prefix_is_continued() -> None:
    messages = [
        {"role": "user", "content": "Count."},
        {"role": "assistant", "content": "One, two,", "prefix": True},
    ]
    request = request_of(chat(messages=messages))
    assert request.continues_prompt
    assert request.prompt_token_ids[-1] != FakeAsyncLLM().tokenizer.eos_id


def test_history_as_each_client_writes_it_is_read() -> None:
    call = {"function": {"name": "f", "arguments": "{}"}, "id": "abcDEF123"}
    messages = [
        {"role": "developer", "content": [{"type": "text", "text": "Be brief."}]},
        {"role": "user", "content": "Hi", "name": "bob"},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{**call, "type": "function", "index": 0}],
            "prefix": False,
            "refusal": None,
            "audio": None,
            "function_call": None,
            "annotations": [],
        },
        {"role": "tool", "name": "f", "content": "3"},
        {"role": "assistant", "content": "three"},
        {"role": "user", "content": "Again"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "abcDEF123", "content": "3"},
    ]
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    assert request_of(chat(messages=messages, tools=[tool])).tool_plan is not None


def test_harmless_values_of_unsupported_fields_are_taken() -> None:
    params_of(
        reasoning_effort="none",
        prompt_mode=None,
        prediction={"type": "content", "content": ""},
        guardrails=[],
        service_tier="auto",
        store=False,
        modalities=["text"],
        prompt_logprobs=None,
        parallel_tool_calls=True,
        metadata={"a": 1},
        prompt_cache_key="k",
        user="u",
    )


def test_stream_has_the_role_first_then_text_and_usage_in_the_last_piece() -> None:
    pieces = stream_of(FakeAsyncLLM())
    assert [piece["choices"][0]["delta"] for piece in pieces] == [
        {"role": "assistant", "content": ""},
        {"content": "Hello"},
        {"content": " world"},
    ]
    assert [piece["choices"][0]["finish_reason"] for piece in pieces] == [None, None, "stop"]
    assert len({piece["id"] for piece in pieces}) == 1
    assert ["usage" in piece for piece in pieces] == [False, False, True]
    assert pieces[-1]["usage"]["total_tokens"] == 9


def test_include_usage_sends_it_in_a_piece_without_choices_and_only_there() -> None:
    pieces = stream_of(FakeAsyncLLM(), stream_options={"include_usage": True})
    assert [piece["choices"] == [] for piece in pieces] == [False, False, False, True]
    assert [piece for piece in pieces if "usage" in piece] == [pieces[-1]]


def test_pieces_that_show_nothing_are_not_sent() -> None:
    llm = FakeAsyncLLM(script=lambda request: answer_of("", "", "é", ""))
    deltas = [piece["choices"][0]["delta"]["content"] for piece in stream_of(llm)]
    assert deltas == ["", "é", ""]


def test_n_answers_keep_their_index_and_the_prompt_counts_once() -> None:
    def script(request: Any) -> list[Any]:
        first, second = answer_of("a", "b"), answer_of("c", "d", index=1)
        return [first[0], second[0], second[1], first[1]]

    body = post(make_service(FakeAsyncLLM(script=script)), PATH, chat(n=2)).json()
    assert [c["message"]["content"] for c in body["choices"]] == ["ab", "cd"]
    assert body["usage"] == {"prompt_tokens": 7, "completion_tokens": 4, "total_tokens": 11}
    pieces = stream_of(FakeAsyncLLM(script=script), n=2)
    assert [piece["choices"][0]["index"] for piece in pieces] == [0, 0, 1, 1, 1, 0]
    assert pieces[-1]["usage"] == body["usage"]
    assert [p for p in pieces if "usage" in p] == [pieces[-1]]


def test_tool_calls_have_empty_content_and_all_keys() -> None:
    calls = [tool_call("f", '{"x":1}', "aaaaaaaa1"), tool_call("g", "{}", "aaaaaaaa2")]

    def script(request: Any) -> list[Any]:
        return [
            chunk("", tool_calls=calls[:1]),
            chunk("", position=2, tool_calls=calls[1:], finish_reason="tool_calls"),
        ]

    body = post(make_service(FakeAsyncLLM(script=script)), PATH, chat()).json()
    message = body["choices"][0]["message"]
    assert message["content"] == ""
    assert message["tool_calls"] == [
        {
            "id": "aaaaaaaa1",
            "type": "function",
            "function": {"name": "f", "arguments": '{"x":1}'},
            "index": 0,
        },
        {
            "id": "aaaaaaaa2",
            "type": "function",
            "function": {"name": "g", "arguments": "{}"},
            "index": 1,
        },
    ]
    assert body["choices"][0]["finish_reason"] == "tool_calls"
    pieces = stream_of(FakeAsyncLLM(script=script))
    sent = [c for p in pieces for c in p["choices"][0]["delta"].get("tool_calls", [])]
    assert sent == message["tool_calls"]
    assert pieces[-1]["choices"][0]["finish_reason"] == "tool_calls"


def test_logprobs_have_token_id_bytes_and_alternatives() -> None:
    def script(request: Any) -> list[Any]:
        return [chunk("x", finish_reason="stop", logprobs=[choice(997)])]

    llm = FakeAsyncLLM(script=script)
    fields = {"logprobs": True, "top_logprobs": 2}
    body = post(make_service(llm), PATH, chat(**fields)).json()
    (entry,) = body["choices"][0]["logprobs"]["content"]
    assert entry["token"] == "bytes:\\xe2"
    assert entry["bytes"] == [0xE2]
    assert entry["token_id"] == 997
    assert [t["token_id"] for t in entry["top_logprobs"]] == [997, 998]
    assert stream_of(llm, **fields)[-1]["choices"][0]["logprobs"]["content"] == [entry]


def test_without_logprobs_the_key_is_null_in_the_whole_answer() -> None:
    assert post(make_service(), PATH, chat()).json()["choices"][0]["logprobs"] is None


def test_routing_reports_the_experts_of_every_token() -> None:
    def script(request: Any) -> list[Any]:
        return [chunk("x", routing=[route(1), route(2)]), chunk("y", finish_reason="stop")]

    llm = FakeAsyncLLM(script=script)
    body = post(make_service(llm), PATH, chat(routing=True)).json()
    assert llm.submitted[0].needs_routing
    routing = body["choices"][0]["routing"]
    assert [entry["token_id"] for entry in routing] == [1, 2]
    assert routing[0]["expert_ids"] == [[0, 3], [2, 1]]
    assert routing[0]["routing_weights"] == [[0.75, 0.25], [0.5, 0.5]]
    assert stream_of(llm, routing=True)[1]["choices"][0]["routing"] == routing


def test_max_tokens_zero_reads_the_prompt_and_answers_nothing() -> None:
    llm = FakeAsyncLLM()
    body = post(make_service(llm), PATH, chat(max_tokens=0, n=2)).json()
    assert llm.submitted == []
    assert [c["message"]["content"] for c in body["choices"]] == ["", ""]
    assert {c["finish_reason"] for c in body["choices"]} == {"length"}
    num_prompt = len(llm.tokenizer.encode_chat([{"role": "user", "content": "Hi"}]))
    assert body["usage"]["prompt_tokens"] == num_prompt
    assert body["usage"]["completion_tokens"] == 0


def test_response_format_and_tools_reach_the_builder() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "null", "default": None}}}
    json_schema = {"name": "x", "schema": schema, "strict": True}
    body = chat(response_format={"type": "json_schema", "json_schema": json_schema})
    assert request_of(body).grammar is not None
    assert request_of(chat(response_format={"type": "text"})).grammar is None
