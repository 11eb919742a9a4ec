"""Union-find, against components found by walking."""

import numpy as np
import pytest

from mixtral.paraphrase.clusters import UnionFind


def components(num: int, edges: list[tuple[int, int]]) -> list[list[int]]:
    seen: set[int] = set()
    found = []
    for start in range(num):
        if start in seen:
            continue
        component, stack = {start}, [start]
        while stack:
            here = stack.pop()
            near = {b for a, b in edges if a == here} | {a for a, b in edges if b == here}
            stack += near - component
            component |= near
        seen |= component
        found.append(sorted(component))
    return found


@pytest.mark.parametrize("seed", range(5))
def test_sets_are_the_components_in_whatever_order_pairs_come(seed: int) -> None:
    random = np.random.default_rng(seed)
    num = 40
    edges = [(int(a), int(b)) for a, b in random.integers(0, num, size=(25, 2))]
    for ordered in (edges, edges[::-1]):
        joined = UnionFind(num)
        for a, b in ordered:
            joined.join(np.array([a]), np.array([b]))
        assert [*joined.sets()] == components(num, edges)


def test_long_chains_need_no_recursion() -> None:
    joined = UnionFind(20_000)
    down = np.arange(19_999, 0, -1)
    joined.join(down - 1, down)
    assert len([*joined.sets()]) == 1
