"""Reads documents in a process of its own, which may be stopped.

A PDF of a few kilobytes can make a parser loop or fill the memory, and no thread can be stopped
from outside. So Markdown, HTML, PDF and docx are read by a child process with limited memory; when
its time is over it is killed, the document is refused, and the next one gets a new process. One
child reads many documents, because it takes a fifth of a second to start.

What goes through the pipes is JSON, a line for the header and the bytes of the document behind it:
a child that was taken over by a document can say nothing but text. The child starts with ``-P``, so
that a file called ``docx.py`` in the user's folder is not imported. Memory is limited on Linux,
time everywhere.
"""

import contextlib
import dataclasses
import json
import logging
import os
import subprocess
import sys
import threading
from typing import Any, BinaryIO

from mixtral.errors import Error, UnsupportedError
from mixtral.rag.documents import Document, Kind, Section, read_document
from mixtral.rag.limits import DocumentRefused, Limits

_LOG = logging.getLogger(__name__)


class ReaderProcess:
    """A child that reads documents, started with the first one. Not thread-safe.

    Args:
        limits: What a document may cost.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._process: subprocess.Popen[bytes] | None = None

    def read(self, name: str, data: bytes, kind: Kind) -> Document:
        """Read one document, as ``read_document`` does.

        Raises:
            DocumentRefused: As ``read_document``; or it takes too long or too much memory.
            UnsupportedError: The extra ``rag`` is not installed.
        """
        header = {
            "name": name,
            "kind": kind,
            "num_bytes": len(data),
            "limits": dataclasses.asdict(self._limits),
        }
        is_late = threading.Event()
        process = self._start()
        timer = threading.Timer(self._limits.timeout_s, _kill, args=(process, is_late))
        timer.start()
        try:
            answer = _exchange(process, header, data)
        except (OSError, ValueError):  # It ended, or was cut off in its answer.
            answer = None
        except BaseException:  # Ctrl-C: its answer must not be taken for the next one's.
            self._stop()
            raise
        finally:
            timer.cancel()
        if answer is None:
            self._stop()
            raise DocumentRefused(
                f"reading it took longer than timeout_s, {self._limits.timeout_s:g} s."
                if is_late.is_set()
                else "reading it ended the process that read it; it may be damaged."
            )
        return _document(answer)

    def close(self) -> None:
        """End the child; the next document would start another."""
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(OSError):
            process.stdin.close()  # type: ignore[union-attr]  # It has one.
        try:
            process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()  # type: ignore[union-attr]

    def _start(self) -> "subprocess.Popen[bytes]":
        if self._process is not None and self._process.poll() is not None:
            self._stop()
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", __name__],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
        return self._process

    def _stop(self) -> None:
        if self._process is not None:
            self._process.kill()
        self.close()


def _kill(process: "subprocess.Popen[bytes]", is_late: threading.Event) -> None:
    is_late.set()
    process.kill()


def _exchange(
    process: "subprocess.Popen[bytes]", header: dict[str, Any], data: bytes
) -> dict[str, Any] | None:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(json.dumps(header).encode() + b"\n")
    process.stdin.write(data)
    process.stdin.flush()
    line = process.stdout.readline()
    if not line.endswith(b"\n"):
        return None
    answer: dict[str, Any] = json.loads(line)
    return answer


def _document(answer: dict[str, Any]) -> Document:
    if "refused" in answer:
        raise DocumentRefused(answer["refused"])
    if "unsupported" in answer:
        raise UnsupportedError(answer["unsupported"])
    fields = answer["document"]
    fields["sections"] = tuple(Section(**section) for section in fields["sections"])
    return Document(**fields)


# ---- In the child ------------------------------------------------------------------------------


def serve(source: BinaryIO, target: BinaryIO) -> None:
    """Answer requests until the parent closes its end, as it does when it dies.

    Args:
        source: Requests: a line of JSON and the bytes of a document, again and again.
        target: Answers, a line of JSON each.
    """
    is_limited = False
    while line := source.readline():
        request = json.loads(line)
        limits = Limits(**request["limits"])
        if not is_limited:
            _limit_memory(limits.max_memory_bytes)
            is_limited = True
        data = source.read(request["num_bytes"])
        target.write(json.dumps(_answer(request, data, limits)).encode() + b"\n")
        target.flush()


def _answer(request: dict[str, Any], data: bytes, limits: Limits) -> dict[str, Any]:
    try:
        document = read_document(request["name"], data, request["kind"], limits)
        return {"document": dataclasses.asdict(document)}
    except DocumentRefused as error:
        return {"refused": str(error)}
    except Error as error:
        return {"unsupported": str(error)}
    except MemoryError:
        return {
            "refused": "reading it takes more memory than max_memory_bytes, "
            f"{limits.max_memory_bytes:,} bytes."
        }
    # The top of this process: whatever a parser says of a hostile file is an answer, too.
    except Exception as error:
        _LOG.debug("a document could not be read", exc_info=True)
        line = " ".join(str(error).split())[:200].rstrip(".")
        return {"refused": f"it cannot be read: {type(error).__name__}: {line}."}


def _limit_memory(num_bytes: int) -> None:
    """Let this process take so many bytes more than it has now."""
    if sys.platform != "linux":
        return
    import resource

    with open("/proc/self/statm", encoding="ascii") as file:
        num_pages = int(file.read().split()[0])
    bound = num_pages * resource.getpagesize() + num_bytes
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    if hard == resource.RLIM_INFINITY or bound < hard:
        resource.setrlimit(resource.RLIMIT_AS, (bound, hard))


def _main() -> None:
    # Answers get a copy of standard output; what libraries print goes where errors go.
    with os.fdopen(os.dup(1), "wb") as target:
        os.dup2(2, 1)
        serve(sys.stdin.buffer, target)


if __name__ == "__main__":
    _main()
