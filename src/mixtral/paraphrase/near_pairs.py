"""All pairs of unit vectors within a distance: by comparing all of them, or through an index.

**Exact.** Comparing all is the specification. It costs N**2 / 2 dot products, done in square tiles,
so that memory does not depend on N: seconds for 20,000 vectors.

**Index.** Above that, an inverted file: faiss lays cells around the centres of a k-means, and each
vector is compared with those in the few cells whose centres are nearest to it. That is what faiss'
IndexIVFFlat does (https://github.com/facebookresearch/faiss/wiki/Faiss-indexes), but here all
vectors ask at once, so the work goes cell by cell instead of question by question: one matrix
product of a cell's members and all its visitors, which reads each member once, not once per
visitor. A pair is missed only if neither of its vectors visits the cell of the other; tests hold
the share that is found (recall) above 0.99. Not a graph such as HNSW: this finds *all* neighbours
within a distance, and the same ones each time, whatever the number of threads.

Both ways only propose pairs, with float32 dot products. Distances are then computed anew in float64
and compared with the threshold, so a pair that both find has the same numbers on either way.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil, sqrt
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from mixtral.errors import ConfigError, UnsupportedError

Method = Literal["auto", "exact", "index"]
"""Compare all, use the index, or the first up to ``MAX_EXACT`` vectors and the second above."""

MAX_EXACT = 20_000
"""Vectors up to which all are compared: a few seconds with 384 components."""
INSTALL = "pip install 'mixtral[rag]'"

_TILE = 2048
_AT_ONCE = 4096
# float32 dot products of unit vectors are off by less than this; the exact distance decides.
_SLACK = 1e-5
# Cells of about sqrt(N) / 4 members; a vector visits 1 / 32 of them, between these bounds.
_CELLS_PER_ROOT = 4
_VISITED_SHARE = 32
_MIN_VISITED, _MAX_VISITED = 16, 128
# faiss warns below 39 per cell; centres do not get better above a few dozen.
_TRAINING_POINTS = 64


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PairBlock:
    """Some of the pairs; each pair is in one block, once."""

    first: NDArray[np.int64]
    """[K], rows of one side; each is below its ``second``."""
    second: NDArray[np.int64]
    """[K], rows of the other."""
    distance: NDArray[np.float64]
    """[K], euclidean distances of the two."""


def is_exact(num_vectors: int, method: Method) -> bool:
    """Tell whether all vectors are compared.

    Raises:
        ConfigError: There is no such method.
    """
    if method not in get_args(Method):
        raise ConfigError(f"method is {method!r}; it must be auto, exact or index.")
    return method == "exact" or (method == "auto" and num_vectors <= MAX_EXACT)


def near_pairs(
    vectors: NDArray[np.float32], threshold: float, *, method: Method = "auto"
) -> Iterator[PairBlock]:
    """Yield the pairs of vectors whose distance is at most a threshold, in blocks.

    Beside the vectors and one block, memory holds a tile of 16 MB on the exact way; with the index,
    16 bytes for each visit, of which a vector makes up to 128.

    Args:
        vectors: [N, D], float32, rows of length 1.
        threshold: Largest euclidean distance, 0 to 2.
        method: How to look.

    Raises:
        ConfigError: There is no such method.
        UnsupportedError: The index is needed, and faiss is not installed.
    """
    way = _compare_all if is_exact(len(vectors), method) else _compare_cells
    # |a - b|**2 = 2 - 2 ab for unit vectors.
    lowest_dot = 1 - threshold**2 / 2 - _SLACK
    for first, second in way(vectors, lowest_dot):
        # In parts, so that whoever counts the pairs can stop before there are too many.
        for begin in range(0, len(first), _AT_ONCE):
            part = slice(begin, begin + _AT_ONCE)
            distance = distances(vectors, first[part], second[part])
            near = distance <= threshold
            yield PairBlock(
                first=first[part][near], second=second[part][near], distance=distance[near]
            )


def distances(
    vectors: NDArray[np.float32], first: NDArray[np.int64], second: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return the euclidean distances of pairs of rows, [K], computed in float64.

    From differences: ``sqrt(2 - 2 * dot)`` would lose what tells near duplicates apart.
    """
    result = np.empty(len(first))
    # In parts, because the differences of many pairs are larger than the vectors.
    for begin in range(0, len(first), _AT_ONCE):
        part = slice(begin, begin + _AT_ONCE)
        difference = vectors[first[part]].astype(np.float64) - vectors[second[part]]
        result[part] = np.sqrt(np.einsum("kd,kd->k", difference, difference))
    # float32 rows are a little longer or shorter than 1, so opposite ones may lie beyond 2.
    return np.minimum(result, 2.0)


