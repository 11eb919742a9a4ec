"""One ``mixtral serve`` for all clients, on a free port of this machine."""

import contextlib
import re
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

START_LIMIT_S = 60
STOP_LIMIT_S = 30


@dataclass(frozen=True, kw_only=True, slots=True)
class Endpoint:
    url: str
    """Without /v1."""
    api_key: str


@contextlib.contextmanager
def started_server(*, log: Path) -> Iterator[Endpoint]:
    """Start the server, wait until it serves, and stop it in the end; its output goes to a file."""
    api_key = secrets.token_hex(16)
    options = ["--model", "nano", "--port", "0", "--api-key", api_key]
    # The only model of llama-index that fills in the middle.
    options += ["--alias", "codestral-latest=nano"]
    command = [sys.executable, "-m", "mixtral.cli", "serve", *options]
    with log.open("w", encoding="utf-8") as written:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=written, stderr=subprocess.STDOUT
        )
        try:
            url = wait_for_address(process, log)
            print(f"server: {url}, log in {log}", flush=True)
            yield Endpoint(url=url, api_key=api_key)
        finally:
            stop(process)


def wait_for_address(process: subprocess.Popen[bytes], log: Path) -> str:
    end = time.monotonic() + START_LIMIT_S
    while time.monotonic() < end and process.poll() is None:
        if found := re.search(r"Serving .*?(https?://[\w.:\[\]-]+)", log.read_text("utf-8")):
            return found[1]
        time.sleep(0.1)
    raise SystemExit(f"The server did not start; it wrote:\n{log.read_text('utf-8')}")


def stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_LIMIT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
