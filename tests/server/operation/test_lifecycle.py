"""Start and stop: sockets, certificates, signals. Each server is a process of its own."""

import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from typing import Any

import pytest

import mixtral
from mixtral.errors import ConfigError
from mixtral.server.listen import bind, load_certificate
from mixtral.server.settings import ServerSettings

pytestmark = pytest.mark.skipif(os.name != "posix", reason="this system has no such signals")

ROOT = Path(__file__).parents[3]


class Process:
    def __init__(self, settings: dict[str, Any]) -> None:
        source = str(Path(mixtral.__file__).parents[1])
        self.popen = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "tests.server.operation.server_for_tests",
                json.dumps({"port": 0, **settings}),
            ],
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": os.pathsep.join((source, str(ROOT)))},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.open: list[HTTPConnection | HTTPResponse] = []
        self.port = int(self.line() or 0)

    def line(self) -> str:
        assert self.popen.stdout is not None
        return self.popen.stdout.readline().strip()

    def get(self, path: str) -> HTTPResponse:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=20)
        self.open.append(connection)
        connection.request("GET", path)
        response = connection.getresponse()
        self.open.append(response)
        return response

    def signal(self, number: int) -> None:
        self.popen.send_signal(number)

    def end(self) -> tuple[int, str, str]:
        """Return the status, and the rest of both outputs."""
        out, err = self.popen.communicate(timeout=30)
        return self.popen.returncode, out, err


@contextmanager
def started(**settings: Any) -> Iterator[Process]:
    process = Process(settings)
    try:
        yield process
    finally:
        process.popen.kill()
        process.popen.communicate()
        for item in process.open:
            item.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_first_signal_lets_running_requests_end_and_refuses_new_ones(number: int) -> None:
    with started(drain_timeout_s=20) as process:
        assert process.get("/ready").status == 200
        running = process.get("/slow")
        assert running.readline() == b"begin\n"
        process.signal(number)
        time.sleep(0.15)
        assert process.get("/ready").status == 503
        assert process.get("/health").status == 200
        refused = process.get("/v1/models")
        assert (refused.status, refused.headers["connection"]) == (503, "close")
        assert json.loads(refused.read())["code"] == "stopping"
        assert running.read() == b"end\n"
        assert process.end()[:2] == (0, "stop\nclean\n")


def test_idle_server_stops_within_a_second_though_connections_are_open() -> None:
    with started() as process:
        idle = process.get("/health")
        idle.read()
        began = time.perf_counter()
        process.signal(signal.SIGTERM)
        assert process.end()[0] == 0
        assert time.perf_counter() - began < 5


def test_what_runs_after_the_drain_time_is_ended_and_told_so() -> None:
    with started(drain_timeout_s=0.2) as process:
        running = process.get("/endless")
        assert running.readline() == b"begin\n"
        process.signal(signal.SIGTERM)
        assert running.read() == b"end\n"
        status, out, err = process.end()
        assert (status, out) == (0, "stop\nclean\n")
        assert "1 requests still run after 0.2 s and are ended" in err


def test_second_signal_stops_at_once() -> None:
    with started(drain_timeout_s=3600) as process:
        running = process.get("/stuck")
        assert running.readline() == b"begin\n"
        process.signal(signal.SIGTERM)
        time.sleep(0.3)
        assert process.popen.poll() is None
        process.signal(signal.SIGTERM)
        assert process.end()[:2] == (143, "")


def test_server_whose_engine_died_stops_with_a_failure() -> None:
    with started() as process:
        assert process.get("/die").read() == b"begin\nend\n"
        status, out, err = process.end()
        assert (status, out) == (1, "")
        assert "EngineDead: the engine stopped after a failure" in err


def test_hangup_reads_keys_again_and_serves_on() -> None:
    with started() as process:
        process.signal(signal.SIGHUP)
        assert process.line() == "reload"
        assert process.get("/health").status == 200


# ---- Certificates ----------------------------------------------------------------------------


