"""The index finds what a comparison with every vector finds, however it came to hold them."""

import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("faiss", reason="the extra rag is not installed")

from mixtral.rag.vector_index import Ids, LoadVectors, VectorIndex

D = 16


def unit(num: int, *, seed: int = 0) -> NDArray[np.float32]:
    """Vectors around 20 centres, as texts have topics."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(20, D))
    vectors = centres[rng.integers(20, size=num)] + 0.5 * rng.normal(size=(num, D))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def loader(vectors: NDArray[np.float32]) -> LoadVectors:
    """Vectors of ids from 1, in batches of 7."""

    def load(ids: Ids) -> Iterator[tuple[Ids, NDArray[np.float32]]]:
        for begin in range(0, len(ids), 7):
            some = ids[begin : begin + 7]
            yield some, vectors[some - 1]

    return load


def ids_of(*numbers: int) -> Ids:
    return np.array(numbers, dtype=np.int64)


def nearest(vectors: NDArray[np.float32], ids: Ids, query: NDArray[np.float32], k: int) -> Ids:
    scores = vectors[ids - 1] @ query
    return ids[np.argsort(-scores, kind="stable")[:k]]


def test_exact_search_is_that_of_numpy_through_additions_and_removals() -> None:
    vectors = unit(300)
    rng = np.random.default_rng(1)
    index = VectorIndex(D, exact_up_to=1000)
    assert index.search(vectors[0], 5) == []
    for _ in range(20):
        ids = np.sort(rng.choice(np.arange(1, 301), size=rng.integers(0, 300), replace=False))
        index.update(ids, loader(vectors))
        assert len(index) == len(ids)
        assert index.is_exact
        query = unit(1, seed=7)[0]
        assert index.search(query, 10) == nearest(vectors, ids, query, 10).tolist()


def test_update_touches_only_what_changed() -> None:
    vectors = unit(50)
    index = VectorIndex(D, exact_up_to=1000)
    assert index.update(np.arange(1, 41), loader(vectors)) == 40
    asked: list[int] = []

    def load(ids: Ids) -> Iterator[tuple[Ids, NDArray[np.float32]]]:
        asked.extend(ids.tolist())
        yield ids, vectors[ids - 1]

    assert index.update(np.arange(3, 44), load) == 5
    assert asked == [41, 42, 43]
    assert index.update(np.arange(3, 44), load) == 0


def test_large_collection_is_searched_in_groups_and_misses_few() -> None:
    vectors = unit(4000)
    ids = np.arange(1, 4001)
    index = VectorIndex(D, exact_up_to=1000)
    index.update(ids, loader(vectors))
    assert not index.is_exact
    queries = unit(50, seed=5)
    hits = [len({*index.search(q, 10)} & {*nearest(vectors, ids, q, 10).tolist()}) for q in queries]
    assert sum(hits) / 500 > 0.9
    again = VectorIndex(D, exact_up_to=1000)
    again.update(ids, loader(vectors))
    assert [again.search(q, 10) for q in queries] == [index.search(q, 10) for q in queries]


def test_large_collection_forgets_what_is_removed_and_becomes_exact_when_small() -> None:
    vectors = unit(3000)
    index = VectorIndex(D, exact_up_to=1000)
    index.update(np.arange(1, 2001), loader(vectors))
    index.update(np.arange(501, 2501), loader(vectors))
    assert not index.is_exact
    for query in vectors[:20]:
        assert min(index.search(query, 50)) > 500
    assert index.search(vectors[2400], 1) == [2401]
    index.update(np.arange(1, 11), loader(vectors))
    assert index.is_exact
    assert sorted(index.search(vectors[0], 20)) == list(range(1, 11))


@pytest.mark.parametrize(("before", "after"), [(10, 1000), (1000, 10)])
def test_file_that_was_searched_otherwise_is_built_again(
    before: int, after: int, tmp_path: Path
) -> None:
    vectors, ids = unit(300), np.arange(1, 301)
    index = VectorIndex(D, exact_up_to=before)
    index.update(ids, loader(vectors))
    index.save(tmp_path / "file", owner="me")
    back = VectorIndex.load(tmp_path / "file", owner="me", dimension=D, exact_up_to=after)
    assert back.update(ids, loader(vectors)) == 300
    assert back.is_exact is (after == 1000)
    assert back.update(ids, loader(vectors)) == 0


@pytest.mark.parametrize("exact_up_to", [10, 10_000])
def test_file_brings_the_same_index_back(exact_up_to: int, tmp_path: Path) -> None:
    vectors = unit(500)
    index = VectorIndex(D, exact_up_to=exact_up_to)
    index.update(np.arange(1, 401), loader(vectors))
    index.save(tmp_path / "file", owner="me")
    back = VectorIndex.load(tmp_path / "file", owner="me", dimension=D, exact_up_to=exact_up_to)
    assert len(back) == 400
    for query in unit(5, seed=3):
        assert back.search(query, 10) == index.search(query, 10)
    assert back.update(np.arange(5, 451), loader(vectors)) == 54
    assert 440 in back.search(vectors[439], 1)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_damaged_or_foreign_file_gives_an_empty_index(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "file"
    index = VectorIndex(D, exact_up_to=100)
    index.update(ids_of(1, 2, 3), loader(unit(3)))
    index.save(path, owner="me")
    good = path.read_bytes()

    def load(*, owner: str = "me", dimension: int = D) -> VectorIndex:
        return VectorIndex.load(path, owner=owner, dimension=dimension, exact_up_to=100)

    assert len(load()) == 3
    assert len(load(owner="you")) == 0
    assert len(load(dimension=8)) == 0
    assert not caplog.records
    caplog.set_level(logging.WARNING)
    damages = [b"", b"\n", good[:-1], good + b"x", b"x" + good[1:], good[:70]]
    damages += [good[:i] + bytes([good[i] ^ 1]) + good[i + 1 :] for i in range(0, len(good), 13)]
    for damage in damages:
        path.write_bytes(damage)
        assert len(load()) == 0
    assert len(caplog.records) == len(damages)
    path.unlink()
    assert len(load()) == 0
