"""Killed at any moment, a collection is readable and has what it reported."""

import random
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("faiss", reason="the extra rag is not installed")

from mixtral.rag import Collection
from tests.rag.documents_for_tests import embed

ADD = """
import sys
from mixtral.rag import Collection, CollectionSettings
from mixtral.rag import adding
from tests.rag.documents_for_tests import embed
adding._BATCH_CHUNKS = 8
settings = CollectionSettings(chunk_tokens=16, overlap_tokens=0)
with Collection(sys.argv[1], embed=embed, embedder_name="hash", settings=settings) as collection:
    collection.add([sys.argv[2]], on_document=lambda one: print(one.document_id, flush=True))
    if len(sys.argv) > 3:
        collection.reindex()
"""


def text_of(number: int, version: int) -> str:
    return "\n\n".join(f"Document {number}, version {version}, part {i}." for i in range(6))


def write_all(docs: Path, num: int, version: int) -> None:
    docs.mkdir(exist_ok=True)
    for number in range(num):
        (docs / f"{number:03}.txt").write_text(text_of(number, version))


def run_and_kill(store: Path, docs: Path, *, after: int, then_s: float, more: str = "") -> set[str]:
    """Add in another process, kill it some time after so many reports; return what it reported."""
    command = [sys.executable, "-c", ADD, str(store), str(docs), *([more] if more else [])]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        reported = {process.stdout.readline().strip() for _ in range(after)}
        time.sleep(then_s)
        process.send_signal(signal.SIGKILL)
        # What it wrote before it died was reported, too; a cut line was not.
        rest = process.stdout.read()
        reported |= {line.strip() for line in rest.splitlines(keepends=True) if line[-1] == "\n"}
    return reported - {""}


def check(store: Path, reported: set[str], versions: set[int]) -> None:
    """Everything reported is there, and everything there is whole."""
    connection = sqlite3.connect(store / "collection.sqlite")
    assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    chunks = connection.execute("SELECT count(*) FROM chunks").fetchone()
    assert connection.execute("SELECT count(*) FROM words").fetchone() == chunks
    connection.close()
    with Collection(store, embed=embed, embedder_name="hash", create=False) as collection:
        documents = collection.documents()
        assert reported <= {one.document_id for one in documents}
        for one in documents:
            number = int(Path(one.source).stem)
            text = collection.text_of(one.document_id)
            assert text in {text_of(number, version) for version in versions}
            passages = collection.search(text.split("\n\n")[3], limit=1)
            assert passages
        assert sum(one.num_chunks for one in documents) == chunks[0]


def test_kill_during_add_loses_nothing_that_was_reported(tmp_path: Path) -> None:
    docs, store = tmp_path / "docs", tmp_path / "store"
    rng = random.Random(0)
    write_all(docs, 40, version=0)
    for attempt in range(4):
        reported = run_and_kill(store, docs, after=1 + 9 * attempt, then_s=rng.uniform(0, 0.02))
        assert reported
        check(store, reported, {0})
    # New versions over old ones: a document has one or the other, never both or neither.
    write_all(docs, 40, version=1)
    reported = run_and_kill(store, docs, after=12, then_s=0.005)
    check(store, reported, {0, 1})


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_killed_add_of_a_thousand_files_is_completed_by_another(tmp_path: Path, seed: int) -> None:
    docs, store = tmp_path / "docs", tmp_path / "store"
    rng = random.Random(seed)
    write_all(docs, 1000, version=0)
    after, then_s = rng.randrange(1, 1000), rng.uniform(0, 0.1)
    reported = run_and_kill(store, docs, after=after, then_s=then_s)
    assert len(reported) >= after
    check(store, reported, {0})
    with Collection(store, embed=embed, embedder_name="hash") as collection:
        status = {one.document_id: one.status for one in collection.add([docs])}
    assert len(status) == 1000
    assert set(status.values()) <= {"added", "unchanged"}
    assert {status[document_id] for document_id in reported} == {"unchanged"}
    check(store, set(status), {0})


def test_kill_during_reindex_leaves_the_old_chunks(tmp_path: Path) -> None:
    docs, store = tmp_path / "docs", tmp_path / "store"
    write_all(docs, 20, version=0)
    reported = run_and_kill(store, docs, after=20, then_s=0.03, more="reindex")
    assert len(reported) == 20
    check(store, reported, {0})


def test_two_processes_that_add_at_once_both_succeed(tmp_path: Path) -> None:
    store = tmp_path / "store"
    commands = []
    for name in ("one", "two"):
        write_all(tmp_path / name, 15, version=0)
        commands.append([sys.executable, "-c", ADD, str(store), str(tmp_path / name)])
    processes = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for command in commands
    ]
    for process in processes:
        out, errors = process.communicate(timeout=300)
        assert (process.returncode, errors) == (0, "")
        assert len(out.splitlines()) == 15
    check(store, set(), {0})
    with Collection(store, embed=embed, embedder_name="hash") as collection:
        assert len(collection.documents()) == 30
