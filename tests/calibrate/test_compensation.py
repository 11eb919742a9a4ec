"""Compensated rounding: smaller output errors in the same bytes, by a slow copy of the formula."""

import pytest
import torch
from torch import Tensor

from mixtral.calibrate.compensation import inverse_factor, quantize_compensated
from mixtral.errors import ConfigError
from mixtral.kernels import formats
from mixtral.kernels.formats import dequantize
from mixtral.kernels.low_bit import quantize

NAMES = ["int8", "int4", "int3"]


def problem(rows: int, cols: int, tokens: int = 2000) -> tuple[Tensor, Tensor]:
    """Gaussian weights, and inputs that live mostly in a quarter of the directions."""
    generator = torch.Generator().manual_seed(rows + cols)
    weight = torch.randn(rows, cols, generator=generator) / cols**0.5
    few = torch.randn(tokens, cols // 4, generator=generator)
    mix = torch.randn(cols // 4, cols, generator=generator) / cols**0.5
    return weight, few @ mix + 0.1 * torch.randn(tokens, cols, generator=generator)


def compensated(weight: Tensor, moments: Tensor, name: str) -> Tensor:
    return quantize_compensated(weight, inverse_factor(moments, damping=0.01), name)


def output_error(weight: Tensor, packed: Tensor, name: str, inputs: Tensor) -> float:
    rows, cols = weight.shape
    decoded = dequantize(packed, name, rows=rows, cols=cols)
    return float(((decoded - weight) @ inputs.T).norm() / (weight @ inputs.T).norm())


@pytest.mark.parametrize("name", NAMES)
def test_outputs_change_half_as_much_as_by_plain_rounding(name: str) -> None:
    weight, inputs = problem(64, 256)
    before = weight.clone()
    packed = compensated(weight, inputs.T @ inputs, name)
    assert torch.equal(weight, before)
    plain = quantize(weight, name)
    assert packed.shape == plain.shape
    assert output_error(weight, packed, name, inputs) < 0.5 * output_error(
        weight, plain, name, inputs
    )


@pytest.mark.parametrize("name", NAMES)
def test_inputs_that_say_nothing_leave_plain_rounding(name: str) -> None:
    weight, _ = problem(40, 200)
    moments = torch.zeros(200, 200)
    assert torch.equal(compensated(weight, moments, name), quantize(weight, name))


def test_errors_are_hidden_by_the_formula_of_the_paper() -> None:
    # With int8's fixed scale, the paper's update on the whole inverse (equation 3) is short enough
    # to write down: after column k, w -= e / P[k, k] * P[k], then k leaves P.
    weight, inputs = problem(8, 128)
    moments = inputs.T @ inputs
    found = formats.unpack(compensated(weight, moments, "int8"), "int8", rows=8, cols=128)
    scale = found[1].double()
    offset = formats.bfloat16_from_bits(found[2]).double()
    rest = weight.double().clone()
    damped = moments.double() + 0.01 * moments.diagonal().mean() * torch.eye(128)
    inverse = torch.linalg.inv(damped)
    expected = torch.empty(8, 128)
    for k in range(128):
        steps = ((rest[:, k, None] - offset) / scale).round().clamp(-128, 127)
        expected[:, k] = steps[:, 0] + 128
        error = rest[:, k, None] - (scale * steps + offset)
        rest[:, k + 1 :] -= error / inverse[k, k] * inverse[k, k + 1 :]
        inverse = inverse - inverse[:, k, None] @ inverse[k, None] / inverse[k, k]
    # A weight half-way between two codes may fall to either side in float32.
    assert (found[0].float() != expected).float().mean() < 0.01
    assert (found[0].float() - expected).abs().max() <= 1


def test_factor_squares_to_the_inverse() -> None:
    _, inputs = problem(1, 128)
    moments = inputs.T @ inputs
    factor = inverse_factor(moments, damping=0.01)
    damped = moments + 0.01 * moments.diagonal().mean() * torch.eye(128)
    torch.testing.assert_close(factor.T @ factor @ damped, torch.eye(128), atol=1e-3, rtol=0)
    assert torch.equal(factor, factor.triu())


def test_fewer_tokens_than_columns_and_dead_inputs_still_work() -> None:
    weight, inputs = problem(16, 256, tokens=3)
    inputs[:, 7] = 0
    packed = compensated(weight, inputs.T @ inputs, "int4")
    assert output_error(weight, packed, "int4", inputs) < 0.05


@pytest.mark.parametrize("name", NAMES)
def test_zero_weights_stay_zero(name: str) -> None:
    _, inputs = problem(4, 128)
    packed = compensated(torch.zeros(4, 128), inputs.T @ inputs, name)
    assert not dequantize(packed, name, rows=4, cols=128).any()


def test_moments_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(ConfigError, match="mean square of nan; it must be finite"):
        inverse_factor(torch.full((128, 128), float("nan")), damping=0.01)
