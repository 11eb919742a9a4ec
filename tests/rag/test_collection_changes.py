"""Other embedders, other settings, and several threads and processes at once."""

import json
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("faiss", reason="the extra rag is not installed")

from mixtral.errors import ConfigError
from mixtral.rag import Collection, CollectionSettings
from mixtral.rag.embedding import PROBE
from mixtral.rag.tables import set_fact
from tests.rag.documents_for_tests import embed, open_at, statuses, write_texts


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_texts(tmp_path / "docs")


# ---- Embedders and settings ------------------------------------------------------------------


def test_other_embedder_is_refused_until_everything_is_embedded_again(
    folder: Path, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    with open_at(store) as collection:
        collection.add([folder])

    def wider(texts: Sequence[str]) -> NDArray[np.float32]:
        return np.concatenate([embed(texts)] * 2, axis=1) / np.float32(2**0.5)

    for name, embedder in (("other", embed), ("hash", wider)):
        with open_at(store, name=name, embedder=embedder) as collection:
            with pytest.raises(ConfigError, match=r"hash with 64 components.*reindex"):
                collection.search("moon")
            (folder / "new.txt").write_text(f"Something new for {name}.")
            with pytest.raises(ConfigError, match="hash"):
                collection.add([folder])
            assert len(collection.documents()) == 3
            assert collection.text_of(collection.documents()[0].document_id)
    with open_at(store, name="wide", embedder=wider) as collection:
        assert collection.reindex() == 3
        assert collection.search("bread and flour", limit=1)[0].title == "bread.txt"
        assert statuses(collection.add([folder]))["moon.txt"] == "unchanged"
    with open_at(store) as collection, pytest.raises(ConfigError, match="wide with 128"):
        collection.search("moon")


def test_other_model_of_the_same_name_and_size_is_refused(folder: Path, tmp_path: Path) -> None:
    def finetuned(texts: Sequence[str]) -> NDArray[np.float32]:
        return embed(texts)[:, ::-1]

    store = tmp_path / "store"
    with open_at(store) as collection:
        collection.add([folder])
    with open_at(store, embedder=finetuned) as collection:
        with pytest.raises(ConfigError, match=r"another hash than this one.*reindex"):
            collection.search("moon")
        with pytest.raises(ConfigError, match=r"another hash than this one.*reindex"):
            collection.add_bytes("new.txt", b"Something new.")
        assert collection.reindex() == 3
        assert collection.search("bread and flour", limit=1)[0].title == "bread.txt"


def test_collection_without_a_probe_is_known_by_name_and_dimension(
    folder: Path, tmp_path: Path
) -> None:
    with open_at(tmp_path / "store") as collection:
        collection.add([folder])
        with collection._store._database.writing() as connection:  # type: ignore[attr-defined]
            set_fact(connection, "embedder", json.dumps({"name": "hash", "dimension": 64}))
        assert len(collection.search("moon")) == 3
        assert collection.add_bytes("new.txt", b"Something new.").status == "added"


def test_reindex_cuts_anew_from_what_is_kept(tmp_path: Path) -> None:
    store = tmp_path / "store"
    text = "# One\n\n" + "Some words here. " * 40 + "\n\n# Two\n\nMore words."
    pytest.importorskip("markdown_it", reason="the extra rag is not installed")
    with open_at(store) as collection:
        collection.add_bytes("a.md", text.encode())
        (before,) = collection.documents()
    with open_at(store, settings=None) as collection:
        assert collection.settings.chunk_tokens == 32
        num = collection.reindex(CollectionSettings(chunk_tokens=128, overlap_tokens=0))
        assert 1 < num < before.num_chunks
        (after,) = collection.documents()
        assert (after.num_chunks, after.sha256, after.added_at) == (
            num,
            before.sha256,
            before.added_at,
        )
        assert collection.search("More words", limit=1)[0].heading == "Two"
        assert collection.add_bytes("a.md", text.encode()).status == "unchanged"
    with open_at(store, settings=None) as collection:
        assert collection.settings.chunk_tokens == 128


def test_reindex_that_fails_leaves_everything_as_it_was(folder: Path, tmp_path: Path) -> None:
    with open_at(tmp_path / "store") as collection:
        collection.add([folder])
        expected = collection.search("bread and flour")

    def fail(texts: Sequence[str]) -> NDArray[np.float32]:
        if texts == [PROBE]:
            return embed(texts)
        raise OSError("no more")

    with (
        open_at(tmp_path / "store", embedder=fail) as collection,
        pytest.raises(OSError, match="no more"),
    ):
        collection.reindex()
    with open_at(tmp_path / "store") as collection:
        assert collection.search("bread and flour") == expected


def test_reindex_takes_what_another_process_changes_while_the_model_is_loaded(
    folder: Path, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    with open_at(store) as other:
        other.add([folder])

        def load_slowly(texts: Sequence[str]) -> NDArray[np.float32]:
            if texts == [PROBE]:
                other.add_bytes("late.txt", b"Tides come twice a day.")
                other.remove([str(folder / "moon.txt")])
            return embed(texts)

        with open_at(store, embedder=load_slowly) as collection:
            assert collection.reindex() == 3
            assert collection.search("Tides come twice", limit=1)[0].source == "late.txt"
            titles = {passage.title for passage in collection.search("moon", limit=20)}
            assert titles == {"bread.txt", "router.txt", "late.txt"}


def test_settings_that_shape_chunks_are_the_collections_own(tmp_path: Path) -> None:
    open_at(tmp_path / "store").close()
    with open_at(tmp_path / "store", settings=CollectionSettings(keyword_weight=0.5)) as collection:
        assert collection.settings.chunk_tokens == 32
        assert collection.settings.keyword_weight == 0.5
    with pytest.raises(ConfigError, match=r"chunk_tokens is 64, .* made with 32; .* reindex"):
        open_at(tmp_path / "store", settings=CollectionSettings(chunk_tokens=64))


def test_setting_is_compared_where_it_is_given_also_at_its_default(tmp_path: Path) -> None:
    open_at(tmp_path / "store", settings=CollectionSettings(chunk_tokens=64)).close()
    with pytest.raises(ConfigError, match=r"chunk_tokens is 192, .* made with 64; .* reindex"):
        open_at(tmp_path / "store", settings=CollectionSettings(chunk_tokens=192))
    with open_at(tmp_path / "store", settings=CollectionSettings(diversity=0.5)) as collection:
        again = replace(collection.settings, diversity=0.1)
        assert (again.chunk_tokens, collection.settings.diversity) == (64, 0.5)
    open_at(tmp_path / "store", settings=again).close()

    characters = CollectionSettings(chunk_characters=512)
    with open_at(tmp_path / "plain", settings=characters) as collection:
        again = replace(collection.settings, diversity=0.5)
    open_at(tmp_path / "plain", settings=again).close()
    with pytest.raises(ConfigError, match=r"chunk_tokens is 192, .* with chunk_characters 512"):
        open_at(tmp_path / "plain", settings=CollectionSettings(chunk_tokens=192))


def test_collection_made_with_both_sizes_opens_as_the_characters_it_was_cut_by() -> None:
    fields = json.loads(CollectionSettings(chunk_characters=512).to_json()) | {"chunk_tokens": 64}
    assert CollectionSettings.from_json(json.dumps(fields)).chunking == "characters=512 overlap=0"


def test_chunks_cut_anew_are_of_the_kind_that_is_said() -> None:
    small = CollectionSettings(chunk_tokens=64, diversity=0.5)
    plain = small.cut_anew(chunk_characters=512, overlap_characters=64)
    assert plain.chunking == "characters=512 overlap=64"
    assert plain.cut_anew(overlap_characters=0).chunking == "characters=512 overlap=0"
    again = plain.cut_anew(chunk_tokens=100)
    assert (again.chunking, again.diversity) == ("tokens=100 overlap=32", 0.5)
    assert small.cut_anew() == small


def test_reindex_checks_what_the_new_model_reads(folder: Path, tmp_path: Path) -> None:
    def open_small(name: str, num_tokens: int) -> Collection:
        return Collection(
            tmp_path / name,
            embed=embed,
            embedder_name="hash",
            settings=CollectionSettings(chunk_tokens=64) if name == "small" else None,
            max_chunk_tokens=lambda: num_tokens,
        )

    # 100 are less than the default of a collection, and enough for this one.
    with open_small("small", 100) as collection:
        assert {one.status for one in collection.add([folder])} == {"added"}
    with open_small("small", 50) as collection:
        with pytest.raises(ConfigError, match=r"chunk_tokens is 64, and hash reads .* up to 50"):
            collection.reindex()
        assert collection.reindex(collection.settings.cut_anew(chunk_characters=100)) == 3
    with open_small("large", 100) as collection:
        with pytest.raises(ConfigError, match="chunk_tokens is 192"):
            collection.add([folder])
        assert collection.documents() == []
        assert collection.reindex(CollectionSettings(chunk_tokens=100)) == 0


@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        (np.zeros((1, 4), dtype=np.float32), "length is not 1"),
        (np.full((1, 4), np.nan, dtype=np.float32), "length is not 1"),
        (np.ones((2, 1), dtype=np.float32), r"array \[2, 1\] for 1 texts"),
        (np.ones(1, dtype=np.float32), r"array \[1\]"),
    ],
)
def test_embedder_that_gives_something_else_is_refused(
    vectors: NDArray[np.float32], message: str, tmp_path: Path
) -> None:
    with (
        open_at(tmp_path / "store", embedder=lambda _: vectors) as collection,
        pytest.raises(ConfigError, match=message),
    ):
        collection.add_bytes("a.txt", b"text")


