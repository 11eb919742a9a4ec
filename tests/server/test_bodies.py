"""Whatever is sent as a body gets an answer, and a wrong one a flat 4xx that names the mistake."""

import asyncio
import random
from typing import Any

import pytest

from mixtral.errors import ContextLengthExceeded, EngineDead, InvalidRequest, QueueFull
from mixtral.server.body import parse_json
from mixtral.server.errors import ApiError
from tests.server.engine_for_tests import FakeAsyncLLM, chat, client_of, get, make_service, post

PATH = "/v1/chat/completions"


def check_flat(response: Any, status: int) -> dict[str, Any]:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    body = response.json()
    assert set(body) - {"detail"} == {"object", "message", "type", "param", "code"}
    assert body["object"] == "error"
    assert isinstance(body["message"], str)
    assert "\n" not in body["message"]
    assert len(body["message"]) < 1000
    assert ("detail" in body) == (status == 422)
    for entry in body.get("detail", []):
        assert set(entry) == {"loc", "msg", "type"}
    return dict(body)


@pytest.mark.parametrize(
    ("raw", "told"),
    [
        (b"", "not valid JSON"),
        (b"{", "not valid JSON"),
        (b'{"model": NaN}', "not valid JSON"),
        (b'{"temperature": -Infinity}', "not valid JSON"),
        (b'{"temperature": 1e400}', "not valid JSON"),
        (b'{"model": "\xff\xfe"}', "UTF-8"),
        (b'{"model": "\\ud800"}', "surrogate"),
        (b'{"model": "a", "model": "b"}', '"model" stands twice'),
        (b'{"messages": [{"role": "user", "role": "tool"}]}', '"role" stands twice'),
        (
            b"{" + b",".join(b'"%d": 1' % (i % 99_999) for i in range(100_000)) + b"}",
            '"0" stands twice',
        ),
        (b"[" * 10_000 + b"]" * 10_000, "more than 64 levels"),
        (b'{"a":' * 10_000 + b"1" + b"}" * 10_000, "more than 64 levels"),
        (b'{"a":' * 100 + b"1" + b"}" * 100, "more than 64 levels"),
        (b"\x00\x01\x02", "not valid JSON"),
        (b'{"seed": ' + b"9" * 5000 + b"}", "not valid JSON"),
    ],
)
def test_what_is_not_json_is_refused(raw: bytes, told: str) -> None:
    body = check_flat(post(make_service(), PATH, raw), 400)
    assert told in body["message"]
    assert body["code"] == "invalid_json"


@pytest.mark.parametrize("raw", [b"[]", b'"text"', b"1", b"null", b"true"])
def test_json_that_is_no_object_is_refused(raw: bytes) -> None:
    assert "must be an object" in check_flat(post(make_service(), PATH, raw), 422)["message"]


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", ""])
def test_other_content_types_are_refused(content_type: str) -> None:
    async def send() -> Any:
        async with client_of(make_service()) as client:
            headers = {"content-type": content_type} if content_type else {}
            return await client.post(PATH, content=b"{}", headers=headers)

    body = check_flat(asyncio.run(send()), 415)
    assert "Content-Type: application/json" in body["message"]


