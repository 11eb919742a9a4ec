"""Guessing the next tokens changes the speed and nothing else."""

import pytest

from mixtral.engine import SamplingParams
from mixtral.engine.prompt_lookup import PromptLookup
from mixtral.model import Transformer
from tests.engine.engine_for_tests import GREEDY, make_engine, random_prompts, run
from tests.models_for_tests import tiny_model


def repetitive_model() -> Transformer:
    """Return a model whose next token depends on the last one alone, of 16."""
    model = tiny_model()
    for layer in model.model.layers:
        layer.self_attn.o_proj.weight.zero_()  # type: ignore[union-attr, operator]
    model.lm_head.weight[16:].zero_()
    return model


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("num_prompts", [1, 4])
def test_answers_are_the_same_with_and_without_guesses(
    temperature: float, num_prompts: int
) -> None:
    params = SamplingParams(
        temperature=temperature, seed=3, max_tokens=60, ignore_eos=True, frequency_penalty=0.1
    )
    prompts = [prompt * 3 for prompt in random_prompts(num_prompts, seed=2)]
    model = repetitive_model()
    expected = run(make_engine(model, num_blocks=200), prompts, params)
    engine = make_engine(model, num_blocks=200, num_speculative_tokens=4)
    assert run(engine, prompts, params) == expected


def test_right_guesses_save_steps() -> None:
    params = GREEDY.replace(max_tokens=80)
    model = repetitive_model()
    engine = make_engine(model, num_speculative_tokens=4)
    engine.add([5, 6, 7], params)
    steps = 0
    while engine.has_unfinished:
        engine.step()
        steps += 1
    stats = engine.stats()
    assert stats.num_output_tokens == 80
    assert stats.num_right_guesses > 20
    assert steps == 80 - stats.num_right_guesses


def test_nothing_is_guessed_for_a_full_batch() -> None:
    engine = make_engine(repetitive_model(), num_speculative_tokens=4, num_blocks=200)
    run(engine, [[5, 6, 7]] * 6, GREEDY.replace(max_tokens=30))
    assert engine.stats().num_guessed_tokens == 0


def test_the_follower_of_the_last_same_tokens_is_guessed() -> None:
    lookup = PromptLookup([7, 8, 9, 1, 2, 7, 8, 9, 3, 4, 7, 8, 9], 2)
    assert lookup.guess(5) == [3, 4]
    assert lookup.guess(1) == [3]


def test_no_guess_without_a_match_and_a_pause_after_wrong_ones() -> None:
    assert PromptLookup([1, 2, 3, 4], 4).guess(4) == []
    lookup = PromptLookup([1, 2, 3, 4, 1, 2, 3], 4)
    assert lookup.guess(4) == [4, 1, 2, 3]
    for _ in range(3):
        lookup.note(4, 0)
    assert lookup.guess(4) == []
    for token_id in [9] * 40 + [1, 2, 3]:
        lookup.append(token_id)
    assert lookup.guess(4) != []
