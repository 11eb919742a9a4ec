"""A collection in Qdrant is the same collection; its client's local mode stands in for a server."""

import gc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("qdrant_client", reason="the extra qdrant is not installed")
pytest.importorskip("Stemmer", reason="the extra qdrant is not installed")

from qdrant_client import QdrantClient
from qdrant_client.models import Distance, PointStruct, VectorParams

from mixtral.errors import ConfigError
from mixtral.rag import Collection, CollectionSettings
from mixtral.rag.embedding import PROBE
from mixtral.rag.qdrant import QdrantStore
from mixtral.rag.qdrant_connection import INSIDE
from mixtral.rag.qdrant_parts import Facts, Parts
from mixtral.rag.qdrant_points import unsearched
from tests.rag.documents_for_tests import embed

SMALL = CollectionSettings(chunk_tokens=16, overlap_tokens=0)
TEXTS = {
    "moon.txt": "The moon goes around the earth in 27 days. It is made of rock and of dust.",
    "bread.txt": "Bread is baked from flour, water and salt. The oven is hot.",
    "router.txt": "The router chooses two experts for each token. Error E4711 is rare.",
}


def open_at(
    place: str | Path,
    *,
    name: str = "hash",
    embedder: Callable[[Sequence[str]], NDArray[np.float32]] = embed,
    settings: CollectionSettings | None = SMALL,
    create: bool = True,
) -> Collection:
    return Collection(place, embed=embedder, embedder_name=name, settings=settings, create=create)


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"qdrant://{tmp_path / 'qdrant'}"


@pytest.fixture
def filled(url: str) -> Iterator[Collection]:
    with open_at(url) as collection:
        for name, text in TEXTS.items():
            assert collection.add_bytes(name, text.encode()).status == "added"
        yield collection


def test_finds_what_the_local_store_finds(filled: Collection, tmp_path: Path) -> None:
    pytest.importorskip("faiss", reason="the extra rag is not installed")
    # By similarity alone: the two count words in their own ways.
    settings = CollectionSettings(chunk_tokens=16, overlap_tokens=0, keyword_weight=0)
    with open_at(tmp_path / "store", settings=settings) as local:
        for name, text in TEXTS.items():
            local.add_bytes(name, text.encode())
        filled._store.settings = settings
        for question in ("what is bread made of", "moon", "experts of a token"):
            expected, found = local.search(question), filled.search(question)
            assert [(p.source, p.start, p.end, p.text) for p in found] == [
                (p.source, p.start, p.end, p.text) for p in expected
            ]
            assert [p.score for p in found] == pytest.approx([p.score for p in expected], abs=1e-5)
        ours, theirs = filled.documents(), local.documents()
        assert [(d.source, d.num_chunks, d.sha256) for d in ours] == [
            (d.source, d.num_chunks, d.sha256) for d in theirs
        ]


def test_words_and_stems_are_found(url: str) -> None:
    # By words alone: the embedder of these tests knows nothing of meaning.
    with open_at(url, settings=replace(SMALL, keyword_weight=1.0)) as collection:
        for name, text in TEXTS.items():
            collection.add_bytes(name, text.encode())
        assert "E4711" in collection.search("e4711", limit=1)[0].text
        assert collection.search("baking", limit=1)[0].source == "bread.txt"


def test_unchanged_updated_and_removed(filled: Collection) -> None:
    assert filled.add_bytes("moon.txt", TEXTS["moon.txt"].encode()).status == "unchanged"
    assert filled.add_bytes("moon.txt", b"Green cheese.").status == "updated"
    texts = [passage.text for passage in filled.search("moon earth rock cheese", limit=20)]
    assert "Green cheese." in texts
    assert not any("rock" in text for text in texts)
    assert filled.remove(["moon.txt"]) == 1
    assert [document.source for document in filled.documents()] == ["bread.txt", "router.txt"]
    assert {passage.source for passage in filled.search("cheese", limit=20)} == {
        "bread.txt",
        "router.txt",
    }


