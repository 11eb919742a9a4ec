"""``mixtral bench serve`` as a user types it."""

import json
import os
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from mixtral.bench.serve_server import own_server
from mixtral.cli.main import app
from mixtral.errors import ConfigError, EngineError
from tests.bench.serve_for_tests import FakeServer, running


def bench_serve(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["bench", "serve", *arguments])


SMALL = (
    "--no-probes",
    "--requests",
    "3",
    "--warmup",
    "1",
    "--prompt-tokens",
    "5",
    "--new-tokens",
    "3",
)


def test_any_server_is_measured_drawn_and_reported(tmp_path: Path) -> None:
    file, folder = tmp_path / "report.json", tmp_path / "plots"
    with running(FakeServer(behaviours=["good"] * 4 + ["refuses"])) as server:
        where = ("--url", server.url, "--endpoint", "chat", "--request-rate", "50,100")
        done = bench_serve(*where, *SMALL, "--json", str(file), "--plot", str(folder))
    assert done.exit_code == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    assert report == json.loads(file.read_text())
    assert [result["serve"]["succeeded"] for result in report["results"]] == [3, 2]
    assert report["results"][0]["model"] == "fake-model"
    assert report["results"][0]["engine"] == "fakes"
    assert server.bodies[0]["messages"][0]["role"] == "user"
    assert "load 100/s: 1 failed: HTTP 429: too many requests" in done.stderr
    names = ["latency.png", "latency.svg", "throughput.png", "throughput.svg"]
    assert sorted(path.name for path in folder.iterdir()) == names
    for name in ("latency", "throughput"):
        assert (folder / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert ElementTree.parse(folder / f"{name}.svg").getroot().tag.endswith("svg")


URL = ("--url", "http://127.0.0.1:9/v1")


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (URL, 1, "no server answers at http://127.0.0.1:9/v1: Connect"),
        (["--url", "localhost"], 2, "url is 'localhost'"),
        ([*URL, "--concurrency", "0"], 2, "concurrency is 0"),
        ([*URL, "--concurrency", "1,x"], 2, "concurrency is '1,x'"),
        ([*URL, "--request-rate", "0"], 2, "request_rate is 0.0"),
        ([*URL, "--request-rate", "nan"], 2, "request_rate is nan"),
        ([*URL, "--request-rate", "1", "--concurrency", "1"], 2, "not both"),
        ([*URL, "--endpoint", "embeddings"], 2, "endpoint is 'embeddings'"),
        ([*URL, "--endpoint", "chat", "--prompt-form", "ids"], 2, "prompt_form is 'ids'"),
        ([*URL, "--prompt-form", "words"], 2, "prompt_form is 'words'"),
        ([*URL, "--prompts", "no-such-file"], 2, "no-such-file"),
        ([*URL, "--prompts", "f", "--prompt-tokens", "9"], 2, "--prompt-tokens is for random"),
        ([*URL, "--prompts", "f", "--vocab-size", "9"], 2, "--vocab-size is for random"),
        ([*URL, "--prompts", "f", "--prompt-form", "ids"], 2, "--prompt-form is for random"),
        ([*URL, "--shared-prefix-tokens", "64"], 2, "shared_prefix_tokens is 64"),
        ([*URL, "--extra-body", "[1]"], 2, "extra_body is '[1]'"),
        ([*URL, "--extra-body", "{"], 2, "which is not JSON"),
        ([*URL, "--requests", "0"], 2, "requests is 0"),
        ([*URL, "--timeout", "0"], 2, "timeout is 0"),
        ([*URL, "--new-tokens", "0"], 2, "new_tokens is 0"),
        ([*URL, "--quantization", "int4"], 2, "--quantization is for a server"),
        ([*URL, "--model", "random:8x7b"], 2, "--model is for a server"),
        ([*URL, "--server-options", "--port 1"], 2, "--server-options is for a server"),
        (["--server-options", "'--max-num-seqs 4"], 2, "server_options is"),
        (["--api-key", "k"], 2, "--api-key goes with --url"),
        (["--model", "no-such-model"], 2, "no-such-model"),
    ],
)
def test_wrong_input_is_one_line_with_its_status(
    arguments: list[str], status: int, message: str
) -> None:
    done = bench_serve(*arguments)
    assert done.exit_code == status, done.stderr
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert done.stdout == ""


