"""Streams whose client, engine or clock does something else than wait for the end."""

import asyncio
import json
from typing import Any

import pytest

from mixtral.errors import EngineDead
from tests.server.engine_for_tests import (
    FakeAsyncLLM,
    answer_of,
    asgi_call,
    chat,
    chunk,
    events_of,
    make_service,
    post,
)

PATH = "/v1/chat/completions"
FOREVER_S = 60.0


def metric(service: Any, name: str) -> float:
    value = service.metrics.registry.get_sample_value(f"mixtral_{name}")
    assert value is not None
    return float(value)


def test_error_after_the_stream_began_is_a_piece_and_then_done() -> None:
    llm = FakeAsyncLLM(script=lambda request: [chunk("a"), EngineDead("the engine stopped.")])
    response = post(make_service(llm), PATH, chat(stream=True))
    assert response.status_code == 200
    *pieces, done = events_of(response)
    assert done == "[DONE]"
    last = json.loads(pieces[-1])
    assert last["choices"] == [{"index": 0, "delta": {"content": ""}, "finish_reason": "error"}]
    assert last["error"]["message"] == "the engine stopped."
    assert last["error"]["type"] == "server_error"
    assert last["id"] == json.loads(pieces[0])["id"]


def test_unknown_failure_in_a_stream_tells_nothing_of_ours() -> None:
    llm = FakeAsyncLLM(script=lambda request: [ValueError("secret")])
    response = post(make_service(llm), PATH, chat(stream=True))
    assert "secret" not in response.text
    assert json.loads(events_of(response)[-2])["error"]["type"] == "server_error"


def test_error_before_the_stream_has_a_status() -> None:
    response = post(make_service(FakeAsyncLLM(error=EngineDead("gone."))), PATH, chat(stream=True))
    assert response.status_code == 503
    assert response.headers["retry-after"] == "1"
    assert response.json()["object"] == "error"


def test_silence_is_filled_with_comments_that_are_no_events() -> None:
    llm = FakeAsyncLLM(script=lambda request: [chunk("a"), 0.15, chunk("b", finish_reason="stop")])
    response = post(make_service(llm, keepalive_s=0.03), PATH, chat(stream=True))
    assert response.text.count(": ping\n\n") >= 2
    assert len(events_of(response)) == 4


def test_no_comments_where_they_are_switched_off() -> None:
    llm = FakeAsyncLLM(script=lambda request: [0.05, *answer_of("a")])
    assert "ping" not in post(make_service(llm, keepalive_s=0), PATH, chat(stream=True)).text


@pytest.mark.parametrize("stream", [True, False])
def test_client_that_leaves_cancels_its_generation(stream: bool) -> None:
    llm = FakeAsyncLLM(script=lambda request: [chunk("a"), FOREVER_S])
    service = make_service(llm)

    async def leave_soon() -> None:
        gone = asyncio.Event()
        asyncio.get_running_loop().call_later(0.05, gone.set)
        async with asyncio.timeout(2):
            await asgi_call(service, chat(stream=stream), disconnect=gone)
        assert llm.streams[0].is_cancelled

    asyncio.run(leave_soon())
    assert metric(service, "unfinished_generations_total") == 1


def test_client_that_leaves_cancels_all_of_its_prompts() -> None:
    llm = FakeAsyncLLM(script=lambda request: [chunk("a"), FOREVER_S])
    body = {"model": "mixtral-test", "prompt": ["a", "b", "c"]}

    async def leave_soon() -> None:
        gone = asyncio.Event()
        asyncio.get_running_loop().call_later(0.05, gone.set)
        async with asyncio.timeout(2):
            await asgi_call(make_service(llm), body, path="/v1/completions", disconnect=gone)

    asyncio.run(leave_soon())
    assert [stream.is_cancelled for stream in llm.streams] == [True, True, True]


def test_finished_answer_is_not_cancelled() -> None:
    llm = FakeAsyncLLM()
    for stream in (True, False):
        asyncio.run(asgi_call(make_service(llm), chat(stream=stream)))
    assert not any(stream.is_cancelled for stream in llm.streams)


@pytest.mark.parametrize("keepalive_s", [0, 0.05, 10])
def test_first_token_may_take_longer_than_a_client_may_stop_reading(keepalive_s: float) -> None:
    llm = FakeAsyncLLM(script=lambda request: [0.5, *answer_of("a", "b")])
    service = make_service(llm, write_timeout_s=0.1, keepalive_s=keepalive_s)
    text = post(service, PATH, chat(stream=True)).text
    assert text.endswith("data: [DONE]\n\n")
    assert not llm.streams[0].is_cancelled


def test_reader_that_stops_reading_loses_its_stream() -> None:
    llm = FakeAsyncLLM(script=lambda request: [*answer_of("a", "b", "c")])

    async def stall(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.body":
            await asyncio.sleep(FOREVER_S)

    async def read_slowly() -> None:
        async with asyncio.timeout(2):
            await asgi_call(make_service(llm, write_timeout_s=0.1), chat(stream=True), send=stall)

    asyncio.run(read_slowly())
    assert llm.streams[0].is_cancelled


def test_slow_reader_holds_back_the_source() -> None:
    taken = []

    def script(request: Any) -> Any:
        for piece in answer_of(*"abcdefgh"):
            taken.append(piece)
            yield piece

    async def read_two() -> None:
        gate = asyncio.Semaphore(3)  # start, and two bodies

        async def send(message: dict[str, Any]) -> None:
            await gate.acquire()

        gone = asyncio.Event()
        asyncio.get_running_loop().call_later(0.1, gone.set)
        llm = FakeAsyncLLM(script=script)
        await asgi_call(make_service(llm), chat(stream=True), send=send, disconnect=gone)

    asyncio.run(read_two())
    assert len(taken) <= 3


def test_answer_over_the_time_limit_is_ended_and_not_tried_again() -> None:
    llm = FakeAsyncLLM(script=lambda request: [chunk("a"), FOREVER_S])
    service = make_service(llm, request_timeout_s=0.05)
    response = post(service, PATH, chat())
    assert response.status_code == 408
    assert response.headers["x-should-retry"] == "false"
    assert "0.05 s" in response.json()["message"]
    *pieces, _ = events_of(post(service, PATH, chat(stream=True)))
    assert json.loads(pieces[-1])["error"]["code"] == "timeout"
    assert all(stream.is_cancelled for stream in llm.streams)


def test_times_and_tokens_of_a_stream_are_counted() -> None:
    service = make_service()
    post(service, PATH, chat(stream=True))
    post(service, PATH, chat())
    for name in (
        "time_to_first_token_seconds",
        "time_per_output_token_seconds",
        "request_duration_seconds",
    ):
        assert metric(service, f"{name}_count") == 2
