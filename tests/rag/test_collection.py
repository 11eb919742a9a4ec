"""Documents go in, change, are found and go out; what is reported is on disk."""

import sqlite3
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("faiss", reason="the extra rag is not installed")

from mixtral.errors import ConfigError, InvalidRequest, UnsupportedError
from mixtral.rag import AddedDocument, CollectionSettings, Limits
from tests.rag.documents_for_tests import (
    TEXTS,
    embed,
    make_pdf,
    open_at,
    statuses,
    write_texts,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_texts(tmp_path / "docs")


# ---- Adding ----------------------------------------------------------------------------------


def test_added_documents_are_found_with_their_place(folder: Path, tmp_path: Path) -> None:
    with open_at(tmp_path / "store") as collection:
        added = collection.add([folder])
        assert statuses(added) == dict.fromkeys(sorted(TEXTS), "added")
        best, *_ = collection.search("Which experts does the router choose?")
        assert best.source == str(folder / "router.txt")
        assert best.title == "router.txt"
        text = collection.text_of(best.document_id)
        assert text == TEXTS["router.txt"]
        assert text[best.start : best.end] == best.text
        assert -1 <= best.similarity <= 1.0001
        assert [p.score for p in collection.search("moon")] == sorted(
            (p.score for p in collection.search("moon")), reverse=True
        )


def test_name_or_number_is_found_by_its_word_alone(folder: Path, tmp_path: Path) -> None:
    with open_at(tmp_path / "store") as collection:
        collection.add([folder])
        assert "E4711" in collection.search("e4711", limit=1)[0].text


def test_every_passage_is_a_span_of_its_text_and_pages_are_those_of_the_pdf(tmp_path: Path) -> None:
    pytest.importorskip("pypdf", reason="the extra rag is not installed")
    pages = [f"This is page {i}. " + f"Topic number {i * 111}." for i in range(1, 6)]
    (tmp_path / "a.pdf").write_bytes(make_pdf(pages))
    with open_at(tmp_path / "store") as collection:
        (added,) = collection.add([tmp_path / "a.pdf"])
        assert added.num_chunks == 5
        (document,) = collection.documents()
        assert document.num_pages == 5
        found = collection.search("Topic number 333", limit=5)
        assert found[0].page == 3
        text = collection.text_of(document.document_id)
        for passage in found:
            assert text[passage.start : passage.end] == passage.text
            assert passage.page is not None
            assert passage.text in text.split("\f")[passage.page - 1]


def test_same_files_again_change_nothing_and_embed_nothing(folder: Path, tmp_path: Path) -> None:
    with open_at(tmp_path / "store") as collection:
        collection.add([folder])
        before = collection.documents()

    def fail(texts: Sequence[str]) -> NDArray[np.float32]:
        raise AssertionError("nothing was to be embedded")

    with open_at(tmp_path / "store", embedder=fail) as collection:
        added = collection.add([folder])
        assert set(statuses(added).values()) == {"unchanged"}
        assert [one.num_chunks for one in added] == [1, 1, 1]
        assert collection.documents() == before


def test_changed_file_is_embedded_alone_and_replaces_its_old_passages(
    folder: Path, tmp_path: Path
) -> None:
    asked: list[str] = []

    def watch(texts: Sequence[str]) -> NDArray[np.float32]:
        asked.extend(texts)
        return embed(texts)

    with open_at(tmp_path / "store", embedder=watch) as collection:
        collection.add([folder])
        asked.clear()
        (folder / "moon.txt").write_text("The moon is made of green cheese.")
        added = collection.add([folder])
        assert statuses(added) == {
            "bread.txt": "unchanged",
            "moon.txt": "updated",
            "router.txt": "unchanged",
        }
        assert asked == ["The moon is made of green cheese."]
        assert len(collection.documents()) == 3
        texts = [passage.text for passage in collection.search("moon rock days", limit=10)]
        assert "The moon is made of green cheese." in texts
        assert TEXTS["moon.txt"] not in texts


def test_refused_document_says_why_and_others_are_added(folder: Path, tmp_path: Path) -> None:
    (folder / "bad.txt").write_bytes(b"\0\1")
    (folder / "empty.md").write_text("\n")
    (folder / "photo.jpg").write_bytes(b"x")
    with open_at(tmp_path / "store") as collection:
        reported: list[AddedDocument] = []
        added = collection.add([folder], on_document=reported.append)
        reasons = {Path(one.source).name: one.reason for one in added}
        assert reasons["bad.txt"] == "it is a binary file."
        assert reasons["empty.md"] == "it has no text."
        assert reasons["photo.jpg"] == "skipped: files of this kind are not read."
        assert sorted(reported, key=str) == sorted(added, key=str)
        assert len(collection.documents()) == 3


def test_new_version_that_is_refused_leaves_the_old_one(folder: Path, tmp_path: Path) -> None:
    with open_at(tmp_path / "store") as collection:
        collection.add([folder])
        (folder / "moon.txt").write_bytes(b"\0")
        (one,) = collection.add([folder / "moon.txt"])
        assert (one.status, one.num_chunks) == ("refused", 1)
        assert one.reason == "it is a binary file. The version added before stays."
        assert len(collection.documents()) == 3


def test_upload_is_added_replaced_and_refused_by_name(tmp_path: Path) -> None:
    with open_at(tmp_path / "store") as collection:
        first = collection.add_bytes("a.txt", b"The first version.")
        assert (first.status, first.source, first.num_chunks) == ("added", "a.txt", 1)
        assert collection.add_bytes("a.txt", b"The first version.").status == "unchanged"
        assert collection.add_bytes("a.txt", b"The second version.").status == "updated"
        assert collection.text_of(first.document_id) == "The second version."
        for name in ("../a.txt", "/etc/passwd", "a\\b.txt", ""):
            refused = collection.add_bytes(name, b"text")
            assert (refused.status, refused.num_chunks) == ("refused", 0)
        assert collection.add_bytes("photo.png", b"\x89PNG\0").reason == "it is a binary file."
        assert len(collection.documents()) == 1


def test_reported_documents_are_committed_and_batched_together(tmp_path: Path) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    for i in range(300):
        (docs / f"{i:03}.txt").write_text(f"Document number {i}.")
    sizes: list[int] = []

    def watch(texts: Sequence[str]) -> NDArray[np.float32]:
        sizes.append(len(texts))
        return embed(texts)

    other = None
    seen: list[int] = []

    def look(document: AddedDocument) -> None:
        assert other is not None
        seen.append(len(other.execute("SELECT id FROM documents").fetchall()))
        row = other.execute("SELECT 1 FROM documents WHERE id = ?", (document.document_id,))
        assert row.fetchone() is not None

    with open_at(tmp_path / "store", embedder=watch) as collection:
        other = sqlite3.connect(tmp_path / "store" / "collection.sqlite")
        added = collection.add([docs], on_document=look)
        other.close()
    assert sizes == [256, 1, 44]  # 1: what the embedder is known again by.
    assert seen == list(range(1, 301))
    assert [Path(one.source).name for one in added] == [f"{i:03}.txt" for i in range(300)]


def test_urls_need_permission_and_private_addresses_another(tmp_path: Path) -> None:
    with open_at(tmp_path / "store") as collection, pytest.raises(UnsupportedError):
        collection.add(["http://127.0.0.1:9/"])
    allowed = CollectionSettings(allow_urls=True, limits=Limits(timeout_s=5))
    with open_at(tmp_path / "store", settings=allowed) as collection:
        (one,) = collection.add(["http://127.0.0.1:9/"])
        assert one.status == "refused"


# ---- Searching -------------------------------------------------------------------------------


def test_empty_collection_finds_nothing(tmp_path: Path) -> None:
    with open_at(tmp_path / "store") as collection:
        assert collection.search("anything") == []
        assert collection.documents() == []
        assert collection.reindex() == 0


@pytest.mark.parametrize(
    ("question", "limit"), [("", 4), ("  ", 4), ("q", 0), ("q", 101), ("q", True), (None, 4)]
)
def test_impossible_question_is_refused(question: str, limit: int, tmp_path: Path) -> None:
    with open_at(tmp_path / "store") as collection, pytest.raises(InvalidRequest):
        collection.search(question, limit=limit)


@pytest.mark.parametrize("question", ["?!", 'a" OR "b', "東京", "😀", "NEAR(a b)", "*", "'; --"])
def test_odd_questions_are_only_questions(question: str, folder: Path, tmp_path: Path) -> None:
    with open_at(tmp_path / "store") as collection:
        collection.add([folder])
        assert len(collection.search(question)) == 3


def test_search_sees_what_another_process_has_changed(folder: Path, tmp_path: Path) -> None:
    # Two collections on one folder share nothing but the files, as two processes do.
    with open_at(tmp_path / "store") as writer, open_at(tmp_path / "store") as reader:
        assert reader.search("bread") == []
        writer.add([folder])
        assert reader.search("bread and flour", limit=1)[0].title == "bread.txt"
        writer.remove([str(folder / "bread.txt")])
        assert "bread.txt" not in [p.title for p in reader.search("bread and flour")]
        # Found by likeness alone: the question has no word of it.
        writer.add_bytes("sun.txt", b"Sunshine, sunflowers and sunsets.")
        assert reader.search("sunn fflowerss", limit=1)[0].title == "sun.txt"


def test_collection_opens_again_with_or_without_its_cache(folder: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    with open_at(store) as collection:
        collection.add([folder])
        expected = [(p.id, p.score) for p in collection.search("baked bread")]
    cache = store / "vectors.faiss"
    assert cache.is_file()
    good = cache.read_bytes()
    for content in (good, b"", good[:50], good[:-4] + b"abcd", None):
        cache.unlink(missing_ok=True)
        if content is not None:
            cache.write_bytes(content)
        with open_at(store, create=False) as collection:
            assert [(p.id, p.score) for p in collection.search("baked bread")] == expected


def test_stale_cache_is_brought_up_to_date(folder: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    with open_at(store) as collection:
        collection.add([folder])
    old = (store / "vectors.faiss").read_bytes()
    with open_at(store) as collection:
        collection.remove([str(folder / "moon.txt")])
        collection.add_bytes("sun.txt", b"The sun is a star.")
        expected = [(p.id, p.title) for p in collection.search("moon and sun", limit=9)]
    (store / "vectors.faiss").write_bytes(old)
    with open_at(store) as collection:
        assert [(p.id, p.title) for p in collection.search("moon and sun", limit=9)] == expected


def test_cache_of_another_collection_is_not_believed(tmp_path: Path) -> None:
    texts = [b"Stones are hard.", b"Feathers are soft."]
    for name, order in (("one", texts), ("two", texts[::-1])):
        with open_at(tmp_path / name) as collection:
            for number, text in enumerate(order):
                collection.add_bytes(f"{number}.txt", text)
    (tmp_path / "one" / "vectors.faiss").replace(tmp_path / "two" / "vectors.faiss")
    with open_at(tmp_path / "two", settings=CollectionSettings(num_candidates=1)) as collection:
        # The question has no word of theirs, so the index alone proposes.
        (found,) = collection.search("sstoness arree harrd", limit=1)
        assert found.text == "Stones are hard."


def test_large_collection_is_searched_through_groups(tmp_path: Path) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    for i in range(200):
        (docs / f"{i}.txt").write_text(f"Number {i * 7919 % 1000} of things like {i % 13}.")
    settings = CollectionSettings(exact_up_to=50, keyword_weight=0)
    with open_at(tmp_path / "store", settings=settings) as collection:
        collection.add([docs])
        for i in range(0, 200, 17):
            text = (docs / f"{i}.txt").read_text()
            assert collection.search(text, limit=1)[0].text == text


# ---- Removing, opening, closing --------------------------------------------------------------


def test_documents_are_removed_by_id_source_or_path(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    with open_at(tmp_path / "store") as collection:
        collection.add([folder])
        collection.add_bytes("up.txt", b"An upload.")
        ids = {Path(d.source).name: d.document_id for d in collection.documents()}
        names = [ids["moon.txt"], str(folder / "bread.txt"), "router.txt", ids["moon.txt"]]
        assert collection.remove(names) == 3
        assert [d.source for d in collection.documents()] == ["up.txt"]
        assert [p.title for p in collection.search("moon bread router")] == ["up.txt"]


def test_id_means_its_own_document_also_where_another_is_called_so(tmp_path: Path) -> None:
    with open_at(tmp_path / "store") as collection:
        first = collection.add_bytes("#.txt", b"An upload.").document_id
        collection.add_bytes(first, b"An upload whose name is an id.")
        assert collection.remove([first]) == 1
        assert [document.source for document in collection.documents()] == [first]
        assert collection.remove([first]) == 1


def test_collection_opens_to_be_read_while_another_process_writes(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mixtral.rag.database._WAIT_S", 0.1)
    with open_at(tmp_path / "store") as one:
        one.add([folder])
        mark = one._models.mark()
        with one._store.rewriting(one.settings, mark), open_at(tmp_path / "store") as other:
            assert len(other.search("moon")) == 3
            assert len(other.documents()) == 3


def test_collection_in_a_folder_that_can_only_be_read_is_searched(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = tmp_path / "store"
    with open_at(store) as collection:
        collection.add([folder])
    before = sorted(store.iterdir())
    store.chmod(0o555)
    monkeypatch.setattr("os.access", lambda *_: False)  # The superuser may write all the same.
    with open_at(store) as collection:
        assert len(collection.search("moon")) == 3
        assert sorted(store.iterdir()) == before
        with pytest.raises(ConfigError, match="can only be read"):
            collection.add_bytes("a.txt", b"text")
    store.chmod(0o755)


def test_unknown_name_removes_nothing_and_names_what_is_near(folder: Path, tmp_path: Path) -> None:
    with open_at(tmp_path / "store") as collection:
        collection.add([folder])
        near = str(folder / "mon.txt")
        with pytest.raises(ConfigError, match=r"no document .*mon\.txt.*did you mean .*moon\.txt"):
            collection.remove([str(folder / "bread.txt"), near])
        with pytest.raises(ConfigError, match=r"did you mean .*docs/moon\.txt"):
            collection.remove(["elsewhere/moon.txt"])
        assert len(collection.documents()) == 3
        with pytest.raises(ConfigError, match="no document 'x'"):
            collection.text_of("x")


@pytest.mark.parametrize("location", ["", "~nosuchuser/x", "ftp://host/x"])
def test_place_that_is_none_is_one_line(location: str) -> None:
    with pytest.raises(ConfigError, match=r"no place|home of nobody"):
        open_at(location)


def test_missing_damaged_or_newer_collection_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"has no collection; add documents first"):
        open_at(tmp_path / "none", create=False)
    assert not (tmp_path / "none").exists()
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "collection.sqlite").write_bytes(b"not a database, clearly" * 100)
    with pytest.raises(ConfigError, match="is damaged or is no collection"):
        open_at(tmp_path / "bad")
    open_at(tmp_path / "new").close()
    connection = sqlite3.connect(tmp_path / "new" / "collection.sqlite")
    connection.execute("PRAGMA user_version=99")
    connection.close()
    with pytest.raises(ConfigError, match="version 99"):
        open_at(tmp_path / "new")
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigError, match="cannot be made"):
        open_at(tmp_path / "file")
    for place in ("", "ftp://x/y"):
        with pytest.raises(ConfigError, match="no place for a collection"):
            open_at(place)


def test_closed_collection_says_so(tmp_path: Path) -> None:
    collection = open_at(tmp_path / "store")
    collection.close()
    collection.close()
    for call in (collection.documents, lambda: collection.search("q")):
        with pytest.raises(ConfigError, match="closed"):
            call()
