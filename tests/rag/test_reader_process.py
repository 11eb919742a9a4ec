"""The process that reads gives what reading here gives, and can be stopped."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("pypdf", reason="the extra rag is not installed")
pytest.importorskip("docx", reason="the extra rag is not installed")
pytest.importorskip("bs4", reason="the extra rag is not installed")

from mixtral.rag.documents import kind_of, read_document
from mixtral.rag.limits import DocumentRefused, Limits
from mixtral.rag.reader_process import ReaderProcess
from tests.rag.documents_for_tests import make_docx, make_pdf


@pytest.fixture(scope="module")
def reader() -> Iterator[ReaderProcess]:
    process = ReaderProcess(Limits())
    yield process
    process.close()


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.pdf", make_pdf(["One page.", "Another."], title="T", bookmarks=[("B", 2)])),
        ("a.docx", make_docx([("Heading 1", "One"), ("Normal", "words \u6771")])),
        ("a.html", b"<title>T</title><h1>One</h1><p>words &#128512;</p>"),
        ("a.md", "# One\n\nwörds\n".encode()),
    ],
)
def test_document_is_the_same_as_read_in_this_process(
    name: str, data: bytes, reader: ReaderProcess
) -> None:
    kind = kind_of(name)
    assert kind is not None
    assert reader.read(name, data, kind) == read_document(name, data, kind, Limits())


def test_refusals_come_through_and_the_next_document_is_read(reader: ReaderProcess) -> None:
    reader.read("a.md", b"text", "markdown")
    first = reader._process
    with pytest.raises(DocumentRefused, match="it is no PDF"):
        reader.read("a.pdf", b"text", "pdf")
    assert reader.read("a.md", b"text", "markdown").text == "text"
    assert reader._process is first


def test_process_that_ends_refuses_one_document_and_the_next_has_another(
    reader: ReaderProcess,
) -> None:
    reader.read("a.md", b"text", "markdown")
    assert reader._process is not None
    os.kill(reader._process.pid, signal.SIGSTOP)
    pid = reader._process.pid

    reader._limits = Limits(timeout_s=0.3)
    started = time.perf_counter()
    with pytest.raises(DocumentRefused, match=r"longer than timeout_s, 0\.3 s"):
        # More than a pipe holds: the parent must not wait for a child that does not read.
        reader.read("a.md", b"text" * 100_000, "markdown")
    assert time.perf_counter() - started < 10
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    reader._limits = Limits()
    assert reader.read("a.md", b"text", "markdown").text == "text"
    os.kill(reader._process.pid, signal.SIGKILL)
    reader._process.wait()
    assert reader.read("a.md", b"again", "markdown").text == "again"


@pytest.mark.skipif(sys.platform != "linux", reason="memory is limited on Linux only")
def test_document_that_takes_too_much_memory_is_refused() -> None:
    reader = ReaderProcess(Limits(max_memory_bytes=60_000_000))
    try:
        with pytest.raises(DocumentRefused, match=r"memory|ended the process|cannot be read"):
            reader.read("a.html", b"<p>x<i>y</i></p>" * 400_000, "html")
        assert reader.read("a.html", b"<p>x</p>", "html").text.strip() == "x"
    finally:
        reader.close()


def test_nothing_is_imported_from_the_folder_of_the_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("markdown_it", "json", "docx"):
        (tmp_path / f"{name}.py").write_text("open('was_run', 'w')\n")
    monkeypatch.chdir(tmp_path)
    reader = ReaderProcess(Limits())
    try:
        assert reader.read("a.md", b"text", "markdown").text == "text"
    finally:
        reader.close()
    assert not (tmp_path / "was_run").exists()


def test_child_ends_when_its_parent_is_killed() -> None:
    code = (
        "from mixtral.rag.reader_process import ReaderProcess\n"
        "from mixtral.rag.limits import Limits\n"
        "reader = ReaderProcess(Limits())\n"
        "reader.read('a.md', b'text', 'markdown')\n"
        "print(reader._process.pid, flush=True)\n"
        "input()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        parent.kill()
    deadline = time.monotonic() + 20
    while Path(f"/proc/{child}").exists() and time.monotonic() < deadline:
        if "Z" in Path(f"/proc/{child}/stat").read_text().split()[2]:
            break  # Ended; nobody has asked how.
        time.sleep(0.02)
    else:
        assert not Path(f"/proc/{child}").exists()
