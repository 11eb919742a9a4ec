"""The nearest vectors: a faiss index that mirrors what SQLite holds.

It is a cache. The ids of the chunks in SQLite say what must be in it; ids are never used twice, so
an index that is behind is brought up by the difference of two sets, and one that is missing or
damaged is built again. Its file begins with the sha256 of the rest, because faiss trusts what it
reads.

Up to ``exact_up_to`` chunks the question is compared with each: 384 components are 1.5 kB a chunk,
so 100,000 chunks are 154 MB to go through, some 15 ms on one core, about what it takes to embed the
question. Above, an inverted file (Sivic and Zisserman, "Video Google", ICCV 2003; faiss,
arXiv:2401.08281, section 5.1) groups the vectors around 4 sqrt(N) means and looks into the nearest
sixteenth of the groups. Unlike a graph (HNSW) it can forget vectors and grows without being built
again; its means are found again when the collection has doubled or halved.
"""

import hashlib
import json
import logging
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from mixtral.errors import UnsupportedError
from mixtral.rag.limits import INSTALL
from mixtral.whole_file import whole_file

_LOG = logging.getLogger(__name__)

Ids = NDArray[np.int64]
LoadVectors = Callable[[Ids], Iterator[tuple[Ids, NDArray[np.float32]]]]
"""Ids to batches of ids and their vectors, [N] and [N, D]."""

_SEED = 0
_NUM_ROUNDS = 10  # Of k-means; faiss's own default of 25 finds hardly better means.
_POINTS_PER_LIST = 64  # Vectors that k-means looks at for each mean; faiss warns below 39.
_LOOK_INTO = 16  # The inverse of the share of groups that a search looks into.


class VectorIndex:
    """Vectors by id. Not thread-safe.

    Args:
        dimension: D.
        exact_up_to: The largest collection that is searched exactly.

    Raises:
        UnsupportedError: faiss is not installed.
    """

    def __init__(self, dimension: int, *, exact_up_to: int) -> None:
        self._faiss = import_faiss()
        self.dimension = dimension
        """D."""
        self._exact_up_to = exact_up_to
        self._index: Any = self._flat()
        self._ids: Ids = np.empty(0, dtype=np.int64)
        self._num_trained = 0

    def __len__(self) -> int:
        """Count the vectors."""
        return len(self._ids)

    @property
    def is_exact(self) -> bool:
        """Whether a search looks at every vector."""
        return self._num_trained == 0

    def update(self, ids: Ids, load: LoadVectors) -> int:
        """Hold exactly the vectors with these ids; return how many were added and removed.

        Args:
            ids: [N] int64, in rising order.
            load: Where vectors come from.
        """
        gone = np.setdiff1d(self._ids, ids, assume_unique=True)
        new = np.setdiff1d(ids, self._ids, assume_unique=True)
        if self._must_be_built_again(len(ids)):
            self._build(ids, load)
            return len(ids)
        if not len(gone) and not len(new):
            return 0
        if len(gone):
            self._index.remove_ids(gone)
        for some, vectors in load(new):
            self._index.add_with_ids(vectors, some)
        self._ids = ids
        return len(gone) + len(new)

    def search(self, vector: NDArray[np.float32], limit: int) -> list[int]:
        """Return the ids of the nearest vectors, nearest first.

        Args:
            vector: [D] float32, of length 1.
            limit: How many at most.
        """
        num = min(limit, len(self._ids))
        if not num:
            return []
        _, ids = self._index.search(vector[None, :], num)  # [1, N]
        return [int(i) for i in ids[0] if i >= 0]

    # ---- Its file ------------------------------------------------------------------------------

    def save(self, path: Path, *, owner: str) -> None:
        """Write it, whole or not at all.

        Args:
            path: The file.
            owner: Which collection it is of.

        Raises:
            OSError: It cannot be written.
        """
        header = {
            "owner": owner,
            "dimension": self.dimension,
            "num_trained": self._num_trained,
            "num_ids": len(self._ids),
        }
        content = b"".join(
            (
                json.dumps(header).encode() + b"\n",
                self._ids.tobytes(),
                self._faiss.serialize_index(self._index).tobytes(),
            )
        )
        with whole_file(path) as file:
            file.write(hashlib.sha256(content).hexdigest().encode() + b"\n")
            file.write(content)

    @classmethod
    def load(cls, path: Path, *, owner: str, dimension: int, exact_up_to: int) -> Self:
        """Read it; what is missing, damaged or of another collection gives an empty one.

        Raises:
            UnsupportedError: faiss is not installed.
        """
        index = cls(dimension, exact_up_to=exact_up_to)
        try:
            digest, _, content = path.read_bytes().partition(b"\n")
        except FileNotFoundError:
            return index
        except OSError as error:
            _LOG.warning("%s cannot be read and is built again: %s", path, error)
            return index
        if hashlib.sha256(content).hexdigest().encode() != digest:
            _LOG.warning("%s is damaged and is built again", path)
            return index
        line, _, body = content.partition(b"\n")
        header = json.loads(line)
        if (header["owner"], header["dimension"]) == (owner, dimension):
            num_bytes = 8 * header["num_ids"]
            index._ids = np.frombuffer(body[:num_bytes], dtype=np.int64)
            array = np.frombuffer(body[num_bytes:], dtype=np.uint8)
            index._index = index._faiss.deserialize_index(array)
            index._num_trained = header["num_trained"]
        return index

    # ---- Building ------------------------------------------------------------------------------

    def _must_be_built_again(self, num: int) -> bool:
        if (num > self._exact_up_to) == self.is_exact:
            return True
        return not self.is_exact and not self._num_trained / 2 <= num <= self._num_trained * 2

    def _build(self, ids: Ids, load: LoadVectors) -> None:
        self._num_trained = 0
        if len(ids) <= self._exact_up_to:
            self._index = self._flat()
        else:
            self._index = self._inverted_file(ids, load)
            self._num_trained = len(ids)
        for some, vectors in load(ids):
            self._index.add_with_ids(vectors, some)
        self._ids = ids

    def _flat(self) -> Any:
        return self._faiss.IndexIDMap2(self._faiss.IndexFlatIP(self.dimension))

    def _inverted_file(self, ids: Ids, load: LoadVectors) -> Any:
        """Return an empty index that has learnt its means from some of the vectors."""
        num_lists = max(1, min(int(4 * len(ids) ** 0.5), len(ids) // _POINTS_PER_LIST))
        chosen = np.random.default_rng(_SEED).choice(
            ids, size=min(len(ids), num_lists * _POINTS_PER_LIST), replace=False
        )
        sample = np.concatenate([vectors for _, vectors in load(np.sort(chosen))])
        index = self._faiss.IndexIVFFlat(
            self._faiss.IndexFlatIP(self.dimension),
            self.dimension,
            num_lists,
            self._faiss.METRIC_INNER_PRODUCT,
        )
        index.cp.seed = _SEED
        index.cp.niter = _NUM_ROUNDS
        index.train(sample)
        index.nprobe = max(1, -(-num_lists // _LOOK_INTO))
        return index


def import_faiss() -> ModuleType:
    """Return the module faiss, imported when it is first needed.

    Raises:
        UnsupportedError: It is not installed.
    """
    try:
        # Its generated classes have no module, which newer Pythons warn of.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            import faiss
    except ImportError:
        raise UnsupportedError(f"vectors are searched by faiss-cpu: {INSTALL}") from None
    module: ModuleType = faiss
    return module
