"""Downloads, against a small hub of our own: one copy of the weights, resume, and plain errors."""

import hashlib
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch

from mixtral.checkpoint import open_checkpoint, resolve_model_path
from mixtral.checkpoint.folder import find_weight_sets
from mixtral.checkpoint.hub import _choose_files
from mixtral.config import ModelConfig
from mixtral.errors import CheckpointError
from tests.checkpoints_for_tests import write_random

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(ThreadingHTTPServer):
    """Serves one folder as the repository ``org/name``, and can fail in two ways."""

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), HubHandler)
        self.folder = folder
        self.cut_once = ""
        self.broken = ""
        self.gets: list[tuple[str, str]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away is part of the test."""


class HubHandler(BaseHTTPRequestHandler):
    """The four addresses that a download asks for."""

    server: Hub

    def log_message(self, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path == "/api/models/org/gated/revision/main":
            self.send_answer(403, b"{}", {"X-Error-Code": "GatedRepo"})
        elif path.startswith("/api/models/org/name/revision/"):
            if path.rpartition("/")[2] not in ("main", COMMIT):
                self.send_answer(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
                return
            self.send_json({"id": "org/name", "sha": COMMIT, "siblings": []})
        elif path.startswith("/api/models/org/name/tree/"):
            files = sorted(self.server.folder.iterdir())
            oid = COMMIT
            tree = [
                {"type": "file", "path": file.name, "size": file.stat().st_size, "oid": oid}
                for file in files
            ]
            self.send_json(tree)
        elif match := re.fullmatch(rf"/org/name/resolve/{COMMIT}/([\w.-]+)", path):
            self.send_file(self.server.folder / match[1])
        else:
            self.send_answer(404, b"{}", {"X-Error-Code": "RepoNotFound"})

    def send_json(self, values: object) -> None:
        self.send_answer(200, json.dumps(values).encode(), {"Content-Type": "application/json"})

    def send_file(self, file: Path) -> None:
        data = file.read_bytes()
        etag = hashlib.sha256(data).hexdigest()
        headers = {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        start = 0
        if self.command == "GET":
            wanted = self.headers.get("Range", "")
            self.server.gets.append((file.name, wanted))
            if match := re.match(r"bytes=(\d+)-", wanted):
                start = int(match[1])
                headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        if self.command == "GET" and file.name == self.server.broken:
            time.sleep(0.5)  # the other files, fetched beside it, are whole by then
            self.send_answer(500, b"", {})
            return
        self.send_answer(206 if start else 200, data[start:], headers, file.name)

    def send_answer(
        self, status: int, body: bytes, headers: dict[str, str], name: str = ""
    ) -> None:
        self.send_response(status)
        for key, value in (headers | {"Content-Length": str(len(body))}).items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if name and name == self.server.cut_once:
            self.server.cut_once = ""
            self.wfile.write(body[: len(body) // 2])
            self.wfile.flush()
            # An end of stream, not a reset: a reset may throw away what was already sent.
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_WR)
            return
        self.wfile.write(body)


@pytest.fixture
def hub(tiny_config: ModelConfig, tmp_path: Path) -> Iterator[Hub]:
    """A running hub with an official repository: both layouts, tokenizer and a readme."""
    folder = tmp_path / "repository"
    config = tiny_config.replace(vocab_size=8192)
    write_random("hf", folder, config, seed=1)
    write_random("consolidated", folder, config, seed=2)
    for name in ("tokenizer.model", "README.md", "extra.bin"):
        (folder / name).write_text(name)
    server = Hub(folder)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


_RESOLVE = """
import sys
from huggingface_hub import constants
from mixtral.checkpoint import resolve_model_path
from mixtral.errors import CheckpointError
constants.DOWNLOAD_CHUNK_SIZE = 4096  # What is not written in full chunks is lost at a cut.
for model in sys.argv[1:]:
    try:
        print(resolve_model_path(model, progress=True))
    except CheckpointError as error:
        print("error:", error)
"""


def resolve(*models: str, hub_url: str, home: Path, **environment: str) -> tuple[list[str], str]:
    """Return a line for each model, and standard error.

    In a process of its own, because huggingface_hub reads its settings when it is imported.
    """
    settings = {
        "HF_ENDPOINT": hub_url,
        "HF_HOME": str(home),
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",
        "NO_PROXY": "*",
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", _RESOLVE, *models],
        env=os.environ | settings | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stdout.splitlines(), done.stderr


SHARDS = [f"model-0000{number}-of-00003.safetensors" for number in (1, 2, 3)]


def test_download_takes_one_copy_resumes_and_is_kept(hub: Hub, tmp_path: Path) -> None:
    home = tmp_path / "home"
    hub.cut_once, hub.broken = SHARDS[0], SHARDS[2]
    (line,), _ = resolve("org/name", hub_url=hub.url, home=home)
    assert line.startswith("error: org/name could not be downloaded")
    assert line.endswith("Try again; files that are whole are kept.")
    first, second = (wanted for name, wanted in hub.gets if name == SHARDS[0])
    assert first == ""
    assert re.fullmatch(r"bytes=[1-9]\d*-", second)

    hub.broken = ""
    hub.gets.clear()
    (line,), shown = resolve("org/name", hub_url=hub.url, home=home)
    assert shown == ""  # Not a terminal: no bar.
    assert SHARDS[0] not in dict(hub.gets)
    assert SHARDS[2] in dict(hub.gets)
    wanted = dict(open_checkpoint(hub.folder).tensors())
    found = dict(open_checkpoint(Path(line)).tensors())
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    assert sorted(path.name for path in Path(line).iterdir()) == [
        "config.json",
        *SHARDS,
        "model.safetensors.index.json",
        "params.json",
        "tokenizer.model",
    ]

    nowhere = "http://127.0.0.1:9"
    offline, _ = resolve("org/name", hub_url=nowhere, home=home, HF_HUB_OFFLINE="1")
    unreachable, shown = resolve(f"org/name@{COMMIT}", hub_url=nowhere, home=home)
    assert offline == unreachable == [line]
    assert "using the cached copy" in shown


def test_each_failure_is_one_line_that_helps(hub: Hub, tmp_path: Path) -> None:
    home = tmp_path / "home"
    for file in hub.folder.glob("*.safetensors"):
        file.unlink()
    (hub.folder / "consolidated.00.pth").unlink()
    (hub.folder / "model.safetensors.index.json").unlink()
    models = ("org/nothing", "org/gated", "org/name@v9", "org/name")
    (nothing, gated, revision, no_weights), shown = resolve(*models, hub_url=hub.url, home=home)
    assert shown == ""
    assert "org/nothing is neither a local folder nor a repository" in nothing
    assert "org/gated is gated" in gated
    assert "HF_TOKEN" in gated
    assert "has no revision v9" in revision
    assert "has no weights that can be read (it holds README.md" in no_weights
    assert hub.gets == []
    (line,), _ = resolve("org/name", hub_url=hub.url, home=home, HF_HUB_OFFLINE="1")
    assert "is not in the cache" in line
    assert "HF_HUB_OFFLINE is set" in line
    (line,), _ = resolve("org/name", hub_url="http://127.0.0.1:9", home=home)
    assert "is not in the cache and http://127.0.0.1:9 cannot be reached" in line


def test_path_stays_a_path(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"x")
    (tmp_path / "notes.txt").write_bytes(b"x")
    assert resolve_model_path(tmp_path) == tmp_path
    assert resolve_model_path(str(tmp_path / "model.safetensors")) == tmp_path
    with pytest.raises(CheckpointError, match="unknown kind"):
        resolve_model_path(tmp_path / "notes.txt")
    for name in ("nowhere", "./a/b", "/a/b", "a/b/c", "a//b", "../b", "org/na me"):
        with pytest.raises(CheckpointError, match="does not exist"):
            resolve_model_path(name)
    with pytest.raises(CheckpointError, match="does not exist"):
        resolve_model_path(tmp_path / "org" / "name")
    with pytest.raises(CheckpointError, match="empty"):
        resolve_model_path("")


@pytest.mark.parametrize(
    ("names", "first"),
    [
        ("model.safetensors consolidated.00.pth", ["model.safetensors"]),
        ("consolidated.00.pth consolidated.safetensors", ["consolidated.safetensors"]),
        ("consolidated.01.pt consolidated.00.pt", ["consolidated.00.pt", "consolidated.01.pt"]),
        ("consolidated.00.pt consolidated.00.pth", ["consolidated.00.pth"]),
        ("consolidated.safetensors.index.json consolidated-00001-of-00002.safetensors",
         ["consolidated-00001-of-00002.safetensors"]),
        ("adapter_model.safetensors pytorch_model.bin", None),
    ],
)  # fmt: skip
def test_one_copy_of_the_weights_is_chosen(names: str, first: list[str] | None) -> None:
    sets = find_weight_sets(names.split())
    assert (list(sets[0].files) if sets else None) == first


def test_index_without_its_shards_gives_way_to_another_copy() -> None:
    index = "model.safetensors.index.json"
    names = ["config.json", index, "consolidated.safetensors", "params.json"]
    assert "consolidated.safetensors" in _choose_files("org/name", dict.fromkeys(names, 1))
    with pytest.raises(CheckpointError, match=rf"org/name has {index}, but none of the files"):
        _choose_files("org/name", dict.fromkeys(names[:2], 1))
