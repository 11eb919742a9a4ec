"""Every sum against loops over tokens, and the expectations of the paper."""

import itertools
import math
import random

import pytest
import torch

from mixtral.kernels import grouped
from mixtral.model import RouterTrace
from mixtral.routing.counts import POSITION_STARTS, RouterCounts, visits_of
from mixtral.routing.statistics import (
    layer_statistics,
    mutual_information,
    random_same_any,
    random_same_first,
)
from mixtral.routing.top_tokens import TokenVisits

_LAYERS, _EXPERTS, _KINDS = 3, 5, 4


def _trace(tokens: int, seed: int, chosen: int = 2) -> RouterTrace:
    logits = torch.randn(tokens, _LAYERS, _EXPERTS, generator=torch.Generator().manual_seed(seed))
    weights, ids = grouped.route(logits.flatten(0, 1), chosen)
    shape = (tokens, _LAYERS, chosen)
    return RouterTrace(
        expert_ids=ids.view(shape), routing_weights=weights.view(shape), router_logits=logits
    )


def _kinds(tokens: int, seed: int) -> torch.Tensor:
    return torch.randint(_KINDS, (tokens,), generator=torch.Generator().manual_seed(seed))


def _counts() -> RouterCounts:
    return RouterCounts(num_layers=_LAYERS, num_experts=_EXPERTS, num_kinds=_KINDS)


def _bucket(position: int) -> int:
    return max(i for i, start in enumerate(POSITION_STARTS) if start <= position)


def test_sums_are_those_of_loops_over_tokens() -> None:
    counts = _counts()
    expected = _counts()
    for seed, tokens in enumerate((7, 1, 20)):
        trace, kinds = _trace(tokens, seed), _kinds(tokens, seed)
        counts.add(trace, kinds)
        expected.num_tokens += tokens
        expected.num_pairs += tokens - 1
        ids = trace.expert_ids.tolist()
        for t, layer in itertools.product(range(tokens), range(_LAYERS)):
            chosen = ids[t][layer]
            expected.first[layer, chosen[0]] += 1
            for i, j in itertools.product(chosen, chosen):
                expected.together[layer, i, j] += 1
            for expert in chosen:
                expected.visits[layer, expert] += 1
                expected.kind_visits[kinds[t], layer, expert] += 1
                expected.position_visits[_bucket(t), layer, expert] += 1
            probs = [math.exp(x) for x in trace.router_logits[t, layer].tolist()]
            probs = [p / sum(probs) for p in probs]
            expected.probability[layer] += torch.tensor(probs, dtype=torch.float64)
            expected.entropy[layer] -= sum(p * math.log(p) for p in probs)
            if t:
                before = ids[t - 1][layer]
                expected.same_first[layer] += before[0] == chosen[0]
                expected.overlap[layer] += bool(set(before) & set(chosen))
        for t in range(tokens):
            expected.kind_tokens[kinds[t]] += 1
            expected.position_tokens[_bucket(t)] += 1
    for name, value in vars(expected).items():
        torch.testing.assert_close(getattr(counts, name), value, msg=name)


def test_sums_of_two_texts_are_the_sums_of_both() -> None:
    whole, first, second = _counts(), _counts(), _counts()
    for seed, part in ((1, first), (2, second)):
        trace, kinds = _trace(20, seed), _kinds(20, seed)
        whole.add(trace, kinds)
        part.add(trace, kinds)
    first += second
    for name, value in vars(whole).items():
        torch.testing.assert_close(getattr(first, name), value, msg=name)


def test_free_places_are_no_visits() -> None:
    ids = torch.tensor([[[3, -1], [1, 0]]])
    visited = visits_of(ids, num_experts=4)
    assert visited.tolist() == [[[False, False, False, True], [True, True, False, False]]]


@pytest.mark.parametrize(("experts", "chosen"), [(8, 1), (8, 2), (5, 3), (4, 4)])
def test_random_expectations_are_those_of_all_draws(experts: int, chosen: int) -> None:
    draws = list(itertools.combinations(range(experts), chosen))
    shared = [bool(set(a) & set(b)) for a in draws for b in draws]
    assert random_same_any(experts, chosen) == pytest.approx(sum(shared) / len(shared))
    assert random_same_first(experts) == 1 / experts


def test_paper_expectations_for_mixtral() -> None:
    assert random_same_first(8) == 0.125
    assert random_same_any(8, 2) == pytest.approx(1 - 6 / 8 * 5 / 7)


def test_statistics_of_even_draws_come_near_the_expectations() -> None:
    draw = random.Random(0)
    ids = torch.tensor([[draw.sample(range(8), 2)] for _ in range(20_000)])
    trace = RouterTrace(
        expert_ids=ids,
        routing_weights=torch.full(ids.shape, 0.5),
        router_logits=torch.zeros(20_000, 1, 8),
    )
    counts = RouterCounts(num_layers=1, num_experts=8, num_kinds=1)
    counts.add(trace, torch.zeros(20_000, dtype=torch.int64))
    (layer,) = layer_statistics(counts)
    assert layer.same_first == pytest.approx(random_same_first(8), abs=0.01)
    assert layer.same_any == pytest.approx(random_same_any(8, 2), abs=0.015)
    assert layer.same_first_by_load == pytest.approx(1 / 8, abs=0.001)
    assert layer.router_entropy == pytest.approx(math.log(8))
    assert layer.load_entropy == pytest.approx(math.log(8), abs=0.001)
    assert layer.imbalance == pytest.approx(1, abs=0.05)
    assert layer.variation == pytest.approx(0, abs=0.03)


def test_one_expert_for_all_is_as_uneven_as_can_be() -> None:
    trace = RouterTrace(
        expert_ids=torch.zeros(6, 1, 1, dtype=torch.int64),
        routing_weights=torch.ones(6, 1, 1),
        router_logits=torch.tensor([200.0, 0, 0, 0]).expand(6, 1, 4),
    )
    counts = RouterCounts(num_layers=1, num_experts=4, num_kinds=1)
    counts.add(trace, torch.zeros(6, dtype=torch.int64))
    (layer,) = layer_statistics(counts)
    assert layer.load == [1, 0, 0, 0]
    assert (layer.imbalance, layer.load_entropy) == (4, 0)
    assert layer.variation == pytest.approx(math.sqrt(3))
    assert layer.router_entropy == pytest.approx(0, abs=1e-6)
    assert layer.same_first == 1


def test_groups_with_one_load_tell_nothing_and_split_groups_all() -> None:
    alike = torch.tensor([[[2, 4]], [[3, 6]]])  # two groups, one layer, two experts
    split = torch.tensor([[[5, 0]], [[0, 5]]])
    assert mutual_information(alike) == pytest.approx([0], abs=1e-12)
    assert mutual_information(split) == pytest.approx([math.log(2)])


def test_top_tokens_are_those_beyond_the_load() -> None:
    # Token 7 always visits expert 1; token 5, far more frequent, visits both alike.
    token_ids = [5] * 40 + [7] * 6
    ids = torch.tensor([[[0]], [[1]]] * 20 + [[[1]]] * 6)
    visits = TokenVisits(vocab_size=9, num_layers=1, num_experts=2)
    visits.add(token_ids, visits_of(ids, num_experts=2))
    zero, one = visits.top(0, count=3, name=str)
    assert [top.token_id for top in one] == [7]
    assert (one[0].visits, one[0].share, one[0].text) == (6, 1.0, "7")
    assert [top.token_id for top in zero] == [5]
    assert visits.num_distinct == 2