@pytest.mark.parametrize(
    ("fields", "param", "told"),
    [
        ({"foo": 1}, "foo", "unknown field foo"),
        ({"max_tokens": "5"}, "max_tokens", 'max_tokens is "5"; it must be a valid integer'),
        ({"max_tokens": True}, "max_tokens", "max_tokens is true"),
        ({"max_tokens": 5.5}, "max_tokens", "max_tokens is 5.5"),
        ({"stream": 1}, "stream", "stream is 1; it must be a valid boolean"),
        ({"stop": 5}, "stop", "stop is 5"),
        ({"stop": ["a", 5]}, "stop[1]", "stop[1] is 5"),
        ({"messages": "hi"}, "messages", 'messages is "hi"'),
        ({"messages": ["hi"]}, "messages[0]", 'messages[0] is "hi"'),
        ({"messages": [{"content": "x"}]}, "messages[0].role", "messages[0].role is missing"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content", "is 5"),
        (
            {"messages": [{"role": "user", "content": "x", "mood": "good"}]},
            "messages[0].mood",
            "unknown field messages[0].mood",
        ),
        ({"model": None}, "model", "model is null"),
        ({"tools": {}}, "tools", "tools is a JSON object"),
        ({"tools": [{"type": "function"}]}, "tools[0].function", "is missing"),
        ({"stream_options": []}, "stream_options", "stream_options is a JSON array"),
        ({"logit_bias": [1]}, "logit_bias", "logit_bias is a JSON array"),
    ],
)
def test_wrong_shape_is_422_that_names_the_field(
    fields: dict[str, Any], param: str, told: str
) -> None:
    body = check_flat(post(make_service(), PATH, chat(**fields)), 422)
    assert body["param"] == param
    assert told in body["message"]


@pytest.mark.parametrize("missing", ["model", "messages"])
def test_missing_field_is_422_that_names_it(missing: str) -> None:
    fields = {name: value for name, value in chat().items() if name != missing}
    body = check_flat(post(make_service(), PATH, fields), 422)
    assert body["message"] == f"{missing} is missing; this request needs it."


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"max_tokens": -1}, "max_tokens is -1"),
        ({"temperature": 5.1}, "temperature is 5.1"),
        ({"temperature": -0.1}, "temperature is -0.1"),
        ({"top_p": 0}, "top_p is 0"),
        ({"top_p": 1.1}, "top_p is 1.1"),
        ({"n": 0}, "n is 0"),
        ({"n": 129}, "n is 129"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": 2**64}, "seed is 18446744073709551616"),
        ({"random_seed": 10**30}, "random_seed is 1000000"),
        ({"presence_penalty": 3}, "presence_penalty is 3"),
        ({"repetition_penalty": 0}, "repetition_penalty is 0"),
        ({"repetition_penalty": 5e-324}, "repetition_penalty is 5e-324"),
        ({"stop": ""}, "empty string"),
        ({"stop": ["a"] * 65}, "stop"),
        ({"stop": "a" * 1001}, "a string of 1,001 characters; 1,000 are allowed"),
        ({"logit_bias": {str(i): 1 for i in range(1025)}}, "logit_bias has 1,025 tokens"),
        ({"logit_bias": {"x": 1}}, "logit_bias"),
        ({"logit_bias": {"1": 101}}, "101"),
        ({"min_tokens": 5, "max_tokens": 3}, "min_tokens is 5"),
        ({"min_tokens": 5, "max_tokens": 0}, "min_tokens is 5"),
        ({"top_logprobs": 21, "logprobs": True}, "top_logprobs is 21"),
        ({"top_logprobs": 2}, "logprobs is not true"),
        ({"seed": 1, "random_seed": 2}, "seed is 1 and random_seed is 2"),
        ({"max_tokens": 1, "max_completion_tokens": 2}, "two names of one setting"),
        ({"stream_options": {"include_usage": True}}, "stream is not true"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "boss", "content": "x"}]}, 'messages[0].role is "boss"'),
        ({"messages": [{"role": "user"}]}, "messages[0] has no content"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, "must start with a user"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}]},
            'messages[0].content[0].type is "image_url"',
        ),
        ({"tool_choice": "maybe"}, 'tool_choice is "maybe"'),
        ({"tools": [{"function": {"name": "a b"}}]}, "tools[0].function.name"),
        ({"response_format": {"type": "xml"}}, 'response_format.type is "xml"'),
        ({"response_format": {"type": "json_schema"}}, "needs the field json_schema"),
        ({"response_format": {"type": "text", "regex": "a"}}, "goes with type regex"),
        ({"priority": 101}, "priority is 101"),
    ],
)
def test_wrong_value_is_400_that_names_it(fields: dict[str, Any], told: str) -> None:
    body = check_flat(post(make_service(), PATH, chat(**fields)), 400)
    assert told in body["message"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("reasoning_effort", "high"),
        ("prompt_mode", "reasoning"),
        ("prediction", {"type": "content", "content": "x"}),
        ("guardrails", [{"block_on_error": True}]),
        ("service_tier", "flex"),
        ("store", True),
        ("modalities", ["text", "audio"]),
        ("modalities", ["audio"]),
        ("audio", {"voice": "alloy"}),
        ("web_search_options", {}),
        ("functions", []),
        ("function_call", "auto"),
        ("prompt_logprobs", True),
        ("prompt_logprobs", 1),
        ("top_prompt_logprobs", 1),
        ("verbosity", "low"),
    ],
)
def test_known_field_that_is_not_supported_is_400_with_the_reason(field: str, value: Any) -> None:
    body = check_flat(post(make_service(), PATH, chat(**{field: value})), 400)
    assert body["param"] == field
    assert body["code"] == "unsupported"
    assert body["message"].startswith(f"{field} is ")
    assert "not supported" in body["message"]