_Proposals = Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]


def _compare_all(vectors: NDArray[np.float32], lowest_dot: float) -> _Proposals:
    """Propose pairs from tiles on and above the diagonal."""
    for row in range(0, len(vectors), _TILE):
        for column in range(row, len(vectors), _TILE):
            dots = vectors[row : row + _TILE] @ vectors[column : column + _TILE].T
            first, second = np.nonzero(dots >= lowest_dot)
            first, second = first + row, second + column
            above = first < second  # Of the tiles on the diagonal, one half.
            yield first[above], second[above]


def _compare_cells(vectors: NDArray[np.float32], lowest_dot: float) -> _Proposals:
    """Propose pairs of members and visitors of the same cell."""
    if len(vectors) < 2:
        return
    visited = _visited_cells(vectors)  # [N, C], nearest cell first
    home = visited[:, 0]
    num_cells = int(visited.max()) + 1
    visitors, bounds = _by_cell(visited.ravel(), num_cells)
    visitors //= visited.shape[1]
    members, member_bounds = _by_cell(home, num_cells)
    for cell in range(num_cells):
        inside = members[member_bounds[cell] : member_bounds[cell + 1]]
        if not len(inside):
            continue
        for begin in range(bounds[cell], bounds[cell + 1], _TILE):
            guests = visitors[begin : min(begin + _TILE, bounds[cell + 1])]
            guest, member = np.nonzero(vectors[guests] @ vectors[inside].T >= lowest_dot)
            guest, member = guests[guest], inside[member]
            # Where both visit each other's cell, only the lower row counts as the guest.
            is_mutual = (visited[member] == home[guest][:, None]).any(axis=1)
            counts = (guest < member) | ((guest > member) & ~is_mutual)
            guest, member = guest[counts], member[counts]
            yield np.minimum(guest, member), np.maximum(guest, member)


def _visited_cells(vectors: NDArray[np.float32]) -> NDArray[np.int32]:
    """Return the cells that each vector visits, [N, C], nearest first; its own is the first."""
    try:
        import faiss
    except ImportError as error:
        raise UnsupportedError(
            f"{len(vectors)} texts need faiss, which is not installed: {INSTALL}; or compare all "
            "of them, with the method exact."
        ) from error
    num_cells = max(1, min(len(vectors), round(_CELLS_PER_ROOT * sqrt(len(vectors)))))
    kmeans = faiss.Kmeans(
        vectors.shape[1],
        num_cells,
        niter=10,
        seed=0,
        min_points_per_centroid=1,
        max_points_per_centroid=_TRAINING_POINTS,
    )
    kmeans.train(vectors)
    wanted = min(max(_MIN_VISITED, ceil(num_cells / _VISITED_SHARE)), _MAX_VISITED)
    visited = np.empty((len(vectors), min(wanted, num_cells)), dtype=np.int32)
    for begin in range(0, len(vectors), _AT_ONCE):
        part = slice(begin, begin + _AT_ONCE)
        visited[part] = kmeans.index.search(vectors[part], visited.shape[1])[1]
    return visited


def _by_cell(
    cells: NDArray[np.int32], num_cells: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return places sorted by their cell, and where each cell begins and ends among them."""
    order = np.argsort(cells, kind="stable")
    bounds = np.searchsorted(cells[order], np.arange(num_cells + 1))
    return order, bounds
