"""A small OpenAI-compatible server that answers as it is told, on a thread of its own."""

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Literal

Behaviour = Literal[
    "good",
    "refuses",
    "breaks",
    "cuts short",
    "fails late",
    "hangs",
    "is no stream",
    "counts nothing",
    "is odd",
]


@dataclass(kw_only=True)
class FakeServer:
    """What it does, and what it was asked."""

    behaviours: list[Behaviour] = field(default_factory=list)
    """One per request; when they are used up, it is good."""
    first_delay_s: float = 0.0
    token_delay_s: float = 0.0
    closes: bool = False
    """Whether each connection ends after its answer."""
    port: int = 0
    bodies: list[dict[str, Any]] = field(default_factory=list)
    heads: list[str] = field(default_factory=list)
    num_connections: int = 0
    most_at_once: int = 0
    at_once: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.num_connections += 1
        try:
            with suppress(ConnectionError, asyncio.IncompleteReadError):
                while await self._answer(reader, writer) and not self.closes:
                    pass
            writer.close()
            await writer.wait_closed()
        except asyncio.CancelledError:
            writer.transport.abort()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        lengths = [x for x in head.split("\r\n") if x.lower().startswith("content-length:")]
        body = await reader.readexactly(int(lengths[0].split(":")[1])) if lengths else b""
        self.heads.append(head)
        if head.startswith("GET /v1/models "):
            _write_json(writer, 200, {"data": [{"id": "fake-model", "owned_by": "fakes"}]})
            return True
        if not head.startswith("POST /v1/"):
            _write_json(writer, 404, {"detail": "Not Found"})
            return True
        request = json.loads(body)
        self.bodies.append(request)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            return await self._stream(request, head, writer)
        finally:
            self.at_once -= 1

    async def _stream(self, request: Any, head: str, writer: asyncio.StreamWriter) -> bool:
        behaviour = self.behaviours.pop(0) if self.behaviours else "good"
        if behaviour == "refuses":
            _write_json(writer, 429, {"object": "error", "message": "too many requests"})
            return True
        if behaviour == "is no stream":
            _write_json(writer, 200, {"choices": [{"text": "hello"}]})
            return True
        if behaviour == "hangs":
            await asyncio.sleep(60)
        is_chat = "/chat/" in head
        count = request["max_tokens"] - (behaviour == "cuts short")
        prompt = len(request.get("prompt", "1234567"))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n")
        writer.write(b"Transfer-Encoding: chunked\r\n\r\n")
        if is_chat:
            _write_event(writer, _chat({"role": "assistant", "content": ""}))
        await asyncio.sleep(self.first_delay_s)
        for number in range(count):
            if behaviour in ("breaks", "fails late") and number == 2:
                break
            if number:
                await asyncio.sleep(self.token_delay_s)
            event = _chat({"content": " a"}) if is_chat else {"choices": [{"text": " a"}]}
            _write_event(writer, event, is_odd=behaviour == "is odd")
        if behaviour == "breaks":
            return False
        if behaviour == "fails late":
            choice = {"index": 0, "delta": {"content": ""}, "finish_reason": "error"}
            _write_event(writer, {"choices": [choice], "error": {"message": "engine stopped"}})
        else:
            _write_event(writer, _chat({}, "length"))
            if behaviour != "counts nothing":
                usage = {"prompt_tokens": prompt, "completion_tokens": count}
                _write_event(writer, {"choices": [], "usage": usage})
        _write_chunk(writer, b"data: [DONE]\n\n")
        _write_chunk(writer, b"")
        return True


@contextmanager
def running(server: FakeServer) -> Iterator[FakeServer]:
    stops: list[Callable[[], object]] = []
    ready = threading.Event()

    async def serve() -> None:
        stop = asyncio.Event()
        listener = await asyncio.start_server(server.serve, "127.0.0.1", 0)
        server.port = listener.sockets[0].getsockname()[1]
        loop = asyncio.get_running_loop()
        stops.append(lambda: loop.call_soon_threadsafe(stop.set))
        ready.set()
        await stop.wait()
        listener.close()

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    ready.wait()
    try:
        yield server
    finally:
        stops[0]()
        thread.join()


def _chat(delta: dict[str, Any], finish_reason: str | None = None) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason}]}


def _write_event(
    writer: asyncio.StreamWriter, value: dict[str, Any], *, is_odd: bool = False
) -> None:
    if is_odd:  # all of it is allowed: a comment, CRLF, no space, an event in two chunks
        event = b": ping\r\n\r\ndata:" + json.dumps(value).encode() + b"\r\n\r\n"
        _write_chunk(writer, event[:30], extension=b";name=value")
        _write_chunk(writer, event[30:])
        return
    _write_chunk(writer, b"data: " + json.dumps(value).encode() + b"\n\n")


def _write_chunk(writer: asyncio.StreamWriter, data: bytes, extension: bytes = b"") -> None:
    writer.write(b"%x%s\r\n%s\r\n" % (len(data), extension, data))


def _write_json(writer: asyncio.StreamWriter, status: int, value: dict[str, Any]) -> None:
    body = json.dumps(value).encode()
    writer.write(b"HTTP/1.1 %d X\r\nContent-Type: application/json\r\n" % status)
    writer.write(b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
