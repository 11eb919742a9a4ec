"""A model behind a server of OpenAI's API, over a real socket."""

from typing import Any

import pytest

from mixtral.agent import Agent, HttpModel
from mixtral.agent.http_model import _settings
from mixtral.engine.sampling_params import SamplingParams
from mixtral.errors import (
    ConfigError,
    ContextLengthExceeded,
    EngineError,
    InvalidRequest,
    QueueFull,
)
from tests.agent.scripted import calls, completion, says, scripted_server


def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


def test_a_whole_run_over_http() -> None:
    with scripted_server(calls(("add", {"a": 2, "b": 3})), says("5.")) as server:
        model = HttpModel(server.url, model="nano", api_key="secret")
        run = Agent(model, [add], tool_choice="any").run("2 + 3?")
    assert (run.text, run.finish_reason) == ("5.", "stop")
    assert run.calls[0].result == "5"
    assert run.steps[1].prompt_tokens == 11
    assert server.paths == ["/v1/chat/completions"] * 2
    assert server.keys == ["Bearer secret"] * 2
    first, second = server.bodies
    assert first["model"] == "nano"
    assert first["tool_choice"] == "required"
    assert second["tool_choice"] == "auto"
    assert second["messages"] == run.messages[:-1]
    assert first["tools"][0]["function"]["parameters"]["required"] == ["a", "b"]


def test_without_tools_nothing_is_said_of_them() -> None:
    with scripted_server(says("Hello.")) as server:
        Agent(HttpModel(server.url + "/v1/", model="nano")).run("Hello?")
    assert set(server.bodies[0]) == {"model", "messages"}
    assert server.paths == ["/v1/chat/completions"]


def test_settings_that_differ_from_their_defaults_are_sent() -> None:
    params = SamplingParams(temperature=0.0, stop=("a", "b"), max_tokens=9)
    assert _settings(params) == {"temperature": 0.0, "stop": ["a", "b"], "max_tokens": 9}
    assert _settings(SamplingParams()) == _settings(None) == {}


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (400, {"error": {"message": "wrong"}}, InvalidRequest),
        (
            400,
            {"error": {"message": "m", "code": "context_length_exceeded"}},
            ContextLengthExceeded,
        ),
        (401, {"message": "no key"}, InvalidRequest),
        (429, {"error": "busy"}, QueueFull),
        (500, [1], EngineError),
        (200, {"choices": []}, EngineError),
        (200, [1], EngineError),
        (200, {**completion(says("Hello.")), "usage": {"prompt_tokens": 1e999}}, EngineError),
    ],
)
def test_answers_that_are_none_are_errors(status: int, body: Any, kind: type[Exception]) -> None:
    with scripted_server((status, body)) as server, pytest.raises(kind) as caught:
        Agent(HttpModel(server.url, model="nano")).run("Hello?")
    assert type(caught.value) is kind


def test_calls_of_other_servers_are_understood() -> None:
    message = {
        "content": [{"type": "text", "text": "Let me see."}],
        "tool_calls": [{"function": {"name": "add", "arguments": {"a": 1, "b": 1}}}],
    }
    body = {"choices": [{"message": message, "finish_reason": "stop"}]}
    with scripted_server((200, body), says("2.")) as server:
        run = Agent(HttpModel(server.url, model="nano"), [add]).run("1 + 1?")
    assert run.steps[0].text == "Let me see."
    assert run.calls[0].result == "2"
    assert len(run.calls[0].id) == 9


def test_half_of_a_surrogate_pair_becomes_a_replacement_character() -> None:
    call = {"id": "a\ud83d", "function": {"name": "add\udc00", "arguments": '{"a": "\ud83d"}'}}
    message = {"content": "so \ud83d", "tool_calls": [call]}
    body = {"choices": [{"message": message, "finish_reason": "tool_calls"}]}
    with scripted_server((200, body), says("2.")) as server:
        run = Agent(HttpModel(server.url, model="nano"), [add]).run("1 + 1?")
    assert run.steps[0].text == "so \ufffd"
    assert run.calls[0].name == "add\ufffd"
    assert run.calls[0].arguments == '{"a": "\ufffd"}'
    assert run.calls[0].id == "a\ufffd"
    assert run.text == "2."


@pytest.mark.parametrize("key", ["schlüssel", "secret\n", " secret", "", "a\x00b"])
def test_key_that_no_header_can_hold_is_refused_and_not_shown(key: str) -> None:
    with pytest.raises(ConfigError, match="the API key cannot be sent") as caught:
        HttpModel("http://127.0.0.1:1", model="nano", api_key=key)
    assert not key.strip() or key.strip() not in str(caught.value)


@pytest.mark.parametrize("content", ["\ud83d", float("nan"), object()])
def test_conversations_that_json_cannot_hold_are_refused(content: object) -> None:
    question = [{"role": "user", "content": content}]
    with scripted_server() as server, pytest.raises(InvalidRequest, match="cannot be written"):
        Agent(HttpModel(server.url, model="nano")).run(question)


def test_call_that_is_asked_for_without_tools_is_refused() -> None:
    with scripted_server() as server, pytest.raises(InvalidRequest, match="there are no tools"):
        Agent(HttpModel(server.url, model="nano"), tool_choice="any").run("Hello?")


@pytest.mark.parametrize("timeout_s", [1e7, 1e300])
def test_limit_longer_than_a_socket_can_wait_is_taken(timeout_s: float) -> None:
    with scripted_server(says("Hello.")) as server:
        run = Agent(HttpModel(server.url, model="nano"), timeout_s=timeout_s).run("Hello?")
    assert run.text == "Hello."


def test_slow_server_ends_the_run_and_not_the_program() -> None:
    with scripted_server(says("late")) as server:
        server.may_answer.clear()
        run = Agent(HttpModel(server.url, model="nano"), timeout_s=0.1).run("Hello?")
    assert (run.text, run.finish_reason) == ("", "timeout")


def test_absent_server_and_wrong_address_are_said() -> None:
    with scripted_server() as server:
        url = server.url
    with pytest.raises(EngineError, match="cannot be reached"):
        Agent(HttpModel(url, model="nano")).run("Hello?")
    with pytest.raises(ConfigError, match="must begin with http"):
        HttpModel("localhost:8000", model="nano")
