"""The two middlewares that make a request wait: for its body, and for its key's turn.

The body is read here as a whole, whether its length was announced or not, before anything else sees
the request. So a client that sends slowly holds no slot of its key and no place at the engine, and
the application gets the body at once. Afterwards ``receive`` gives what the connection gives, which
is that the client has left.
"""

import asyncio
from collections.abc import Awaitable, Mapping

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mixtral.server.errors import error_response
from mixtral.server.keys import ApiKey
from mixtral.server.limits import LimitReached, Limits
from mixtral.server.logs import record_of
from mixtral.server.paths import usual_path

_LONGEST_LOGGED_BODY = 100_000  # characters


class _ClientGone(Exception):
    """The other end closed the connection; there is nobody to answer."""


class BodyReader:
    """Reads bodies within a size and a time.

    Args:
        app: What is inside.
        max_bytes: Largest body.
        larger: Paths with a limit of their own.
        timeout_s: Seconds in which a body must be here.
        keeps_text: Whether the record gets the body, for the log.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        max_bytes: int,
        timeout_s: float,
        larger: Mapping[str, int] | None = None,
        keeps_text: bool = False,
    ) -> None:
        self._app = app
        self._max_bytes = max_bytes
        self._larger = larger or {}
        self._timeout_s = timeout_s
        self._keeps_text = keeps_text

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the application with the body, or answer 413 or 408."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        max_bytes = self._larger.get(usual_path(scope["path"]), self._max_bytes)
        if int(Headers(scope=scope).get("content-length", "0")) > max_bytes:
            await _too_large(max_bytes)(scope, receive, send)
            return
        try:
            async with asyncio.timeout(self._timeout_s):
                body = await _read(receive, max_bytes)
        except _ClientGone:
            return
        except TimeoutError:
            message = f"the body did not arrive within {self._timeout_s:g} s; send it faster."
            headers = {"Connection": "close"}
            response = error_response(408, message, code="body_timeout", headers=headers)
            await response(scope, receive, send)
            return
        if body is None:
            await _too_large(max_bytes)(scope, receive, send)
            return
        if self._keeps_text and body:
            text = body.decode("utf-8", errors="replace")
            record_of(scope).body = text[:_LONGEST_LOGGED_BODY]
        await self._app(scope, _Replay(body, receive), send)


async def _read(receive: Receive, max_bytes: int) -> bytes | None:
    """Return the body; None if it is too large."""
    message = await receive()
    parts: list[bytes] = []
    size = 0
    while True:
        if message["type"] == "http.disconnect":
            raise _ClientGone
        part = message.get("body", b"")
        size += len(part)
        if size > max_bytes:
            return None
        parts.append(part)
        if not message.get("more_body", False):
            return part if len(parts) == 1 else b"".join(parts)
        message = await receive()


def _too_large(max_bytes: int) -> Response:
    return error_response(
        413,
        f"the body is larger than {max_bytes / 1e6:g} MB; send less at a time.",
        code="body_too_large",
    )


class _Replay:
    """A ``receive`` that gives the body first, then whatever the connection gives."""

    def __init__(self, body: bytes, receive: Receive) -> None:
        self._first: Message | None = {"type": "http.request", "body": body, "more_body": False}
        self._receive = receive

    async def __call__(self) -> Message:
        if self._first is not None:
            first, self._first = self._first, None
            return first
        return await self._receive()

    async def until_gone(self) -> None:
        """Wait until the client has left; the body stays to be read."""
        while (await self._receive())["type"] != "http.disconnect":
            pass


class KeyLimits:
    """Holds a request until its key may have it answered.

    Only POST counts: what the other methods ask for costs next to nothing.

    Args:
        app: What is inside.
        limits: The accounts of the keys.
    """

    def __init__(self, app: ASGIApp, *, limits: Limits) -> None:
        self._app = app
        self._limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the application when it is the request's turn, or answer 429."""
        key = record_of(scope).key if scope["type"] == "http" else None
        if key is None or not key.is_limited or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        try:
            await self._wait(key, receive)
        except LimitReached as error:
            headers = {"Retry-After": str(error.retry_after_s)}
            response = error_response(429, str(error), code="key_limit", headers=headers)
            await response(scope, receive, send)
            return
        except _ClientGone:
            return
        try:
            await self._app(scope, receive, send)
        finally:
            record = record_of(scope)
            num_tokens = record.num_prompt_tokens + record.num_completion_tokens
            self._limits.leave(key, num_tokens=num_tokens)

    async def _wait(self, key: ApiKey, receive: Receive) -> None:
        """Return with a slot that must be left."""
        assert isinstance(receive, _Replay)
        if hold_s := self._limits.hold_s(key):
            await _unless_gone(asyncio.sleep(hold_s), receive)
        slot = self._limits.enter(key)
        if slot is None:
            return
        try:
            await _unless_gone(slot, receive)
        except BaseException:
            self._limits.give_up(key, slot)
            raise


async def _unless_gone(wanted: Awaitable[None], receive: _Replay) -> None:
    """Wait for something as long as the client is there.

    Raises:
        _ClientGone: It left first.
    """
    done = asyncio.ensure_future(wanted)
    gone = asyncio.ensure_future(receive.until_gone())
    try:
        await asyncio.wait({done, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not done.done():
            raise _ClientGone
    finally:
        gone.cancel()
        done.cancel()
