"""Constraints, routing and errors of single requests."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from mixtral.engine import SamplingParams
from mixtral.engine.drawing import candidates, token_probabilities
from tests.engine.engine_for_tests import GREEDY, finish, make_engine, random_prompts, run
from tests.models_for_tests import tiny_model


class OnlyEven:
    """Allows even tokens, and ends after five."""

    def __init__(self) -> None:
        self.accepted: list[int] = []
        self.remaining: list[int] = []

    def prepare(self, num_remaining: int) -> None:
        self.remaining.append(num_remaining)

    def mask(self) -> NDArray[np.uint32] | None:
        return np.full(16, 0x55555555, dtype=np.uint32)

    def accept(self, token_id: int) -> None:
        self.accepted.append(token_id)

    @property
    def is_complete(self) -> bool:
        return len(self.accepted) == 5

    @property
    def was_shortened(self) -> bool:
        return False


class Nothing(OnlyEven):
    """Allows no token at all."""

    def mask(self) -> NDArray[np.uint32] | None:
        return np.zeros(16, dtype=np.uint32)


@pytest.mark.parametrize("temperature", [0.0, 2.0])
def test_a_constraint_decides_tokens_and_end(temperature: float) -> None:
    engine = make_engine(tiny_model(eos_token_id=511), num_speculative_tokens=4)
    constraint = OnlyEven()
    params = SamplingParams(temperature=temperature, seed=0, max_tokens=40)
    outputs = []
    engine.add([1, 2, 3], params, constraint=constraint)
    while engine.has_unfinished:
        outputs += engine.step()
    assert [output.token_id for output in outputs] == constraint.accepted
    assert all(token_id % 2 == 0 for token_id in constraint.accepted)
    assert outputs[-1].finish_reason == "stop"
    assert constraint.remaining == [40, 39, 38, 37, 36]


def test_logprobs_are_the_models_own_under_a_constraint() -> None:
    model = tiny_model(eos_token_id=511)
    params = GREEDY.replace(logprobs=2)
    engine = make_engine(model)
    engine.add([1, 2, 3], params, constraint=OnlyEven())
    constrained = engine.step()[0]
    engine = make_engine(model)
    engine.add([1, 2, 3], params)
    assert constrained.logprob is not None
    free = engine.step()[0].logprob
    assert free is not None
    assert constrained.logprob.top == free.top


def test_an_impossible_constraint_ends_its_own_request_alone() -> None:
    engine = make_engine()
    broken = engine.add([1, 2, 3], GREEDY, constraint=Nothing())
    whole = engine.add([4, 5, 6], GREEDY)
    outputs = []
    while engine.has_unfinished:
        outputs += engine.step()
    assert [o.finish_reason for o in outputs if o.sequence_id == broken] == ["error"]
    tokens = [o.token_id for o in outputs if o.sequence_id == whole]
    assert tokens == run(make_engine(), [[4, 5, 6]], GREEDY)[0]


def test_routing_is_that_of_the_whole_text_however_it_was_run() -> None:
    model = tiny_model()
    prompts = random_prompts(6, seed=4)
    engine = make_engine(model, num_blocks=14, max_num_batched_tokens=16)
    run(engine, prompts, GREEDY)  # fills the prefix cache, which routing must not use
    ids = [engine.add(prompt, GREEDY, needs_routing=True) for prompt in prompts]
    tokens: dict[int, list[int]] = {i: [] for i in ids}
    routes: dict[int, list[object]] = {i: [] for i in ids}
    while engine.has_unfinished:
        for output in engine.step():
            tokens[output.sequence_id].append(output.token_id)
            routes[output.sequence_id] += output.routing
    assert engine.num_preemptions > 0
    for number, prompt in zip(ids, prompts, strict=True):
        ran = [*prompt, *tokens[number]][:-1]
        trace = model.route(ran)
        assert [route.token_id for route in routes[number]] == ran  # type: ignore[attr-defined]
        found = [route.expert_ids for route in routes[number]]  # type: ignore[attr-defined]
        assert found == trace.expert_ids.tolist()


@pytest.mark.parametrize("needs_routing", [False, True])
def test_expert_load_counts_every_visit(needs_routing: bool) -> None:
    model = tiny_model()
    engine = make_engine(model, count_experts=True, enable_prefix_cache=False)
    prompt = random_prompts(1, seed=5)[0]
    number = engine.add(prompt, GREEDY, needs_routing=needs_routing)
    tokens = finish(engine, [number])[0]
    expert_ids = model.route([*prompt, *tokens][:-1]).expert_ids
    expected = [
        torch.bincount(layer.flatten(), minlength=4).tolist()
        for layer in expert_ids.transpose(0, 1)
    ]
    assert engine.stats().expert_load == expected


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"top_k": 5},
        {"top_p": 0.7},
        {"top_p": 0.999},
        {"min_p": 0.1},
        {"top_k": 40, "top_p": 0.9, "min_p": 0.02},
        {"temperature": 1e-5},
        {"temperature": 4.0, "top_p": 0.99},
    ],
)
def test_draws_come_from_the_specified_distribution(settings: dict[str, float]) -> None:
    params = SamplingParams(**({"temperature": 1.0} | settings))  # type: ignore[arg-type]
    logits = torch.randn(3000, generator=torch.Generator().manual_seed(0)) * 3
    weights, token_ids = candidates(logits, params)
    drawn = torch.zeros(3000)
    places = torch.arange(3000) if token_ids is None else token_ids
    drawn[places] = (weights / weights.sum()).float()
    torch.testing.assert_close(drawn, token_probabilities(logits, params), atol=1e-5, rtol=1e-3)