def test_unknown_model_is_mistrals_400_and_lists_the_names() -> None:
    body = check_flat(post(make_service(), PATH, chat(model="gpt-4")), 400)
    assert (body["type"], body["code"], body["param"]) == ("invalid_model", "1500", "model")
    assert "mixtral-test" in body["message"]


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (InvalidRequest("wrong."), 400, None),
        (ContextLengthExceeded("too long."), 400, "context_length_exceeded"),
        (QueueFull("full."), 429, "queue_full"),
        (EngineDead("dead."), 503, "engine_dead"),
        (RuntimeError("secret"), 500, None),
    ],
)
def test_errors_of_the_engine_have_their_status(
    error: Exception, status: int, code: str | None
) -> None:
    response = post(make_service(FakeAsyncLLM(error=error)), PATH, chat())
    body = check_flat(response, status)
    assert body["code"] == code
    assert ("retry-after" in response.headers) == (status in (429, 503))
    assert "secret" not in body["message"]


def test_too_many_messages_are_refused() -> None:
    messages = [{"role": "user", "content": "x"}] * 4
    body = check_flat(post(make_service(max_messages=3), PATH, chat(messages=messages)), 400)
    assert body["message"] == "messages has 4 entries; 3 are allowed."


def test_unknown_path_and_wrong_method_have_the_flat_body() -> None:
    assert "/nope" in check_flat(get(make_service(), "/nope"), 404)["message"]
    response = get(make_service(), PATH)
    assert "GET" in check_flat(response, 405)["message"]
    assert response.headers["allow"] == "POST"


def test_large_body_is_read_like_a_small_one() -> None:
    body = check_flat(post(make_service(), PATH, chat("x " * 100_000, foo=1)), 422)
    assert body["param"] == "foo"
    many = chat(messages=[{"role": "user", "content": 5}] * 2000)
    assert len(check_flat(post(make_service(), PATH, many), 422)["detail"]) <= 20


def test_whole_numbers_over_64_bits_keep_their_digits() -> None:
    assert parse_json(b'{"a": 18446744073709551617}', max_depth=64) == {"a": 2**64 + 1}


def test_random_bytes_never_escape_as_another_error() -> None:
    rng = random.Random(0)
    pieces = [
        b'{"a":',
        b"[",
        b"]",
        b"}",
        b'"',
        b"\\u",
        b"d800",
        b",",
        b"1e9",
        b"null",
        b"\xc3",
        b" ",
    ]
    for _ in range(3000):
        raw = b"".join(rng.choice(pieces) for _ in range(rng.randrange(1, 12)))
        try:
            parse_json(raw, max_depth=4)
        except ApiError as error:
            assert error.status in (400, 422)  # noqa: PT017
