"""One page from a server of our own, and everything that a hostile one could try."""

import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

import pytest

from mixtral.rag.fetch import Page, fetch
from mixtral.rag.limits import DocumentRefused, Limits


class Handler(BaseHTTPRequestHandler):
    """Answers by the path."""

    seen: list[str] = []  # noqa: RUF012

    def do_GET(self) -> None:
        self.seen.append(self.path)
        path = self.path.split("?")[0]
        if path == "/loop" or path.startswith("/to/"):
            self.send_response(302)
            self.send_header("Location", unquote(path).removeprefix("/to/").replace("~", "/"))
            self.end_headers()
        elif path == "/slow":
            self.send_response(200)
            self.send_header("Content-Type", "text/plain")
            self.end_headers()
            try:
                for _ in range(200):
                    self.wfile.write(b"x")
                    self.wfile.flush()
                    time.sleep(0.02)
            except OSError:
                return
        elif path == "/missing":
            self.send_error(404, "Not there")
        else:
            types = {"/a.md": "text/plain", "/image": "image/png", "/gzip": "text/html"}
            body = b"x" * 1000 if path == "/large" else b"<p>words</p>"
            self.send_response(200)
            self.send_header("Content-Type", types.get(path, "text/html; charset=utf-8"))
            if path == "/gzip":
                self.send_header("Content-Encoding", "gzip")
            self.send_header("Content-Length", str(len(body) + (50 if path == "/cut" else 0)))
            self.end_headers()
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{httpd.server_address[1]}"
    httpd.shutdown()
    thread.join()
    httpd.server_close()


def get(url: str, limits: Limits | None = None) -> Page:
    return fetch(url, limits=limits or Limits(timeout_s=20), allow_private=True)


def test_page_comes_with_the_kind_that_its_server_or_its_name_says(server: str) -> None:
    page = get(f"{server}/page?q=a b&x=é")
    assert (page.data, page.kind) == (b"<p>words</p>", "html")
    assert Handler.seen[-1] == "/page?q=a%20b&x=%C3%A9"
    assert get(f"{server}/a.md").kind == "markdown"
    assert get(f"{server}/to/~a.md").kind == "markdown"


def test_private_address_is_refused_before_anything_is_sent(server: str) -> None:
    Handler.seen.clear()
    with pytest.raises(DocumentRefused, match=r"127\.0\.0\.1, inside this machine"):
        fetch(f"{server}/page", limits=Limits())
    port = server.rpartition(":")[2]
    with pytest.raises(DocumentRefused, match="inside this machine"):
        fetch(f"http://localhost:{port}/page", limits=Limits())
    assert Handler.seen == []


def test_every_address_on_the_way_is_looked_at(
    server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_at: list[str] = []
    monkeypatch.setattr("mixtral.rag.fetch._require_public", lambda _, host: looked_at.append(host))
    fetch(f"{server}/to/~a.md", limits=Limits(timeout_s=20))
    assert looked_at == ["127.0.0.1", "127.0.0.1"]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/missing", "answers 404"),
        ("/image", "type is image/png"),
        ("/gzip", "compressed"),
        ("/cut", "cannot be downloaded"),
        ("/to/file:~~~etc~passwd", "only addresses with http"),
        ("/to/ftp:~~example.org~x", "only addresses with http"),
        ("/to/http:~~[x", r"leads to 'http://\[x', no address"),
        ("/loop", "more than 5 other addresses"),
    ],
)
def test_what_is_no_page_is_refused(path: str, message: str, server: str) -> None:
    with pytest.raises(DocumentRefused, match=message):
        get(server + path)


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "http://",
        "http:///x",
        "http://u:p@example.org/",
        "http://[::1",
        "x",
        "gopher://example.org",
        "http://example.org:99999/",
        "http://example.org:0/",
    ],
)
def test_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(DocumentRefused, match=r"only addresses with http|user name"):
        get(url)


def test_size_and_time_are_limited(server: str) -> None:
    with pytest.raises(DocumentRefused, match="more than 999 bytes"):
        get(f"{server}/large", Limits(max_file_bytes=999))
    assert len(get(f"{server}/large", Limits(max_file_bytes=1000)).data) == 1000
    started = time.perf_counter()
    with pytest.raises(DocumentRefused, match=r"longer than timeout_s, 0\.3 s"):
        get(f"{server}/slow", Limits(timeout_s=0.3))
    assert time.perf_counter() - started < 3


def test_nobody_there_is_said() -> None:
    with pytest.raises(DocumentRefused, match=r"cannot be downloaded: .*refused"):
        get("http://127.0.0.1:9/")
