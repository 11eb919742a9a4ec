"""A browser and a server for the whole run, and a page of its own for each test.

Every page is watched: a request that leaves the server, an error on the console (a breach of the
Content-Security-Policy is one), an exception or a dialog fails the test that opened it.
"""

import contextlib
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.browser.install import ADVICE, find_chromium

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, Request

DESKTOP = {"width": 1280, "height": 800}
PHONE = {"width": 390, "height": 844}
ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
START_LIMIT_S = 180
PATIENCE_MS = 60_000


@pytest.fixture(scope="session")
def browser() -> "Iterator[Browser]":
    playwright_api = pytest.importorskip("playwright.sync_api")
    program = find_chromium()
    if program is None:
        pytest.skip(ADVICE)
    with playwright_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=program, args=ARGUMENTS, timeout=PATIENCE_MS
        )
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a real server with the model of the package and an empty store of documents.

    MIXTRAL_BROWSER_URL names one that runs already.
    """
    if url := os.environ.get("MIXTRAL_BROWSER_URL"):
        yield url.rstrip("/")
        return
    folder = tmp_path_factory.mktemp("server")
    options = ["--model", "nano", "--port", "0", "--rag", str(folder / "documents")]
    log = folder / "server.log"
    command = [sys.executable, "-m", "mixtral.cli", "serve", *options]
    with log.open("w", encoding="utf-8") as written:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=written, stderr=subprocess.STDOUT
        )
        try:
            yield _address(process, log)
        finally:
            process.terminate()
            process.wait(30)


def _address(process: "subprocess.Popen[bytes]", log: Path) -> str:
    end = time.monotonic() + START_LIMIT_S
    while time.monotonic() < end and process.poll() is None:
        if found := re.search(r"Serving .*?(http://[\w.:\[\]-]+)", log.read_text("utf-8")):
            return found[1]
        time.sleep(0.1)
    pytest.fail(f"the server did not start; it wrote:\n{log.read_text('utf-8')}")


@dataclass
class Watch:
    """What a page did that it must not do."""

    origin: str
    allowed_errors: list[str]
    foreign_requests: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def attach(self, context: "BrowserContext") -> None:
        context.on("request", self._on_request)
        context.on("console", self._on_console)
        context.on("weberror", lambda error: self.errors.append(str(error.error)))
        context.on("page", lambda page: page.on("dialog", self._on_dialog))

    def check(self) -> None:
        assert self.foreign_requests == []
        left = [e for e in self.errors if not any(re.search(p, e) for p in self.allowed_errors)]
        assert left == []

    def _on_request(self, request: "Request") -> None:
        if not request.url.startswith((self.origin + "/", "data:", "blob:")):
            self.foreign_requests.append(request.url)

    def _on_console(self, message: "ConsoleMessage") -> None:
        if message.type == "error":
            self.errors.append(message.text)

    def _on_dialog(self, dialog: Any) -> None:
        self.errors.append(f"a dialog opened: {dialog.message}")
        dialog.dismiss()


@pytest.fixture
def allowed_errors() -> list[str]:
    """Patterns of messages on the console that a test expects; it adds to them."""
    return []


@pytest.fixture
def open_page(
    browser: "Browser", server: str, allowed_errors: list[str]
) -> "Iterator[Callable[..., Page]]":
    """Open a path of the server in a window that knows nothing of others.

    Keywords are those of a browser's context, such as ``color_scheme`` and ``viewport``.
    """
    with contextlib.ExitStack() as stack:

        def open_path(path: str = "/", **options: Any) -> "Page":
            settings = {"viewport": DESKTOP, "base_url": server, "locale": "en-GB", **options}
            context = stack.enter_context(contextlib.closing(browser.new_context(**settings)))
            watch = Watch(origin=server, allowed_errors=allowed_errors)
            watch.attach(context)
            stack.callback(watch.check)
            context.set_default_timeout(PATIENCE_MS)
            page = context.new_page()
            page.goto(path)
            return page

        yield open_path


@pytest.fixture
def page(open_page: "Callable[..., Page]") -> "Page":
    """The playground on a desktop, with nothing in it."""
    return open_page("/")
