"""Connections of clients that are slow, rude or no HTTP at all, over real sockets."""

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvicorn

from mixtral.server.connection import MAX_HEADER_BYTES, connection_factory
from mixtral.server.settings import ServerSettings
from tests.server.operation.asgi_for_tests import FIELDS, EchoApp, Guarded

SETTINGS = ServerSettings(
    header_timeout_s=0.2, body_timeout_s=0.3, max_body_mb=0.1, idle_timeout_s=1.0
)
POST = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n"
Scenario = Callable[[int], Awaitable[None]]


@asynccontextmanager
async def served(app: EchoApp | None = None) -> AsyncIterator[int]:
    """Serve the small application; the value is its port."""
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setblocking(False)
    config = uvicorn.Config(
        Guarded(settings=SETTINGS, app=app or EchoApp()).asgi,
        http=connection_factory(SETTINGS),  # type: ignore[arg-type]
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        timeout_keep_alive=1,
    )
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve([listener]))
    while not server.started:
        await asyncio.sleep(0.005)
    try:
        yield listener.getsockname()[1]
    finally:
        server.should_exit = True
        await task


def run(scenario: Scenario, app: EchoApp | None = None) -> None:
    async def main() -> None:
        async with asyncio.timeout(20), served(app) as port:
            await scenario(port)

    asyncio.run(main())


async def talk(port: int, *parts: "bytes | float") -> bytes:
    """Send parts, sleep for the numbers among them, and return all until the other end closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        for part in parts:
            if isinstance(part, float):
                await asyncio.sleep(part)
            else:
                writer.write(part)
                await writer.drain()
        return await reader.read()
    except ConnectionError:
        return b""
    finally:
        writer.close()


def status_and_body(answer: bytes) -> tuple[int, dict[str, Any]]:
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)


@pytest.mark.parametrize(
    "parts",
    [
        (POST,),
        (b"POST /v1/x HT",),
        (POST, 0.1, b"X-Slow: a\r\n", 0.05, b"X-Slow: b\r\n"),
    ],
)
def test_headers_that_stop_or_trickle_get_408(parts: "tuple[bytes | float, ...]") -> None:
    async def scenario(port: int) -> None:
        began = time.perf_counter()
        status, body = status_and_body(await talk(port, *parts))
        assert (status, tuple(body)) == (408, FIELDS)
        assert 0.15 < time.perf_counter() - began < 5

    run(scenario)


def test_connection_that_says_nothing_is_closed() -> None:
    async def scenario(port: int) -> None:
        assert await talk(port) == b""

    run(scenario)


def test_body_that_stops_gets_408() -> None:
    async def scenario(port: int) -> None:
        answer = await talk(port, POST + b"Content-Length: 10\r\n\r\nabc")
        assert status_and_body(answer)[0] == 408

    run(scenario)


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 50,
        b"hello\r\n\r\n",
        b"GET /\xff\xfe HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nBad Header: y\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ],
)
def test_what_is_not_http_gets_a_400_with_our_body(garbage: bytes) -> None:
    async def scenario(port: int) -> None:
        status, body = status_and_body(await talk(port, garbage))
        assert (status, tuple(body)) == (400, FIELDS)

    run(scenario)


def test_headers_without_end_get_431() -> None:
    async def scenario(port: int) -> None:
        line = b"X-Much: " + b"x" * 8000 + b"\r\n"
        lines = [part for _ in range(2 * MAX_HEADER_BYTES // 8000) for part in (line, 0.001)]
        answer = await talk(port, POST, *lines)
        # The client may meet the closed door while it still sends.
        assert not answer or status_and_body(answer)[0] == 431

    run(scenario)


@pytest.mark.parametrize("announced", [True, False])
def test_client_that_sends_too_much_can_read_its_413_and_goes_on(announced: bool) -> None:
    """10 MB against a limit of 0.1 MB: the answer must not be lost in a reset connection."""

    async def scenario(port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        size = 10_000_000
        if announced:
            writer.write(POST + b"Content-Length: %d\r\n\r\n" % size + b"x" * size)
        else:
            chunk = b"%x\r\n" % 100_000 + b"x" * 100_000 + b"\r\n"
            writer.write(POST + b"Transfer-Encoding: chunked\r\n\r\n" + chunk * 100)
            writer.write(b"0\r\n\r\n")
        await writer.drain()
        head = await reader.readuntil(b"\r\n\r\n")
        assert b" 413 " in head.splitlines()[0]
        length = next(int(h.split(b":")[1]) for h in head.splitlines() if b"content-length" in h)
        assert tuple(json.loads(await reader.readexactly(length))) == FIELDS
        writer.write(POST + b"Content-Length: 2\r\nConnection: close\r\n\r\nok")
        assert (await reader.read()).endswith(b"0\r\n\r\n")
        writer.close()

    run(scenario)


def test_rest_of_a_refused_body_has_a_limit_of_time() -> None:
    async def scenario(port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(POST + b"Content-Length: 1000000\r\n\r\nx")
        await reader.readuntil(b"\r\n\r\n")
        began = time.perf_counter()
        await reader.read()
        assert 0.2 < time.perf_counter() - began < 5
        writer.close()

    run(scenario)


def test_get_with_a_body_keeps_the_connection() -> None:
    """The first clients of Mistral list models with a body of two bytes."""

    async def scenario(port: int) -> None:
        get = b"GET /v1/models HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}"
        last = get.replace(b"Host: x", b"Host: x\r\nConnection: close")
        assert (await talk(port, get, 0.05, get, 0.05, last)).count(b"200 OK") == 3

    run(scenario)


def test_requests_sent_in_one_piece_are_answered_in_order() -> None:
    async def scenario(port: int) -> None:
        one = POST + b"Content-Length: 1\r\n\r\nx"
        two = POST + b"Content-Length: 2\r\nConnection: close\r\n\r\nxx"
        answer = await talk(port, one + two)
        assert answer.index(b"1\r\n1\r\n") < answer.index(b"1\r\n2\r\n")

    run(scenario)


def test_answer_may_take_longer_than_headers_may() -> None:
    async def scenario(port: int) -> None:
        slow = POST.replace(b"/v1/chat/completions", b"/v1/slow")
        request = slow + b"Content-Length: 0\r\nConnection: close\r\n\r\n"
        asyncio.get_running_loop().call_later(0.6, app.gate.set)
        assert b"200 OK" in await talk(port, request)

    app = EchoApp()
    run(scenario, app)


def test_client_that_waits_for_100_continue_is_refused_before_it_sends() -> None:
    async def scenario(port: int) -> None:
        head = POST + b"Content-Length: 9999999\r\nExpect: 100-continue\r\n\r\n"
        answer = await talk(port, head)
        assert b" 413 " in answer.splitlines()[0]
        assert b"100 Continue" not in answer

    run(scenario)
