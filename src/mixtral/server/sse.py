"""Server-sent events as an ASGI response of our own.

Each event goes out as one ASGI message as soon as it is made. While nothing is sent for a while, a
comment line keeps proxies from closing the connection; every client skips it. When the client goes
away, or takes too long to read what the sockets already hold, the source is cancelled at once:
nothing is buffered here beyond the event being sent.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, suppress

import orjson
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from mixtral.server.answers import ClientGone, unless_disconnected

DONE = b"data: [DONE]\n\n"
"""The event that ends a stream."""

PING = b": ping\n\n"
"""A comment."""

HEADERS = {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-cache",
    "x-accel-buffering": "no",  # nginx would collect events otherwise
}
"""Headers of a stream."""


def event(data: object) -> bytes:
    """Return one event; the space after the colon is what mistralai 0.x looks for."""
    return b"data: " + orjson.dumps(data) + b"\n\n"


class EventResponse(Response):
    """Sends events until they end, the client is gone, or it stops reading.

    Args:
        events: Events with their line ends.
        cancel: Called when the events are not wanted to their end.
        ping_s: Seconds of silence before a comment is sent; 0 sends none.
        write_timeout_s: Seconds that one event may wait for the client to read.
    """

    def __init__(
        self,
        events: AsyncGenerator[bytes, None],
        *,
        cancel: Callable[[], None],
        ping_s: float,
        write_timeout_s: float,
    ) -> None:
        self.status_code = 200
        self.background = None
        self.init_headers(HEADERS)  # without a body: Starlette would announce its length
        self.body = b""
        self._events = events
        self._cancel = cancel
        self._ping_s = ping_s
        self._write_timeout_s = write_timeout_s
        self._last_sent_s = 0.0
        self._sending_since_s: float | None = None
        self._is_stalled = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the headers, then the events."""
        with suppress(ClientGone, TimeoutError):
            await unless_disconnected(self._write(send), receive, self._cancel)

    async def _write(self, send: Send) -> None:
        """Send everything.

        Raises:
            TimeoutError: The client did not read for too long.
        """
        writer = asyncio.current_task()
        assert writer is not None
        guard = asyncio.create_task(self._guard(send, writer))
        try:
            self._sending_since_s = time.monotonic()
            await send(
                {
                    "type": "http.response.start",
                    "status": self.status_code,
                    "headers": self.raw_headers,
                }
            )
            self._has_sent()
            async with aclosing(self._events) as events:
                async for data in events:
                    await self._send(send, data)
            await self._send(send, b"", more=False)
        except asyncio.CancelledError:
            if self._is_stalled:
                raise TimeoutError from None
            raise
        finally:
            guard.cancel()

    async def _send(self, send: Send, data: bytes, *, more: bool = True) -> None:
        self._sending_since_s = time.monotonic()
        await send({"type": "http.response.body", "body": data, "more_body": more})
        self._has_sent()

    def _has_sent(self) -> None:
        self._sending_since_s = None
        self._last_sent_s = time.monotonic()

    async def _guard(self, send: Send, writer: asyncio.Task[None]) -> None:
        """Break silence with comments, and end a writer that waits for its reader.

        One sleeping task per stream: a timer per event would cost more than the event.
        """
        while True:
            now_s, since_s = time.monotonic(), self._sending_since_s
            wait_s = self._write_timeout_s
            if since_s is not None:
                wait_s = since_s + self._write_timeout_s - now_s
            elif self._ping_s:
                wait_s = self._last_sent_s + self._ping_s - now_s
            if wait_s > 0:
                # What is being sent may be followed by silence, and silence by what is not read.
                longest_s = min(self._ping_s or wait_s, self._write_timeout_s)
                await asyncio.sleep(min(wait_s, longest_s))
            elif since_s is not None:
                break
            else:
                try:
                    async with asyncio.timeout(self._write_timeout_s):
                        await self._send(send, PING)
                except TimeoutError:
                    break
        self._is_stalled = True
        writer.cancel()