def make_certificate(folder: Path, name: str) -> tuple[str, str]:
    key, cert = folder / f"{name}.key", folder / f"{name}.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    command += ["-nodes", "-days", "2", "-subj", f"/CN={name}", "-keyout", key, "-out", cert]
    try:
        subprocess.run(command, check=True, capture_output=True, timeout=30)
    except FileNotFoundError:
        pytest.skip("openssl is not installed; it makes the certificate of this test")
    return str(cert), str(key)


def test_server_speaks_tls_and_takes_a_new_certificate_on_hangup(tmp_path: Path) -> None:
    cert, key = make_certificate(tmp_path, "first")
    new_cert, new_key = make_certificate(tmp_path, "second")
    first, second = Path(cert).read_text(), Path(new_cert).read_text()
    with started(tls_cert=cert, tls_key=key) as process:
        address = ("127.0.0.1", process.port)
        assert ssl.get_server_certificate(address, timeout=10) == first
        # A pair that does not fit changes nothing.
        Path(cert).write_text(second)
        process.signal(signal.SIGHUP)
        assert process.line() == "reload"
        assert ssl.get_server_certificate(address, timeout=10) == first
        Path(key).write_text(Path(new_key).read_text())
        process.signal(signal.SIGHUP)
        assert process.line() == "reload"
        assert ssl.get_server_certificate(address, timeout=10) == second
        process.signal(signal.SIGTERM)
        status, _, err = process.end()
        assert status == 0
        assert "the certificate stays as it was" in err


def test_certificate_that_cannot_be_used_is_one_line(tmp_path: Path) -> None:
    cert, key = make_certificate(tmp_path, "first")
    other_cert, _ = make_certificate(tmp_path, "second")
    garbage = tmp_path / "garbage.pem"
    garbage.write_text("no certificate")
    cases = [
        ("no.pem", key, "tls_cert is no.pem: No such file or directory."),
        (cert, "no.pem", "tls_key is no.pem: No such file or directory."),
        (cert, str(tmp_path), "Is a directory"),
        (str(garbage), key, "cannot be used"),
        (other_cert, key, "cannot be used"),
    ]
    for tls_cert, tls_key, message in cases:
        with pytest.raises(ConfigError) as caught:
            load_certificate(ServerSettings(tls_cert=tls_cert, tls_key=tls_key))
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)


# ---- Sockets ---------------------------------------------------------------------------------


def close(sockets: list[socket.socket]) -> None:
    for bound in sockets:
        bound.close()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.0.0.5"])
def test_loopback_needs_no_key(host: str) -> None:
    sockets = bind(ServerSettings(host=host, port=0), is_open=True)
    assert len({bound.getsockname()[1] for bound in sockets}) == 1
    close(sockets)


def test_other_addresses_need_a_key_or_a_word() -> None:
    with pytest.raises(ConfigError, match=r"host is 0\.0\.0\.0, where other machines could ask"):
        bind(ServerSettings(host="0.0.0.0", port=0), is_open=True)
    close(bind(ServerSettings(host="0.0.0.0", port=0), is_open=False))
    close(bind(ServerSettings(host="0.0.0.0", port=0, allow_no_key=True), is_open=True))


def test_port_in_use_is_one_line() -> None:
    first = bind(ServerSettings(port=0), is_open=True)
    first[0].listen()
    port = first[0].getsockname()[1]
    with pytest.raises(ConfigError, match=f"port is {port}, which is in use on 127.0.0.1"):
        bind(ServerSettings(port=port), is_open=True)
    close(first)


@pytest.mark.parametrize("host", ["no.such.host.invalid", "192.0.2.1", "a..b", "x" * 300])
def test_host_that_is_none_of_ours_is_one_line(host: str) -> None:
    with pytest.raises(ConfigError, match="which is no address of this machine"):
        bind(ServerSettings(host=host, port=0), is_open=False)


def test_stopped_server_leaves_its_port_free() -> None:
    with started() as process:
        assert process.get("/health").status == 200
        process.signal(signal.SIGTERM)
        process.end()
    close(bind(ServerSettings(port=process.port), is_open=True))
