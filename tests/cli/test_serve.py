"""``mixtral serve``: options from three places, one line per failure, a server that starts."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import mixtral
from mixtral.cli.serve import ServerOptions
from mixtral.server.settings import setting_names
from tests.cli.conftest import Run

KEYS = """
[keys]
alice = "alices-secret"
[keys.slow]
key = "slows-secret"
requests_per_minute = 1
"""
CONFIG = """
model = "nano"
port = 0
max_body_mb = 0.01
embedding_model = "none"
log_format = "json"
max_num_seqs = 4
"""


def command(*arguments: object) -> list[str]:
    code = "from mixtral.cli.main import main\nmain()"
    return [sys.executable, "-c", code, "serve", *map(str, arguments)]


def environment(**variables: str) -> dict[str, str]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith("MIXTRAL_")}
    source = str(Path(mixtral.__file__).parents[1])
    path = os.pathsep.join(filter(None, (source, os.environ.get("PYTHONPATH"))))
    return clean | {"PYTHONPATH": path} | variables


def fails(*arguments: object, **variables: str) -> str:
    """Run a command that must end before the model is loaded; return its line of error."""
    process = subprocess.run(
        command(*arguments), env=environment(**variables), capture_output=True, timeout=60
    )
    assert process.returncode == 2
    assert process.stdout == b""
    (line,) = process.stderr.decode().splitlines()
    assert line.startswith("error: ")
    return line


# ---- Options ---------------------------------------------------------------------------------


def test_every_setting_is_an_option(run: Run) -> None:
    result = run("serve", "--help")
    assert set(ServerOptions.__dataclass_fields__) == set(setting_names())
    for option in ("--host", "--api-keys-file", "--max-num-seqs", "--alias", "--model", "--config"):
        assert option in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--port", "x"], "--port: port is 'x'; it must be a whole number."),
        (["--port", "70000"], "--port: port is 70000; it must be from 0 to 65535."),
        (["--log-format", "xml"], "--log-format: log_format is 'xml'; it must be text or json."),
        (["--alias", "a"], "--alias: aliases is 'a'; it must be NAME=SERVED_NAME"),
        (["--cors-origin", "x"], "--cors-origin: cors_origins has 'x'; an origin is"),
        (["--tls-cert", "c.pem"], "tls_key is missing; tls_cert needs it"),
        (["--config", "no-such.toml"], "no-such.toml, which does not exist"),
        (["--prot", "1"], "--prot"),
    ],
)
def test_wrong_option_is_one_line(run: Run, arguments: list[str], message: str) -> None:
    result = run("serve", *arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


def test_wrong_setting_of_file_or_environment_names_its_place(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "mixtral.toml"
    file.write_text("kv_cache_gb = 'much'")
    result = run("serve", "--config", file)
    assert "mixtral.toml: kv_cache_gb is 'much'; it must be a number." in result.stderr
    monkeypatch.setenv("MIXTRAL_MAX_MODEL_LEN", "long")
    result = run("serve")
    assert "MIXTRAL_MAX_MODEL_LEN: max_model_len is 'long'; it must be" in result.stderr
    monkeypatch.setenv("MIXTRAL_CONFIG", str(tmp_path / "no.toml"))
    assert "no.toml, which does not exist" in run("serve").stderr


# ---- The door --------------------------------------------------------------------------------


def test_port_in_use_is_told_before_the_model_is_loaded() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        line = fails("--port", port, "--model", "no-such-model")
    assert f"port is {port}, which is in use on 127.0.0.1" in line


def test_other_machines_need_a_key() -> None:
    line = fails("--host", "0.0.0.0", "--port", 0)
    assert "give --api-key or --api-keys-file, or say --allow-no-key" in line


def test_broken_file_of_keys_is_told(tmp_path: Path) -> None:
    file = tmp_path / "keys.toml"
    file.write_text("[keys]\nalice = 3")
    assert "the key alice has no usable text" in fails(MIXTRAL_API_KEYS_FILE=str(file))


def test_missing_certificate_is_told() -> None:
    line = fails("--tls-cert", "no.pem", "--tls-key", "no.key")
    assert "tls_cert is no.pem: No such file or directory." in line


# ---- A running server ------------------------------------------------------------------------


class Server:
    def __init__(self, folder: Path) -> None:
        (folder / "keys.toml").write_text(KEYS)
        (folder / "keys.toml").chmod(0o600)
        (folder / "mixtral.toml").write_text(CONFIG)
        self.log = folder / "log"
        with self.log.open("wb") as log:
            self.popen = subprocess.Popen(
                command("--config", folder / "mixtral.toml", "--max-body-mb", 0.02),
                env=environment(MIXTRAL_API_KEYS_FILE=str(folder / "keys.toml"), MIXTRAL_PORT=""),
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        assert self.popen.stdout is not None
        self.ready_line = self.popen.stdout.readline()
        assert self.ready_line, self.log.read_text()
        self.url = self.ready_line.split(" on ")[1].split()[0]

    def ask(
        self, path: str, body: Any = None, *, key: str | None = "alices-secret", raw: bytes = b""
    ) -> tuple[int, bytes, dict[str, str]]:
        """Return status, body and headers."""
        data = raw or (None if body is None else json.dumps(body).encode())
        headers = {"Content-Type": "application/json", "X-Request-Id": f"id-of-{path[1:]}"}
        if key is not None:
            headers["Authorization"] = f"Bearer {key}"
        request = urllib.request.Request(self.url + path, data=data, headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, answer.read(), dict(answer.headers.items())
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read(), dict(error.headers.items())

    def log_lines(self, path: str) -> list[dict[str, Any]]:
        """Return the lines of a path; they are written when the client has its answer already."""
        end = time.monotonic() + 10
        while True:
            lines = [json.loads(line) for line in self.log.read_text().splitlines()]
            found = [line for line in lines if line.get("path") == path]
            if found or time.monotonic() > end:
                return found
            time.sleep(0.02)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    running = Server(tmp_path_factory.mktemp("server"))
    yield running
    running.popen.kill()
    running.popen.communicate()


CHAT = {"model": "mistral-small", "messages": [{"role": "user", "content": "Say hello."}]}


def test_line_says_what_is_served_and_where(server: Server) -> None:
    assert server.ready_line == f"Serving nano on {server.url} (docs: {server.url}/docs)\n"
    assert server.url.startswith("http://127.0.0.1:")


def test_probes_and_documentation_are_open(server: Server) -> None:
    for path in ("/health", "/ready", "/docs", "/openapi.json"):
        assert server.ask(path, key=None)[0] == 200


def test_chat_is_answered_and_leaves_one_line_without_its_words(server: Server) -> None:
    status, body, headers = server.ask("/v1/chat/completions", CHAT | {"max_tokens": 5})
    assert status == 200
    assert headers["x-request-id"] == "id-of-v1/chat/completions"
    usage = json.loads(body)["usage"]
    (line,) = server.log_lines("/v1/chat/completions")
    assert (line["key"], line["status"]) == ("alice", 200)
    assert line["prompt_tokens"] == usage["prompt_tokens"] > 0
    assert line["completion_tokens"] == usage["completion_tokens"] > 0
    assert 0 < line["ttft_ms"] <= line["duration_ms"]
    assert "hello" not in server.log.read_text()


def test_keys_and_their_limits_hold(server: Server) -> None:
    assert server.ask("/v1/models", key=None)[0] == 401
    assert server.ask("/v1/models", key="wrong")[0] == 401
    assert server.ask("/v1/models")[0] == 200
    tokenize = {"text": "x"}
    assert server.ask("/v1/tokenize", tokenize, key="slows-secret")[0] == 200
    status, _, headers = server.ask("/v1/tokenize", tokenize, key="slows-secret")
    assert status == 429
    assert int(headers["retry-after"]) > 5


def test_names_of_keys_are_in_the_metrics(server: Server) -> None:
    server.ask("/v1/models")
    assert server.ask("/metrics", key=None)[0] == 401
    assert b'key="alice"' in server.ask("/metrics")[1]


def test_command_line_wins_over_the_file(server: Server) -> None:
    status, body, _ = server.ask("/v1/chat/completions", raw=b" " * 20_001)
    assert status == 413
    assert "larger than 0.02 MB" in json.loads(body)["message"]
    assert server.ask("/v1/chat/completions", raw=b" " * 20_000)[0] == 400


def test_signal_ends_a_stream_cleanly_and_the_server_with_status_0(server: Server) -> None:
    """The last test of this server: it is not there any more."""
    body = json.dumps(CHAT | {"stream": True, "max_tokens": 200}).encode()
    headers = {"Content-Type": "application/json", "Authorization": "Bearer alices-secret"}
    request = urllib.request.Request(server.url + "/v1/chat/completions", body, headers)
    with urllib.request.urlopen(request, timeout=60) as stream:
        stream.readline()
        server.popen.send_signal(signal.SIGTERM)
        rest = stream.read()
    assert rest.endswith(b"data: [DONE]\n\n")
    assert b'"finish_reason":"error"' not in rest
    assert server.popen.wait(timeout=30) == 0