@pytest.mark.parametrize(("repeats", "is_said"), [("1", False), ("2", True)])
def test_prompts_that_come_again_are_remarked(repeats: str, is_said: bool, tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text('{"prompt": "one"}\n{"prompt": "two"}\n{"prompt": "three"}\n')
    sizes = ("--no-probes", "--requests", "2", "--warmup", "1", "--new-tokens", "2")
    with running(FakeServer()) as server:
        where = ("--url", server.url, "--prompts", str(file))
        done = bench_serve(*where, *sizes, "--repeats", repeats)
    assert done.exit_code == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["notes"]["listed_prompts"] == 3
    assert ("5 requests were made of 3 prompts" in done.stderr) is is_said


def test_when_no_request_succeeds_the_status_is_1_and_the_report_is_there() -> None:
    with running(FakeServer(behaviours=["refuses"] * 3)) as server:
        done = bench_serve("--url", server.url, *SMALL, "--warmup", "0")
    assert done.exit_code == 1
    assert json.loads(done.stdout.splitlines()[-1])["results"][0]["serve"]["failed"] == 3
    assert "error: no request succeeded." in done.stderr


def test_ctrl_c_prints_the_partial_report_and_ends_with_130() -> None:
    # A process that was started in the background ignores Ctrl-C, and so would its children.
    program = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "from mixtral.cli.main import main; main(sys.argv[1:])"
    )
    command = [sys.executable, "-c", program, "bench", "serve"]
    with running(FakeServer(behaviours=["good"] * 2 + ["hangs"] * 9)) as server:
        arguments = ["--url", server.url, *SMALL, "--served-model", "m"]
        process = subprocess.Popen(
            [*command, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        deadline = time.monotonic() + 60
        while len(server.bodies) < 3 and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    report = json.loads(stdout.splitlines()[-1])
    assert report["is_cut"] is True
    assert report["results"][0]["serve"]["succeeded"] == 1
    assert "stopped with Ctrl-C" in stderr
    assert "Traceback" not in stderr


# ---- A server of our own, played by a few lines of Python --------------------------------------

READY = """
import http.server, sys, time
port = int(sys.argv[sys.argv.index("--port") + 1])
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
http.server.HTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""


def test_own_server_is_waited_for_watched_and_stopped() -> None:
    with own_server(["--model", "nano"], program=[sys.executable, "-c", READY]) as server:
        pid = server.pid
        assert server.start_s > 0
        rss, peak, cpu_s = server.rss_bytes(), server.peak_rss_bytes(), server.cpu_s()
        if sys.platform == "linux":
            assert rss is not None
            assert peak is not None
            assert cpu_s is not None
            assert peak >= rss > 1e6
            assert cpu_s > 0
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


@pytest.mark.parametrize(("status", "kind"), [(2, ConfigError), (1, EngineError)])
def test_own_server_that_does_not_start_says_why(status: int, kind: type[Exception]) -> None:
    script = f"import sys; print('error: layers is 99.', file=sys.stderr); sys.exit({status})"
    with (
        pytest.raises(kind, match="layers is 99"),
        own_server([], program=[sys.executable, "-c", script]),
    ):
        pass


def test_own_server_that_is_never_ready_is_stopped() -> None:
    program = [sys.executable, "-c", "import time; time.sleep(60)"]
    with (
        pytest.raises(EngineError, match="not ready in time"),
        own_server([], program=program, start_timeout_s=0.3),
    ):
        pass


def test_own_server_takes_no_setting_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("MIXTRAL_MODEL", "MIXTRAL_QUANTIZATION", "MIXTRAL_API_KEY", "MIXTRAL_CPU_LEVEL"):
        monkeypatch.setenv(name, "portable")
    file = tmp_path / "names"
    script = "import os, sys; open(sys.argv[1], 'w').write('\\n'.join(os.environ)); sys.exit(2)"
    program = [sys.executable, "-c", script, str(file)]
    with pytest.raises(ConfigError), own_server([], program=program):
        pass
    names = file.read_text().split()
    assert [name for name in names if name.startswith("MIXTRAL_")] == ["MIXTRAL_CPU_LEVEL"]
    assert "PATH" in names
