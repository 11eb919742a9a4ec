"""Sampling: each setting does what its docstring says, and wrong ones are named."""

import pytest
import torch

from mixtral.engine import SamplingParams
from mixtral.engine.drawing import draw, token_probabilities
from mixtral.engine.sampler import Sampler
from mixtral.engine.sequence import Sequence
from mixtral.errors import InvalidRequest

LOGITS = torch.tensor([2.0, 1.0, 0.0, -1.0, -2.0])


def sequence_for(params: SamplingParams, output: list[int] | None = None) -> Sequence:
    return Sequence(
        sequence_id=0,
        prompt_token_ids=[3],
        params=params,
        max_tokens=10,
        eos_token_id=0,
        output_token_ids=output or [],
    )


def greedy_choice(output: list[int] | None = None, **settings: object) -> int:
    params = SamplingParams(temperature=0.0, **settings)  # type: ignore[arg-type]
    return Sampler().sample(LOGITS[None].clone(), [sequence_for(params, output)])[0][0]


def test_draws_follow_the_softmax_at_the_given_temperature() -> None:
    params = SamplingParams(temperature=2.0, seed=0)
    sampler, sequence = Sampler(), sequence_for(params)
    counts = torch.zeros(5)
    for _ in range(4000):
        counts[sampler.sample(LOGITS[None].clone(), [sequence])[0][0]] += 1
    torch.testing.assert_close(counts / 4000, (LOGITS / 2).softmax(-1), atol=0.03, rtol=0)


def test_top_k_keeps_the_k_likeliest() -> None:
    kept = token_probabilities(LOGITS, SamplingParams(temperature=1.0, top_k=2)) > 0
    assert kept.tolist() == [True, True, False, False, False]


def test_top_p_keeps_the_smallest_set_that_reaches_p() -> None:
    probabilities = LOGITS.softmax(-1)
    p = float(probabilities[:2].sum()) + 0.01
    kept = token_probabilities(LOGITS, SamplingParams(temperature=1.0, top_p=p)) > 0
    assert kept.tolist() == [True, True, True, False, False]


def test_tiny_top_p_keeps_the_likeliest_token() -> None:
    kept = token_probabilities(LOGITS, SamplingParams(temperature=1.0, top_p=1e-9)) > 0
    assert kept.tolist() == [True, False, False, False, False]


def test_min_p_drops_tokens_below_its_share_of_the_likeliest() -> None:
    kept = token_probabilities(LOGITS, SamplingParams(temperature=1.0, min_p=0.2)) > 0
    assert kept.tolist() == [True, True, False, False, False]


def test_tiny_temperature_stays_finite_and_takes_the_likeliest() -> None:
    probabilities = token_probabilities(LOGITS * 1e4, SamplingParams(temperature=1e-6))
    assert probabilities.tolist() == [1, 0, 0, 0, 0]


def test_logit_bias_bans_and_forces_tokens() -> None:
    assert greedy_choice(logit_bias={0: -100}) == 1
    assert greedy_choice(logit_bias={4: 100}) == 4


def test_repetition_penalty_counts_prompt_and_answer() -> None:
    assert greedy_choice(output=[0], repetition_penalty=3.0) == 1
    assert greedy_choice(output=[], repetition_penalty=3.0) == 0


def test_frequency_penalty_grows_with_each_occurrence_and_presence_does_not() -> None:
    assert greedy_choice(output=[0], frequency_penalty=0.6) == 0
    assert greedy_choice(output=[0, 0], frequency_penalty=0.6) == 1
    assert greedy_choice(output=[0, 0], presence_penalty=0.6) == 0
    assert greedy_choice(output=[0], presence_penalty=1.5) == 1


def test_min_tokens_bans_the_end_token_until_reached() -> None:
    assert greedy_choice(min_tokens=2) == 1
    assert greedy_choice(output=[4, 4], min_tokens=2) == 0


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", -0.1),
        ("temperature", "hot"),
        ("temperature", float("nan")),
        ("top_p", 0),
        ("top_p", 1.1),
        ("top_k", -1),
        ("top_k", 1.5),
        ("min_p", 2),
        ("max_tokens", 0),
        ("max_tokens", True),
        ("min_tokens", -1),
        ("stop", [""]),
        ("stop", 3),
        ("seed", "x"),
        ("n", 0),
        ("n", 1000),
        ("logprobs", 21),
        ("presence_penalty", 3),
        ("frequency_penalty", -3),
        ("repetition_penalty", 0),
        ("repetition_penalty", 1e-40),
        ("logit_bias", {5: 101}),
        ("logit_bias", {-1: 1.0}),
        ("logit_bias", "5=1"),
        ("ignore_eos", 1),
    ],
)
def test_wrong_setting_is_refused_with_its_name(field: str, value: object) -> None:
    with pytest.raises(InvalidRequest, match=field):
        SamplingParams(**{field: value})  # type: ignore[arg-type]


def test_min_tokens_above_max_tokens_is_refused() -> None:
    with pytest.raises(InvalidRequest, match=r"min_tokens is 5.*max_tokens, which is 3"):
        SamplingParams(min_tokens=5, max_tokens=3)


def test_one_stop_string_may_stand_alone() -> None:
    assert SamplingParams(stop="END").stop == ("END",)


@pytest.mark.parametrize("chance", [0.0, 0.5, 1 - 2**-53])
def test_a_draw_never_meets_a_token_without_weight(chance: float) -> None:
    logits = torch.full((1000,), float("-inf"))
    logits[10:20] = torch.linspace(-5, 5, 10)
    for settings in ({}, {"top_p": 0.9}, {"top_k": 3}, {"min_p": 0.5}, {"temperature": 5.0}):
        params = SamplingParams(**({"temperature": 0.3} | settings))  # type: ignore[arg-type]
        assert 10 <= draw(logits, params, chance) < 20


@pytest.mark.parametrize("penalty", [0.01, 100.0])
def test_extreme_settings_together_still_give_a_token(penalty: float) -> None:
    params = SamplingParams(
        temperature=1e-300, top_p=1e-300, repetition_penalty=penalty, seed=0, frequency_penalty=2.0
    )
    logits = torch.tensor([[1e4, -1e4, 0.0, 5e3, -5e3]])
    token_id, _ = Sampler().sample(logits, [sequence_for(params, [0, 1, 2])])[0]
    assert 0 <= token_id < 5
