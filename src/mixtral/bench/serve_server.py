"""A ``mixtral serve`` of our own to measure: started on a free port, watched, and stopped."""

import http.client
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from mixtral.errors import ConfigError, EngineError

_HOST = "127.0.0.1"
_STOP_TIMEOUT_S = 20.0
# Says which kernels run, here and there; every other variable of ours is a setting of a server.
_KEPT_VARIABLE = "MIXTRAL_CPU_LEVEL"


@dataclass(frozen=True, kw_only=True, slots=True)
class OwnServer:
    """A server process on this machine."""

    url: str
    """What requests go below."""
    pid: int
    start_s: float
    """Seconds from the start of the process until it was ready."""

    def rss_bytes(self) -> int | None:
        """Resident memory now; None where the system does not say."""
        return _status_bytes(self.pid, "VmRSS")

    def peak_rss_bytes(self) -> int | None:
        """Highest resident memory so far; None where the system does not say."""
        return _status_bytes(self.pid, "VmHWM")

    def cpu_s(self) -> float | None:
        """Processor seconds of all its threads so far; None where the system does not say."""
        try:
            text = Path(f"/proc/{self.pid}/stat").read_text(encoding="utf-8")
        except OSError:
            return None
        # The name of the program, in parentheses, may hold spaces; utime and stime follow it.
        fields = text.rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def own_server(
    arguments: Sequence[str], *, start_timeout_s: float = 600.0, program: Sequence[str] = ()
) -> Iterator[OwnServer]:
    """Run ``mixtral serve`` while the body runs.

    Args:
        arguments: Options of ``mixtral serve``; host and port are added.
        start_timeout_s: Longest time until it is ready.
        program: What to run in its place.

    Raises:
        ConfigError: It refused its options.
        EngineError: It failed to start.
    """
    port = _free_port()
    command = [*(program or (sys.executable, "-m", "mixtral.cli", "serve"))]
    command += [*arguments, "--host", _HOST, "--port", str(port)]
    with tempfile.TemporaryFile() as log:
        begin = time.perf_counter()
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=_without_settings(os.environ),
            # Ctrl-C is for the load generator, which then stops the server.
            start_new_session=True,
        )
        try:
            _wait_until_ready(process, port, log, begin + start_timeout_s)
            yield OwnServer(
                url=f"http://{_HOST}:{port}/v1",
                pid=process.pid,
                start_s=time.perf_counter() - begin,
            )
        finally:
            _stop(process)


def _without_settings(environ: Mapping[str, str]) -> dict[str, str]:
    """Leave out the user's settings of a server: keys, and all that the report does not know of."""
    return {
        name: value
        for name, value in environ.items()
        if name == _KEPT_VARIABLE or not name.startswith("MIXTRAL_")
    }


def _wait_until_ready(
    process: "subprocess.Popen[bytes]", port: int, log: IO[bytes], deadline: float
) -> None:
    while not _is_ready(port):
        if (status := process.poll()) is not None:
            reason = _last_line(log).removeprefix("error: ")
            if status == 2:
                raise ConfigError(reason)
            raise EngineError(f"mixtral serve ended with status {status}: {reason}")
        if time.perf_counter() > deadline:
            raise EngineError(f"mixtral serve was not ready in time; it said: {_last_line(log)}")
        time.sleep(0.02)


def _is_ready(port: int) -> bool:
    connection = http.client.HTTPConnection(_HOST, port, timeout=5)
    try:
        connection.request("GET", "/ready")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _stop(process: "subprocess.Popen[bytes]") -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(timeout=_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
    process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((_HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def _last_line(log: IO[bytes]) -> str:
    log.seek(0)
    lines = log.read().decode("utf-8", "replace").strip().splitlines()
    return lines[-1] if lines else "no message"


def _status_bytes(pid: int, name: str) -> int | None:
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    for line in lines:
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    return None