def test_chunks_of_a_version_that_was_not_finished_are_not_found(
    filled: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mixtral.rag import qdrant_points

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(qdrant_points, "document_point", die)
        with pytest.raises(KeyboardInterrupt):
            filled.add_bytes("moon.txt", b"Half a version of the moon.")
        with pytest.raises(KeyboardInterrupt):
            filled.add_bytes("new.txt", b"Half a version of a new one.")
    found = filled.search("half a version of the moon", limit=20)
    assert "moon.txt" in {passage.source for passage in found}
    assert not any("Half" in passage.text for passage in found)
    assert filled.add_bytes("new.txt", b"A whole version of a new one.").status == "added"
    assert sum("new" in passage.source for passage in filled.search("version", limit=20)) == 1


def test_collection_opens_again_and_is_embedded_again(filled: Collection, url: str) -> None:
    filled.close()

    def wider(texts: Sequence[str]) -> NDArray[np.float32]:
        return np.concatenate([embed(texts)] * 2, axis=1) / np.float32(2**0.5)

    with open_at(url, name="wide", embedder=wider, settings=None, create=False) as collection:
        assert collection.settings.chunk_tokens == 16
        with pytest.raises(ConfigError, match="hash with 64"):
            collection.search("moon")
        num = collection.reindex(CollectionSettings(chunk_tokens=64, overlap_tokens=0))
        assert num == 3
        assert len(collection.documents()) == 3
        assert collection.search("bread and flour", limit=1)[0].source == "bread.txt"
    with open_at(url, name="wide", embedder=wider, settings=None) as collection:
        assert collection.settings.chunk_tokens == 64
        assert len(collection.search("moon", limit=9)) == 3


def test_reindex_that_fails_leaves_everything_as_it_was(filled: Collection) -> None:
    expected = filled.search("bread and flour")
    with pytest.raises(ZeroDivisionError), filled._store.rewriting(SMALL, filled._models.mark()):
        raise ZeroDivisionError
    assert filled.search("bread and flour") == expected


def test_empty_missing_and_unreachable_collections(url: str) -> None:
    with pytest.raises(ConfigError, match="has no collection"):
        open_at(url, create=False)
    with open_at(url) as collection:
        assert collection.documents() == []
        assert collection.search("anything") == []
        assert collection.remove([]) == 0
        with pytest.raises(ConfigError, match="no document"):
            collection.text_of("not hexadecimal")
    with pytest.raises(ConfigError, match="names no folder"):
        open_at("qdrant://")
    with pytest.raises(ConfigError, match=r"Qdrant at http://127\.0\.0\.1:9/x cannot be used"):
        open_at("http://127.0.0.1:9/x")


# ---- Several processes -------------------------------------------------------------------------


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[QdrantClient]:
    """A Qdrant for several collections at once, as processes have one."""
    client = QdrantClient(":memory:")
    close = client.close
    monkeypatch.setattr(client, "close", lambda: None)
    monkeypatch.setattr("mixtral.rag.qdrant.connect", lambda url: (client, "shared"))
    yield client
    close()


def test_reindex_takes_over_what_another_process_changes_meanwhile(server: QdrantClient) -> None:
    other = open_at(INSIDE)
    for name, text in TEXTS.items():
        other.add_bytes(name, text.encode())
    # Each is done while what the one before brought is embedded.
    added = {
        "late.txt": b"Tides come twice a day.",
        "moon.txt": b"Green cheese.",
        "bread.txt": b"Bread again, with rye.",
    }
    removed = ["router.txt", "bread.txt", "late.txt"]

    def embed_while_others_write(texts: Sequence[str]) -> NDArray[np.float32]:
        if added and texts != [PROBE]:
            name = next(iter(added))
            other.remove([removed.pop(0)])
            other.add_bytes(name, added.pop(name))
        return embed(texts)

    collection = open_at(INSIDE, embedder=embed_while_others_write)
    assert collection.reindex() == 2
    assert not added
    for one in (collection, other):
        texts = {passage.text for passage in one.search("what is new", limit=20)}
        assert texts == {"Green cheese.", "Bread again, with rye."}
        assert [document.source for document in one.documents()] == ["bread.txt", "moon.txt"]
    assert len(server.get_collections().collections) == 3


@pytest.mark.parametrize("place", ["before", "after"])
def test_change_around_the_moment_when_new_chunks_begin_to_count_is_kept(
    server: QdrantClient, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    collection, other = open_at(INSIDE), open_at(INSIDE)
    for name, text in TEXTS.items():
        collection.add_bytes(name, text.encode())
    write = QdrantStore._write

    def write_beside_another(store: QdrantStore, facts: Facts) -> None:
        if place == "after":
            write(store, facts)
        other.add_bytes("late.txt", b"Tides come twice a day.")
        other.add_bytes("moon.txt", b"Green cheese.")
        other.remove(["bread.txt"])
        if place == "before":
            write(store, facts)

    monkeypatch.setattr(QdrantStore, "_write", write_beside_another)
    collection.reindex()
    assert [d.source for d in other.documents()] == ["late.txt", "moon.txt", "router.txt"]
    texts = {p.text for p in collection.search("tides and cheese", limit=20)}
    assert {"Tides come twice a day.", "Green cheese."} <= texts
    assert not any("rock" in text for text in texts)


def test_document_that_is_written_while_another_process_reindexes_is_written_again(
    server: QdrantClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    collection, other = open_at(INSIDE), open_at(INSIDE)
    other.add_bytes("moon.txt", TEXTS["moon.txt"].encode())
    put = Parts.put

    def put_too_late(parts: Parts, *arguments: Any) -> str:
        if parts.number == 0:  # The other one has chosen where to write, and sleeps.
            monkeypatch.setattr(Parts, "put", put)
            collection.reindex()
        try:
            return put(parts, *arguments)
        except ValueError as error:  # Where a server has an error that is a kind of OSError to us.
            raise OSError(error) from error

    monkeypatch.setattr(Parts, "put", put_too_late)
    assert other.add_bytes("late.txt", b"Tides come twice a day.").status == "added"
    assert {p.source for p in collection.search("tides", limit=9)} == {"moon.txt", "late.txt"}


def test_first_documents_of_two_processes_are_both_there(
    server: QdrantClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    collection, other = open_at(INSIDE), open_at(INSIDE)
    make = Parts.make

    def make_too_late(parts: Parts, *, with_payload_index: bool) -> None:
        monkeypatch.setattr(Parts, "make", make)
        other.add_bytes("moon.txt", TEXTS["moon.txt"].encode())
        make(parts, with_payload_index=with_payload_index)

    monkeypatch.setattr(Parts, "make", make_too_late)
    collection.add_bytes("bread.txt", TEXTS["bread.txt"].encode())
    assert {p.source for p in other.search("moon", limit=9)} == {"moon.txt", "bread.txt"}


def test_two_that_reindex_at_once_leave_one_that_is_whole(server: QdrantClient) -> None:
    other = open_at(INSIDE)
    other.add_bytes("moon.txt", TEXTS["moon.txt"].encode())
    others = [other]

    def embed_late(texts: Sequence[str]) -> NDArray[np.float32]:
        if texts != [PROBE] and others:
            others.pop().reindex()
        return embed(texts)

    # Without a server, its client says itself that the collections are gone.
    with pytest.raises((ConfigError, ValueError), match=r"not found|has reindexed"):
        open_at(INSIDE, embedder=embed_late).reindex()
    assert {p.source for p in other.search("moon")} == {"moon.txt"}
    assert len(server.get_collections().collections) == 3


# ---- What is in the place ----------------------------------------------------------------------


def test_collection_whose_process_was_killed_before_its_first_facts_is_begun_again(
    server: QdrantClient,
) -> None:
    server.create_collection("shared", vectors_config=unsearched())
    with pytest.raises(ConfigError, match="has no collection"):
        open_at(INSIDE, create=False)
    # Another one had made room for vectors of another size when it was killed.
    Parts(server, "shared", Facts(settings="", dimension=8), list).make(with_payload_index=False)
    collection = open_at(INSIDE)
    assert collection.add_bytes("moon.txt", TEXTS["moon.txt"].encode()).status == "added"
    assert collection.search("moon")


@pytest.mark.parametrize("payload", [None, {"city": "Berlin"}])
def test_collection_of_somebody_else_is_left_alone(
    server: QdrantClient, payload: dict[str, str] | None
) -> None:
    kind = VectorParams(size=4, distance=Distance.COSINE)
    server.create_collection("shared", vectors_config=kind)
    if payload is not None:
        server.upsert("shared", [PointStruct(id=1, vector=[1.0] * 4, payload=payload)])
    with pytest.raises(ConfigError, match="something else than documents of mixtral"):
        open_at(INSIDE)


@pytest.mark.parametrize("url", ["http://[::1/x", "http://localhost:abc/x", "http://h:99999/x"])
def test_address_that_is_none_is_one_line(url: str) -> None:
    with pytest.raises(ConfigError, match=r"is no place for a collection; write http://HOST"):
        open_at(url)


# The client leaves its lock file open when it finds the folder locked.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_folder_that_is_open_already_is_said(url: str) -> None:
    with open_at(url), pytest.raises(ConfigError, match=r"cannot be used.*already accessed"):
        open_at(url)
    gc.collect()
