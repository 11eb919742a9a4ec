"""What a model costs: its weights, and a speed that says how it was taken."""

import pytest

from mixtral import LLM
from mixtral.eval.model_facts import describe_weights, measure_speed


def new_llm(max_model_len: int) -> LLM:
    return LLM("random:nano", layers=1, dtype="float32", device="cpu", max_model_len=max_model_len)


def test_weights_are_counted_as_they_are_held() -> None:
    llm = new_llm(32)
    facts = describe_weights(llm)
    assert facts["parameters"] == llm.config.num_parameters
    assert facts["active_parameters"] < facts["parameters"]
    assert facts["weight_bytes"] == 4 * facts["parameters"]
    assert (facts["format"], facts["bits_per_weight"]) == ("float32", 32)


def test_speed_says_how_it_was_taken_and_fits_any_context(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mixtral.eval.model_facts._PROBE_BYTES", 1 << 16)
    speed = measure_speed(new_llm(32))
    assert speed is not None
    assert (speed.prompt_tokens, speed.answer_tokens) == (24, 8)
    assert speed.repeats in (1, 2, 3)
    assert speed.prefill_tokens_per_s > 0
    assert speed.decode_tokens_per_s > 0
    assert measure_speed(new_llm(7)) is None
