"""Norm and rotary embedding of training: values and gradients against the plain formulas."""

from collections.abc import Callable

import pytest
import torch

from mixtral.kernels import grouped, reference

Operation = Callable[..., torch.Tensor]
EPS = 1e-5


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def tables(tokens: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    return reference.rotary_tables(torch.arange(3, 3 + tokens), width, 100.0)


def with_gradients(
    operation: Operation, leaves: list[torch.Tensor], out_grad: torch.Tensor
) -> list[torch.Tensor]:
    leaves = [leaf.clone().requires_grad_() for leaf in leaves]
    out = operation(*leaves)
    out.backward(out_grad)
    return [out.detach(), *(leaf.grad for leaf in leaves)]


def saved_numbers(run: Callable[[], torch.Tensor]) -> int:
    """How many numbers autograd keeps for the backward pass; equal memory counts once."""
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.data_ptr()] = tensor.numel()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        run()
    return sum(kept.values())


@pytest.mark.parametrize(("tokens", "width"), [(1, 4), (5, 16), (33, 20)])
def test_norm_gives_the_reference_bits_and_its_gradients(tokens: int, width: int) -> None:
    leaves = [3 * random(tokens, width), random(width, seed=1)]
    out_grad = random(tokens, width, seed=2)
    ours = with_gradients(lambda x, w: grouped.rms_norm(x, w, EPS), leaves, out_grad)
    theirs = with_gradients(lambda x, w: reference.rms_norm(x, w, EPS), leaves, out_grad)
    assert torch.equal(ours[0], theirs[0])
    for mine, other in zip(ours[1:], theirs[1:], strict=True):
        assert (mine - other).norm() <= 1e-6 * other.norm()


@pytest.mark.parametrize(("tokens", "heads", "width"), [(1, 1, 2), (5, 3, 8), (33, 4, 64)])
def test_rotary_gives_the_reference_values_and_gradients(
    tokens: int, heads: int, width: int
) -> None:
    angles = tables(tokens, width)
    leaves, out_grad = [random(tokens, heads, width)], random(tokens, heads, width, seed=1)
    ours = with_gradients(lambda x: grouped.apply_rotary(x, *angles), leaves, out_grad)
    theirs = with_gradients(lambda x: reference.apply_rotary(x, *angles), leaves, out_grad)
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, atol=1e-6, rtol=1e-6)


def test_float64_gradients_pass_gradcheck() -> None:
    cos, sin = (table.double() for table in tables(3, 4))
    x, weight = (random(*shape, dtype=torch.float64).requires_grad_() for shape in ((3, 4), (4,)))
    heads = random(3, 2, 4, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, w: grouped.rms_norm(x, w, EPS), (x, weight))
    assert torch.autograd.gradcheck(lambda x: grouped.apply_rotary(x, cos, sin), (heads,))


@pytest.mark.parametrize("trained", ["states", "weight"])
def test_norm_makes_only_the_gradient_that_is_wanted(trained: str) -> None:
    x = random(4, 8).requires_grad_(trained == "states")
    weight = random(8, seed=1).requires_grad_(trained == "weight")
    grouped.rms_norm(x, weight, EPS).sum().backward()
    assert (x.grad is None) == (trained == "weight")
    assert (weight.grad is None) == (trained == "states")


def test_norm_keeps_its_input_and_rotary_its_tables() -> None:
    x, weight = random(50, 64).requires_grad_(), random(64).requires_grad_()
    kept = saved_numbers(lambda: grouped.rms_norm(x, weight, EPS))
    assert kept == x.numel() + weight.numel() + len(x)
    heads, angles = random(50, 4, 16).requires_grad_(), tables(50, 16)
    assert saved_numbers(lambda: grouped.apply_rotary(heads, *angles)) == 2 * angles[0].numel()


def test_bfloat16_is_trained_through_the_plain_formula() -> None:
    leaves = [random(4, 8).bfloat16(), random(8, seed=1).bfloat16()]
    out_grad = random(4, 8, seed=2).bfloat16()
    ours = with_gradients(lambda x, w: grouped.rms_norm(x, w, EPS), leaves, out_grad)
    theirs = with_gradients(lambda x, w: reference.rms_norm(x, w, EPS), leaves, out_grad)
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.dtype == torch.bfloat16
        assert torch.equal(mine, other)
