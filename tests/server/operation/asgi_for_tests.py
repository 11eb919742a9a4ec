"""A tiny application, and a client that drives it without a network."""

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mixtral.server.keys import KeyRing
from mixtral.server.logs import RequestRecord, record_of
from mixtral.server.middleware import Traffic, protect
from mixtral.server.settings import ServerSettings

FIELDS = ("object", "message", "type", "param", "code")


@dataclass
class Answer:
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""

    def error(self) -> dict[str, Any]:
        """Return the body, which must be our flat one."""
        assert self.headers["content-type"] == "application/json"
        body: dict[str, Any] = json.loads(self.body)
        assert tuple(body) == FIELDS
        assert body["object"] == "error"
        assert isinstance(body["message"], str)
        return body


class EchoApp:
    """Answers with the length of the body; /v1/slow waits for ``gate``, /v1/broken fails."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.num_started = 0
        self.num_tokens = (3, 4)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.num_started += 1
        message = await receive()
        assert not message.get("more_body")
        record = record_of(scope)
        record.num_prompt_tokens, record.num_completion_tokens = self.num_tokens
        if scope["path"] == "/v1/broken":
            raise RuntimeError("a secret of the server")
        if scope["path"] == "/v1/slow":
            await self.gate.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for part in (b"%d" % len(message["body"]), b"!"):
            await send({"type": "http.response.body", "body": part, "more_body": True})
        if scope["path"] != "/v1/cut":
            await send({"type": "http.response.body", "body": b""})


@dataclass
class Guarded:
    """The application behind its middlewares."""

    settings: ServerSettings = field(default_factory=ServerSettings)
    keys_file: Path | None = None
    app: EchoApp = field(default_factory=EchoApp)
    traffic: Traffic = field(default_factory=Traffic)
    records: list[RequestRecord] = field(default_factory=list)

    def __post_init__(self) -> None:
        keys = KeyRing(self.keys_file, self.settings.api_key)
        self.asgi: ASGIApp = protect(
            self.app,
            settings=self.settings,
            keys=keys,
            traffic=self.traffic,
            on_request=self.records.append,
        )

    async def ask(
        self,
        path: str = "/v1/chat/completions",
        *,
        method: str = "POST",
        headers: dict[str, str] | None = None,
        body: "bytes | list[bytes | float]" = b"",
        gone: asyncio.Event | None = None,
    ) -> Answer:
        """Send a request.

        Args:
            path: Its path.
            method: Its method.
            headers: Its headers.
            body: Its body; a list is sent in parts, a number waits for so many seconds.
            gone: When set, the client has left.
        """
        parts = list(body) if isinstance(body, list) else [body]
        answer = Answer()
        gone = gone or asyncio.Event()

        async def receive() -> Message:
            while parts and isinstance(parts[0], float):
                await asyncio.sleep(parts.pop(0))  # type: ignore[arg-type]
            if parts:
                part = parts.pop(0)
                return {"type": "http.request", "body": part, "more_body": bool(parts)}
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(message: Message) -> None:
            if message["type"] == "http.response.start":
                answer.status = message["status"]
                answer.headers = {k.decode().lower(): v.decode() for k, v in message["headers"]}
            else:
                answer.body += message.get("body", b"")

        await self.asgi(scope_of(path, method, headers or {}), receive, send)
        return answer


def scope_of(path: str, method: str, headers: dict[str, str]) -> dict[str, Any]:
    return {
        "type": "http",
        "method": method,
        "path": path,
        "query_string": b"",
        "headers": [(k.lower().encode(), v.encode("latin-1")) for k, v in headers.items()],
        "client": ("10.0.0.7", 4711),
    }


async def wait_until(condition: Callable[[], bool]) -> None:
    """Wait until something is so; it has five seconds."""
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.001)
