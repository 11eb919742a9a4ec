"""What is joined by pairs, directly or through others: union-find.

A cluster is a connected component (single linkage): two of its members may be far from each other
when others lie between them. A smaller threshold is the remedy.
"""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray


class UnionFind:
    """Sets of the numbers 0 to N - 1, at first each its own.

    With path halving and the smaller number as root (Tarjan and van Leeuwen, 1984), so that the
    sets do not depend on the order of the pairs.
    """

    def __init__(self, num_items: int) -> None:
        self._parent = list(range(num_items))

    def root(self, item: int) -> int:
        """Return the smallest number of a set."""
        parent = self._parent
        while parent[item] != item:
            parent[item] = parent[parent[item]]
            item = parent[item]
        return item

    def join(self, first: NDArray[np.int64], second: NDArray[np.int64]) -> None:
        """Join the sets of each pair of numbers, [K] and [K]."""
        for one, other in zip(first.tolist(), second.tolist(), strict=True):
            low, high = sorted((self.root(one), self.root(other)))
            self._parent[high] = low

    def sets(self) -> Iterable[list[int]]:
        """Return the sets, each sorted, in the order of their smallest numbers."""
        members: dict[int, list[int]] = {}
        for item in range(len(self._parent)):
            members.setdefault(self.root(item), []).append(item)
        return members.values()
