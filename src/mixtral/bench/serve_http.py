"""HTTP/1.1 as far as a load generator needs it, with as little work per token as Python allows.

The server under test shares its processors with the load generator, so every microsecond spent here
is taken from what is measured. A general client builds an object per header and goes through
several tasks per chunk; this one is an ``asyncio.Protocol`` that hands the bytes of a body on as
they arrive, with the time they arrived at. It knows bodies with a length, in chunks and up to the
end of the connection, and keeps connections open between requests. It knows no redirects, no
compression and no proxies.
"""

import asyncio
import ssl
import time
from dataclasses import dataclass
from typing import Literal, Protocol, Self
from urllib.parse import urlsplit

from mixtral.errors import ConfigError, EngineError

_MAX_HEAD_BYTES = 65536
_BodyKind = Literal["length", "chunks", "to the end"]


class BrokenResponse(EngineError):
    """The connection or the bytes on it ended in the middle of an answer."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """Where requests go."""

    host: str
    port: int
    path: str
    """What stands before ``/completions``, without a slash at its end."""
    is_tls: bool = False
    api_key: str | None = None
    """Sent as a bearer token; None sends no such header."""

    @classmethod
    def parse(cls, url: str, *, api_key: str | None = None) -> Self:
        """Read the address of an OpenAI-compatible server.

        Raises:
            ConfigError: It is not such an address, or the key cannot stand in a header.

        >>> Target.parse("http://127.0.0.1:8000/v1/").path
        '/v1'
        """
        try:
            parts = urlsplit(url)
            port = parts.port
            (parts.hostname or "").encode("idna")  # as connecting does; it refuses "a..b"
        except ValueError:
            parts, port = urlsplit(""), None
        is_plain = not (parts.query or parts.fragment or "@" in parts.netloc or port == 0)
        is_clean = url.isascii() and url.isprintable() and " " not in url
        if parts.scheme not in ("http", "https") or not (parts.hostname and is_plain and is_clean):
            raise ConfigError(
                f"url is {url!r}; it must be the address of a server, such as "
                "http://127.0.0.1:8000/v1."
            )
        if api_key is not None and not (api_key.isascii() and api_key.isprintable()):
            raise ConfigError("api_key has characters that cannot stand in an HTTP header.")
        is_tls = parts.scheme == "https"
        return cls(
            host=parts.hostname,
            port=port or (443 if is_tls else 80),
            path=parts.path.rstrip("/"),
            is_tls=is_tls,
            api_key=api_key,
        )

    @property
    def url(self) -> str:
        """The address, without the key."""
        return f"{'https' if self.is_tls else 'http'}://{self._authority}{self.path}"

    def request(self, method: str, path: str, body: bytes = b"") -> bytes:
        """Return the bytes of a request for ``path`` below that of the target."""
        lines = [f"{method} {self.path}{path} HTTP/1.1", f"Host: {self._authority}"]
        if self.api_key is not None:
            lines.append(f"Authorization: Bearer {self.api_key}")
        if body:
            lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
        return "\r\n".join([*lines, "\r\n"]).encode("ascii") + body

    @property
    def _authority(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


class Receiver(Protocol):
    """What takes an answer."""

    def on_head(self, status: int, content_type: str) -> None:
        """Take the status, before any byte of the body."""

    def on_body(self, data: bytes, now_s: float) -> None:
        """Take bytes of the body, which arrived at ``now_s`` of ``perf_counter``."""


class ResponseReader:
    """Takes the bytes of one answer apart."""

    def __init__(self) -> None:
        self.status = 0
        """0 until the head is there."""
        self.content_type = ""
        self.is_complete = False
        self.keeps_alive = True
        """Whether the connection can carry another request."""
        self._rest = b""
        self._kind: _BodyKind | None = None
        self._left = 0

    def feed(self, data: bytes) -> bytes:
        """Return the bytes of the body that became known with ``data``.

        Raises:
            BrokenResponse: This is not an answer in HTTP/1.1.
        """
        if self._kind is None:
            data = self._take_head(self._rest + data)
        if self._kind is None or self.is_complete:
            return b""
        if self._kind == "chunks":
            return self._take_chunks(self._rest + data)
        if self._kind == "length":
            data = data[: self._left]
            self._left -= len(data)
            self.is_complete = not self._left
        return data

    def end(self) -> None:
        """Note that the connection was closed.

        Raises:
            BrokenResponse: The answer was not yet complete.
        """
        self.keeps_alive = False
        if self._kind == "to the end":
            self.is_complete = True
        if not self.is_complete:
            where = "in the middle of an answer" if self.status else "without an answer"
            raise BrokenResponse(f"the server closed the connection {where}")

    def _take_head(self, data: bytes) -> bytes:
        """Read the head; return what follows it, or nothing while it is not complete."""
        head, found, body = data.partition(b"\r\n\r\n")
        if not found:
            if len(data) > _MAX_HEAD_BYTES or (len(data) >= 5 and data[:5] != b"HTTP/"):
                raise BrokenResponse(f"this is no answer in HTTP: {data[:40]!r}")
            self._rest = data
            return b""
        self._rest = b""
        first, *lines = head.decode("latin-1").split("\r\n")
        try:
            version, status = first.split(" ", 2)[:2]
            self.status = int(status)
        except ValueError:
            raise BrokenResponse(f"this is no answer in HTTP: {first[:40]!r}") from None
        if 100 <= self.status < 200:  # an interim answer; the real one follows
            self.status = 0
            return self._take_head(body)
        headers = {}
        for line in lines:
            name, _, value = line.partition(":")
            headers[name.strip().lower()] = value.strip()
        self._take_headers(headers, is_old=version == "HTTP/1.0")
        return body

    def _take_headers(self, headers: dict[str, str], *, is_old: bool) -> None:
        self.content_type = headers.get("content-type", "")
        self.keeps_alive = not is_old and headers.get("connection", "").lower() != "close"
        if headers.get("transfer-encoding", "").lower() == "chunked":
            self._kind = "chunks"
            return
        length = headers.get("content-length", "")
        if length.isdecimal():
            self._kind, self._left = "length", int(length)
            self.is_complete = not self._left
            return
        self._kind, self.keeps_alive = "to the end", False

    def _take_chunks(self, data: bytes) -> bytes:
        found, start = [], 0
        while not self.is_complete:
            line_end = data.find(b"\r\n", start)
            if line_end < 0:
                break
            try:
                size = int(data[start:line_end].partition(b";")[0], 16)
            except ValueError:
                line = data[start : start + 40]
                raise BrokenResponse(f"the size of a chunk is {line!r}") from None
            begin = line_end + 2
            if len(data) < begin + size + 2:
                break
            found.append(data[begin : begin + size])
            start = begin + size + 2
            self.is_complete = not size
        self._rest = data[start:]
        return b"".join(found)


class Connection(asyncio.Protocol):
    """One connection; carries one request at a time."""

    def __init__(self) -> None:
        self.is_used = False
        """Whether it has carried an answer."""
        self._transport: asyncio.Transport | None = None
        self._reader = ResponseReader()
        self._receiver: Receiver | None = None
        self._has_head = False
        self._done: asyncio.Future[None] | None = None

    async def exchange(self, request: bytes, receiver: Receiver) -> bool:
        """Send a request and hand its answer over as it comes.

        Returns:
            Whether the connection can be used again.

        Raises:
            BrokenResponse: The connection or the answer broke.
        """
        self._has_head = False  # before anything can fail: has_answer speaks of this answer
        if self._transport is None or self._transport.is_closing():
            raise BrokenResponse("the server closed the connection without an answer")
        self._reader, self._receiver = ResponseReader(), receiver
        self._done = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        try:
            await self._done
        finally:
            self._receiver = self._done = None
        self.is_used = True
        return self._reader.keeps_alive and not self._transport.is_closing()

    @property
    def has_answer(self) -> bool:
        """Whether anything of the current answer came."""
        return self._has_head

    def abort(self) -> None:
        """Close at once; the server sees a client that went away."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Take bytes apart and hand those of the body over."""
        now_s = time.perf_counter()
        reader, receiver = self._reader, self._receiver
        if receiver is None:
            return
        try:
            body = reader.feed(data)
        except BrokenResponse as error:
            self._finish(error)
            return
        if not self._has_head and reader.status:
            self._has_head = True
            receiver.on_head(reader.status, reader.content_type)
        if body:
            receiver.on_body(body, now_s)
        if reader.is_complete:
            self._finish(None)

    def connection_lost(self, error: Exception | None) -> None:
        """End the answer that was under way."""
        try:
            self._reader.end()
        except BrokenResponse as broken:
            self._finish(broken if error is None else BrokenResponse(f"{broken}: {error}"))
        else:
            self._finish(None)

    def _finish(self, error: BrokenResponse | None) -> None:
        if self._done is None or self._done.done():
            return
        if error is None:
            self._done.set_result(None)
        else:
            self._done.set_exception(error)


class ConnectionPool:
    """Connections to one server, opened when all others are busy."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self._idle: list[Connection] = []
        self._tls = ssl.create_default_context() if target.is_tls else None

    async def send(self, request: bytes, receiver: Receiver) -> None:
        """Send a request and hand its answer over as it comes.

        A connection that the server closed while it was idle is replaced by a new one.

        Raises:
            BrokenResponse: The connection or the answer broke.
            OSError: The server cannot be reached.
        """
        while True:
            connection = self._idle.pop() if self._idle else await self._open()
            was_used, is_kept = connection.is_used, False
            try:
                is_kept = await connection.exchange(request, receiver)
            except BrokenResponse:
                if was_used and not connection.has_answer:
                    continue
                raise
            finally:
                if not is_kept:
                    connection.abort()
            if is_kept:
                self._idle.append(connection)
            return

    async def close(self) -> None:
        """Close the idle connections."""
        while self._idle:
            self._idle.pop().abort()
        await asyncio.sleep(0)  # the loop closes their sockets at its next turn

    async def _open(self) -> Connection:
        loop = asyncio.get_running_loop()
        target = self.target
        _, connection = await loop.create_connection(
            Connection, target.host, target.port, ssl=self._tls
        )
        return connection
