"""One page from the web, within limits of size, time and reach.

Only ``http`` and ``https``. The address that the connection really has is looked at before anything
is sent, after each redirect too: a page that points to this machine, to its network or to a cloud's
metadata is refused, whatever its name resolves to. So there are no proxies here. The body is taken
as it is, uncompressed, and no further than the limit.
"""

import contextlib
import http.client
import ipaddress
import socket
import ssl
import threading
import time
from dataclasses import dataclass
from urllib.parse import SplitResult, quote, urljoin, urlsplit

from mixtral.rag.documents import Kind, kind_of
from mixtral.rag.limits import DocumentRefused, Limits

_MAX_REDIRECTS = 5
_STEP_BYTES = 65_536
_KINDS: dict[str, Kind] = {
    "text/html": "html",
    "application/xhtml+xml": "html",
    "text/markdown": "markdown",
    "application/pdf": "pdf",
    "application/vnd.openxmlformats-officedocument.wordprocessingml.document": "docx",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Page:
    """What a URL gave."""

    data: bytes
    """The body."""
    kind: Kind
    """How to read it."""


def fetch(url: str, *, limits: Limits, allow_private: bool = False) -> Page:
    """Download one page.

    Args:
        url: ``http://`` or ``https://``.
        limits: Bytes and seconds, all redirects together.
        allow_private: Whether it may come from this machine or its network.

    Raises:
        DocumentRefused: It cannot be had, is not a text, or is beyond a limit.
    """
    deadline = time.monotonic() + limits.timeout_s
    for _ in range(_MAX_REDIRECTS + 1):
        parts = _split(url)
        try:
            page_or_url = _visit(parts, limits, deadline, allow_private=allow_private)
        except (OSError, UnicodeError, http.client.HTTPException) as error:
            if time.monotonic() >= deadline:
                raise DocumentRefused(
                    f"downloading it takes longer than timeout_s, {limits.timeout_s:g} s."
                ) from None
            line = " ".join(str(error).split())[:200].rstrip(".") or type(error).__name__
            raise DocumentRefused(f"it cannot be downloaded: {line}.") from None
        if isinstance(page_or_url, Page):
            return page_or_url
        try:
            url = urljoin(url, page_or_url)
        except ValueError:
            raise DocumentRefused(f"it leads to {page_or_url[:200]!r}, no address.") from None
    raise DocumentRefused(f"it leads to more than {_MAX_REDIRECTS} other addresses.")


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        has_host = bool(parts.hostname) and parts.port != 0
    except ValueError:
        has_host = False
    if not has_host or parts.scheme not in ("http", "https"):
        raise DocumentRefused("only addresses with http or https are downloaded.")
    if parts.username is not None:
        raise DocumentRefused("addresses with a user name are not downloaded.")
    return parts


def _visit(
    parts: SplitResult, limits: Limits, deadline: float, *, allow_private: bool
) -> Page | str:
    """Return the page, or where it has gone."""
    assert parts.hostname is not None
    tls_or_not = _Tls if parts.scheme == "https" else http.client.HTTPConnection
    left_s = max(0.001, deadline - time.monotonic())
    connection = tls_or_not(parts.hostname, parts.port, timeout=left_s)
    timer: threading.Timer | None = None
    try:
        # Without TLS first: the address is known before the handshake sends a byte.
        http.client.HTTPConnection.connect(connection)
        if not allow_private:
            _require_public(connection.sock, parts.hostname)
        if isinstance(connection, _Tls):
            connection.secure()
        # The timeout of a socket begins again with each byte; this one does not.
        timer = threading.Timer(left_s, _cut, args=(connection.sock,))
        timer.start()
        answer = _ask(connection, parts, limits)
        if time.monotonic() >= deadline:
            raise TimeoutError  # A body that was cut off may look like a short one.
        return answer
    finally:
        if timer is not None:
            timer.cancel()
        connection.close()


class _Tls(http.client.HTTPSConnection):
    """A connection whose handshake is a step of its own."""

    def secure(self) -> None:
        context = ssl.create_default_context()
        self.sock = context.wrap_socket(self.sock, server_hostname=self.host)


def _cut(sock: socket.socket) -> None:
    """Make whoever waits for a connection go on with an error."""
    with contextlib.suppress(OSError):  # Closed already.
        # Not that of an SSLSocket, which would take its cipher from under the reading thread.
        socket.socket.shutdown(sock, socket.SHUT_RDWR)


def _require_public(sock: socket.socket, host: str) -> None:
    address = ipaddress.ip_address(sock.getpeername()[0].partition("%")[0])
    real = getattr(address, "ipv4_mapped", None) or address
    if not real.is_global:
        raise DocumentRefused(
            f"{host} is {real}, inside this machine or its network; it is downloaded only with "
            "allow_private_urls."
        )


def _ask(connection: http.client.HTTPConnection, parts: SplitResult, limits: Limits) -> Page | str:
    # What is written with other letters in a browser is percent-encoded on the wire.
    path = quote(parts.path or "/", safe="/%:@!$&'()*+,;=~-._")
    query = f"?{quote(parts.query, safe='/?%:@!$&()*+,;=~-._')}" if parts.query else ""
    headers = {"Accept-Encoding": "identity", "User-Agent": "mixtral-rag"}
    connection.request("GET", path + query, headers=headers)
    response = connection.getresponse()
    if response.status in (301, 302, 303, 307, 308):
        return response.getheader("Location") or "/"
    if response.status != 200:
        raise DocumentRefused(f"its server answers {response.status} {response.reason}.")
    if response.getheader("Content-Encoding", "identity") != "identity":
        raise DocumentRefused("its server sends it compressed without being asked.")
    kind = _kind(response.headers.get_content_type(), parts.path)
    data = bytearray()
    while piece := response.read1(_STEP_BYTES):
        data += piece
        if len(data) > limits.max_file_bytes:
            raise DocumentRefused(
                f"it has more than {limits.max_file_bytes:,} bytes, the limit max_file_bytes."
            )
    if response.length:
        raise http.client.IncompleteRead(b"", response.length)
    return Page(data=bytes(data), kind=kind)


def _kind(content_type: str, path: str) -> Kind:
    kind = _KINDS.get(content_type) or kind_of(path)
    if kind is None and content_type.startswith("text/"):
        return "text"
    if kind is None:
        raise DocumentRefused(f"its type is {content_type}, which is not read here.")
    return kind