# ---- Several at once -------------------------------------------------------------------------


def test_search_does_not_wait_for_an_add_that_embeds(tmp_path: Path) -> None:
    started, go_on = threading.Event(), threading.Event()

    def slow(texts: Sequence[str]) -> NDArray[np.float32]:
        if texts[0].startswith("slow"):
            started.set()
            assert go_on.wait(30)
        return embed(texts)

    with open_at(tmp_path / "store", embedder=slow) as collection:
        collection.add_bytes("a.txt", b"The first.")
        thread = threading.Thread(target=collection.add_bytes, args=("b.txt", b"slow one"))
        thread.start()
        assert started.wait(30)
        assert [p.title for p in collection.search("one")] == ["a.txt"]
        assert len(collection.documents()) == 1
        go_on.set()
        thread.join(30)
        assert len(collection.search("one")) == 2


def test_threads_that_add_and_search_leave_every_document(tmp_path: Path) -> None:
    failures: list[BaseException] = []

    def work(collection: Collection, number: int) -> None:
        try:
            for i in range(8):
                name = f"{number}-{i}.txt"
                assert collection.add_bytes(name, f"Text {name}.".encode()).status == "added"
                assert any(p.title == name for p in collection.search(f"Text {name}.", limit=40))
        except BaseException as error:
            failures.append(error)

    # Two of the threads use one collection, the others one each, as processes do.
    with open_at(tmp_path / "store") as one, open_at(tmp_path / "store") as two:
        threads = [
            threading.Thread(target=work, args=(collection, number))
            for number, collection in enumerate([one, one, two])
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert not failures
        assert len(one.documents()) == len(two.documents()) == 24
