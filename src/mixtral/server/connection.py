"""One TCP connection: uvicorn's, with a time and a size for headers, and our error bodies.

uvicorn waits for the headers of a request as long as a client likes, and keeps whatever it sends of
them. Here they have ``header_timeout_s`` and 64 KiB; a connection that breaks a rule gets its 4xx
and is closed. What follows an answer that came before the end of its request, such as the rest of
a body that was too large, is read and thrown away for ``body_timeout_s``: a client that is still
sending could not read the answer if we hung up on it.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.server import ServerState

from mixtral.server.errors import error_response
from mixtral.server.settings import ServerSettings

logger = logging.getLogger(__name__)

MAX_HEADER_BYTES = 65_536
"""Request line and headers of one request."""


def connection_factory(settings: ServerSettings) -> Callable[..., "Connection"]:
    """Return what uvicorn calls for each new connection."""

    def connect(
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> Connection:
        return Connection(config, server_state, app_state, _loop, settings=settings)

    return connect


class Connection(HttpToolsProtocol):
    """A connection that does not wait for ever.

    Args:
        config: uvicorn's.
        server_state: uvicorn's.
        app_state: uvicorn's.
        loop: The event loop; None takes the running one.
        settings: Times for headers and for the rest of a body.
    """

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        loop: asyncio.AbstractEventLoop | None = None,
        *,
        settings: ServerSettings,
    ) -> None:
        super().__init__(config, server_state, app_state, loop)
        self._header_timeout_s = settings.header_timeout_s
        self._rest_timeout_s = settings.body_timeout_s
        self._timer: asyncio.TimerHandle | None = None
        self._has_begun = False
        self._is_in_headers = True
        self._header_bytes = 0
        self._is_whole = True

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start to wait for headers."""
        super().connection_made(transport)
        self._start_timer(self._header_timeout_s, self._end_headers)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop all waiting."""
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse what came; refuse headers that are too large."""
        super().data_received(data)
        if not self._is_in_headers or self.transport.is_closing():
            return
        self._header_bytes += len(data)
        if self._header_bytes > MAX_HEADER_BYTES:
            self._refuse(431, f"the headers are larger than {MAX_HEADER_BYTES} bytes.")

    def on_message_begin(self) -> None:
        """Note that a request begins."""
        super().on_message_begin()
        self._has_begun = True
        self._is_in_headers = True
        self._is_whole = False
        self._header_bytes = 0
        self._start_timer(self._header_timeout_s, self._end_headers)

    def on_headers_complete(self) -> None:
        """Stop the clock of the headers."""
        self._stop_timer()
        self._is_in_headers = False
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """Note that the whole request is here; wait for the next one if it is answered already."""
        super().on_message_complete()
        self._is_whole = True
        self._stop_timer()
        if self.cycle.response_complete and not self.transport.is_closing():
            self._unset_keepalive_if_required()
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def on_response_complete(self) -> None:
        """Go on to the next request, or give the rest of this one some time."""
        super().on_response_complete()
        if not self._is_whole and not self.pipeline and not self.transport.is_closing():
            self._start_timer(self._rest_timeout_s, self.transport.close)

    def send_400_response(self, msg: str) -> None:
        """Answer what is not HTTP."""
        self._refuse(400, "this is not a valid HTTP request; see RFC 9112.")

    def _end_headers(self) -> None:
        if self._has_begun:
            seconds = self._header_timeout_s
            self._refuse(408, f"the headers did not arrive within {seconds:g} s; send them faster.")
        else:
            self.transport.close()

    def _refuse(self, status: int, message: str) -> None:
        """Answer and hang up; without an answer where one is on its way already."""
        self._stop_timer()
        logger.info("status %d for %s: %s", status, self.client and self.client[0], message)
        is_answering = self.cycle is not None and not self.cycle.response_complete
        if not is_answering and not self.transport.is_closing():
            response = error_response(status, message, headers={"Connection": "close"})
            lines = [STATUS_LINE[status]]
            lines += [b"%b: %b\r\n" % header for header in response.raw_headers]
            self.transport.write(b"".join([*lines, b"\r\n", response.body]))
        self.transport.close()

    def _start_timer(self, seconds: float, action: Callable[[], None]) -> None:
        self._stop_timer()
        self._timer = self.loop.call_later(seconds, action)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
