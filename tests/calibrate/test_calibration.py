"""Calibration of a whole model: what it reads, what it yields, and that it helps."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from mixtral.calibrate import (
    Calibration,
    CalibrationSettings,
    calibration_table,
    compare_models,
    quality_table,
    weight_errors,
)
from mixtral.calibrate.draw import draw_text
from mixtral.calibrate.rounding import borrowed_moments
from mixtral.errors import ConfigError
from mixtral.kernels.low_bit import quantize
from mixtral.loading import unpacked_tensors
from mixtral.model import Transformer
from mixtral.quantization import QuantizationRecipe
from tests.models_for_tests import tiny_model

INT3 = QuantizationRecipe(name="tiny", experts="int3", attention="int3", lm_head="int3")
KEPT = QuantizationRecipe(name="kept", experts="float32", attention="float32", lm_head="float32")
SETTINGS = CalibrationSettings(
    min_tokens=600, max_tokens=1200, min_tokens_per_expert=100, tokens_per_pass=256
)


def text(count: int, length: int = 30, seed: int = 0) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    # Few different tokens, so that the inputs do not fill all directions evenly.
    return torch.randint(12, (count, length), generator=generator).tolist()


def rebuilt(model: Transformer, tensors: list[tuple[str, Tensor]]) -> Transformer:
    config = model.config.replace(tie_word_embeddings=False)
    return Transformer.from_tensors(config, unpacked_tensors(tensors, config))


def plainly_rounded(model: Transformer) -> list[tuple[str, Tensor]]:
    return [
        (name.replace("weight", "packed"), quantize(weight, "int3"))
        if INT3.format_of(name) == "int3"
        else (name, weight)
        for name, weight in model.named_parameters()
    ]


def test_recipe_that_keeps_every_weight_yields_the_model_itself() -> None:
    model = tiny_model()
    tensors = dict(Calibration(model, KEPT, text(40), settings=SETTINGS))
    assert set(tensors) == {name for name, _ in model.named_parameters()}
    for name, weight in model.named_parameters():
        assert torch.equal(tensors[name], weight)


@pytest.mark.parametrize("changes", [{}, {"sliding_window": 7}, {"num_local_experts": 0}])
def test_states_move_as_in_the_model_itself(changes: dict[str, int]) -> None:
    if "num_local_experts" in changes:
        changes = changes | {"num_experts_per_tok": 0}
    model = tiny_model(**changes)
    drawn = draw_text(model, text(40), SETTINGS)
    calibration = Calibration(model, KEPT, [], settings=SETTINGS)
    states = [model.model.embed_tokens(batch.input_ids) for batch in drawn.batches]
    for index, layer in enumerate(model.model.layers):
        list(calibration._layer(index, layer, drawn, states, [[], []]))
    for batch, state in zip(drawn.batches, states, strict=True):
        expected = model(batch)
        torch.testing.assert_close(model.model.norm(state), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("tied", [False, True])
def test_calibrated_model_predicts_closer_to_the_reference_than_a_plainly_rounded_one(
    tied: bool,
) -> None:
    model = tiny_model(tie_word_embeddings=tied)
    calibration = Calibration(model, INT3, text(40), settings=SETTINGS)
    calibrated = list(calibration)
    plain = plainly_rounded(model)
    if tied:
        plain.append(("lm_head.packed", quantize(model.lm_head.weight, "int3")))
    held_out = text(10, seed=1)
    reports = [
        compare_models(model, rebuilt(model, tensors), held_out) for tensors in (plain, calibrated)
    ]
    assert reports[1].kl_divergence < 0.8 * reports[0].kl_divergence
    assert sum(reports[1].same_experts) > sum(reports[0].same_experts)


def test_calibration_is_deterministic_and_leaves_the_model_alone() -> None:
    model = tiny_model()
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    first = dict(Calibration(model, INT3, text(25), settings=SETTINGS))
    second = dict(Calibration(model, INT3, text(25), settings=SETTINGS))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert all(torch.equal(weight, before[name]) for name, weight in model.named_parameters())


def test_text_is_drawn_until_every_expert_has_enough() -> None:
    model = tiny_model()
    enough = draw_text(model, iter(text(1000)), SETTINGS)
    assert enough.has_enough
    assert 600 <= enough.num_tokens < 1200
    greedy = CalibrationSettings(
        min_tokens=600, max_tokens=3000, min_tokens_per_expert=500, tokens_per_pass=256
    )
    assert draw_text(model, text(1000), greedy).num_tokens > enough.num_tokens


def test_starved_experts_are_named_and_rounded_all_the_same() -> None:
    model = tiny_model()
    # Equal tokens have equal states, so they all go to the same two experts.
    settings = CalibrationSettings(
        min_tokens=300, max_tokens=400, min_tokens_per_expert=200, tokens_per_pass=200
    )
    calibration = Calibration(model, INT3, [[5] * 30] * 20, settings=settings)
    tensors = dict(calibration)
    report = calibration.report
    assert not report.has_enough
    assert report.num_tokens == 420
    for layer, counts in enumerate(report.tokens_per_expert):
        assert sorted(counts) == [0, 0, 420, 420]
        starved = [expert for expert in range(4) if counts[expert] == 0]
        assert [e.expert for e in report.starved if e.layer == layer] == starved
        stem = f"model.layers.{layer}.block_sparse_moe.experts.{starved[0]}"
        decoded = dict(unpacked_tensors(tensors.items(), model.config))
        weight = model.get_parameter(f"{stem}.w2.weight")
        error = (decoded[f"{stem}.w2.weight"] - weight).norm() / weight.norm()
        assert error < 0.3
    assert report.to_json()["starved"][0]["num_tokens"] < 200
    assert "starved experts" in calibration_table(report).columns[3].header


def test_expert_without_tokens_borrows_all_from_its_layer() -> None:
    layer = torch.eye(4) * 8
    assert torch.equal(
        borrowed_moments(torch.zeros(4, 4), num_own=0, layer=layer, num_layer=2), 8 * torch.eye(4)
    )


def test_report_before_the_end_is_refused() -> None:
    calibration = Calibration(tiny_model(), INT3, text(4), settings=SETTINGS)
    with pytest.raises(ConfigError, match="has not ended"):
        _ = calibration.report


def test_progress_rises_to_one() -> None:
    seen: list[tuple[str, float]] = []
    calibration = Calibration(
        tiny_model(), INT3, text(4), settings=SETTINGS, on_progress=lambda *step: seen.append(step)
    )
    list(calibration)
    shares = [share for _, share in seen]
    assert shares == sorted(shares)
    assert seen[-1] == ("done", 1.0)


@pytest.mark.parametrize(
    ("sequences", "message"),
    [
        ([], "calibration text is empty"),
        ([[1, 2], []], "sequence 1 has 0 tokens; it must have from 1 to 256"),
        ([[1] * 257], "sequence 0 has 257 tokens"),
        ([[1, 512]], "token ids from 1 to 512; they must be from 0 to 511"),
    ],
)
def test_text_that_the_model_cannot_read_is_refused(
    sequences: list[Sequence[int]], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        list(Calibration(tiny_model(), INT3, sequences, settings=SETTINGS))


def test_float16_model_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"needs torch\.float32 or torch\.bfloat16"):
        Calibration(tiny_model().half(), INT3, text(1))


def test_settings_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ConfigError, match="max_tokens is 10; it must be a whole number"):
        CalibrationSettings(max_tokens=10)


def test_model_compared_with_itself_is_the_same() -> None:
    model = tiny_model()
    report = compare_models(model, model, text(3), weight_errors={"experts": 0.5})
    assert report.num_tokens == 3 * 29
    assert report.perplexity_change == 0
    assert abs(report.kl_divergence) < 1e-6
    assert report.same_best_token == 1
    assert report.same_experts == report.same_order == (1.0, 1.0)
    assert quality_table(report).row_count == 4 + 1 + 2


def test_perplexity_and_divergence_are_those_of_the_formula() -> None:
    model, other = tiny_model(), tiny_model(seed=1)
    sequence = text(1)[0]
    mask = [0] * 10 + [1] * 20
    report = compare_models(model, other, [sequence], masks=[mask])
    expected, found = (m.whole_logits(sequence).double().log_softmax(-1) for m in (model, other))
    losses = [-found[i - 1, sequence[i]] for i in range(10, 30)]
    assert report.num_tokens == 20
    assert report.perplexity == pytest.approx(torch.stack(losses).mean().exp().item(), rel=1e-4)
    divergence = (expected.exp() * (expected - found)).sum(-1)[9:29].mean()
    assert report.kl_divergence == pytest.approx(divergence.item(), rel=1e-4)
    chosen = [m.route(sequence).expert_ids.sort(-1).values for m in (model, other)]
    same = (chosen[0] == chosen[1]).all(-1).double().mean(0)
    assert report.same_experts == pytest.approx(same.tolist())


def test_mask_of_another_length_is_refused() -> None:
    with pytest.raises(ConfigError, match="a mask has 2 entries for 30 tokens"):
        compare_models(tiny_model(), tiny_model(), text(1), masks=[[1, 1]])


def test_text_in_which_nothing_counts_is_refused() -> None:
    with pytest.raises(ConfigError, match="no token of the evaluation text counts"):
        compare_models(tiny_model(), tiny_model(), [[1]])


def test_weight_errors_are_relative_to_each_part() -> None:
    model = tiny_model()
    errors = weight_errors(model, plainly_rounded(model))
    assert set(errors) == {"experts", "attention", "lm_head"}
    # Rows of 64 or 96 columns are padded to 128, which costs a little.
    assert all(0.1 < error < 0.2 for error in errors.values())
