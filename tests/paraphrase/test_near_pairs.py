"""Near pairs: all on the exact way, nearly all through the index, the same numbers on both."""

import numpy as np
import pytest
from numpy.typing import NDArray

from mixtral.errors import ConfigError
from mixtral.paraphrase import near_pairs as module
from mixtral.paraphrase.near_pairs import Method, near_pairs

Found = dict[tuple[int, int], float]


def unit(vectors: NDArray[np.float64]) -> NDArray[np.float32]:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def clustered(num: int, dimension: int, *, per_cluster: int, spread: float) -> NDArray[np.float32]:
    """Return vectors around random centres, as sentences lie around what they say."""
    random = np.random.default_rng(0)
    centres = random.normal(size=(num // per_cluster, dimension))
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    noise = random.normal(size=(num, dimension)) * spread / np.sqrt(dimension)
    vectors = unit(np.repeat(centres, per_cluster, axis=0)[:num] + noise)
    random.shuffle(vectors)
    return vectors


def pairs_of(vectors: NDArray[np.float32], threshold: float, method: Method) -> Found:
    found: Found = {}
    for block in near_pairs(vectors, threshold, method=method):
        columns = (block.first.tolist(), block.second.tolist(), block.distance.tolist())
        for first, second, distance in zip(*columns, strict=True):
            assert first < second
            assert (first, second) not in found
            found[first, second] = distance
    return found


def slow_pairs(vectors: NDArray[np.float32], threshold: float) -> Found:
    """Return all near pairs by one loop in another; the specification of the specification."""
    wide = vectors.astype(np.float64)
    return {
        (i, j): float(np.linalg.norm(wide[i] - wide[j]))
        for i in range(len(wide))
        for j in range(i + 1, len(wide))
        if np.linalg.norm(wide[i] - wide[j]) <= threshold
    }


@pytest.mark.parametrize("threshold", [0.0, 0.7, 2.0])
def test_exact_way_finds_what_a_double_loop_finds(
    threshold: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Small tiles and parts, so that all their borders are crossed.
    monkeypatch.setattr(module, "_TILE", 13)
    monkeypatch.setattr(module, "_AT_ONCE", 7)
    vectors = clustered(60, 8, per_cluster=5, spread=0.5)
    vectors[41] = vectors[17]
    found, expected = pairs_of(vectors, threshold, "exact"), slow_pairs(vectors, threshold)
    assert found.keys() == expected.keys()
    assert all(abs(found[pair] - expected[pair]) < 1e-12 for pair in expected)
    assert (17, 41) in found


def test_opposite_vectors_are_2_apart_and_no_more() -> None:
    vectors = unit(np.random.default_rng(0).normal(size=(50, 8)))
    found = pairs_of(np.concatenate([vectors, -vectors]), 2.0, "exact")
    # Of float32 rows that are a little too long, the difference is, too.
    assert len(found) == 100 * 99 / 2
    assert max(found.values()) == 2.0


def test_index_finds_99_of_100_pairs_each_once_with_the_same_distances(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("faiss", reason="the extra rag is not installed")
    monkeypatch.setattr(module, "_TILE", 100)
    vectors = clustered(6000, 32, per_cluster=6, spread=0.5)
    exact, found = pairs_of(vectors, 0.7, "exact"), pairs_of(vectors, 0.7, "index")
    assert len(exact) > 5000
    assert found.items() <= exact.items()
    assert len(found) >= 0.99 * len(exact)
    # It does not get there by comparing everything.
    assert module._visited_cells(vectors).shape[1] <= 16


def test_index_gives_the_same_pairs_each_time() -> None:
    pytest.importorskip("faiss", reason="the extra rag is not installed")
    vectors = clustered(600, 16, per_cluster=3, spread=0.4)
    assert pairs_of(vectors, 0.6, "index") == pairs_of(vectors, 0.6, "index")


@pytest.mark.parametrize("num", [0, 1, 2])
@pytest.mark.parametrize("method", ["exact", "index"])
def test_few_vectors_need_no_special_care(num: int, method: Method) -> None:
    if method == "index":
        pytest.importorskip("faiss", reason="the extra rag is not installed")
    vectors = np.ones((num, 4), dtype=np.float32) / 2
    assert len(pairs_of(vectors, 0.1, method)) == num // 2


def test_unknown_method_is_refused() -> None:
    with pytest.raises(ConfigError, match="method is 'fast'"):
        pairs_of(np.ones((2, 1), dtype=np.float32), 1.0, "fast")  # type: ignore[arg-type]
