"""Losses against plain PyTorch and numbers worked by hand."""

import math

import pytest
import torch
from torch.nn import functional

from mixtral.train.losses import linear_cross_entropy, load_balancing_loss, router_z_loss


@pytest.mark.parametrize("tokens", [1, 63, 130, 1500])
def test_joined_head_and_loss_equal_cross_entropy_with_gradients(tokens: int) -> None:
    generator = torch.Generator().manual_seed(tokens)
    hidden = torch.randn(tokens, 16, generator=generator)
    weight = torch.randn(97, 16, generator=generator)
    targets = torch.randint(0, 97, (tokens,), generator=generator)
    targets[1::7] = -1
    ours = [hidden.clone().requires_grad_(), weight.clone().requires_grad_()]
    plain = [hidden.clone().requires_grad_(), weight.clone().requires_grad_()]
    loss = linear_cross_entropy(*ours, targets)
    expected = functional.cross_entropy(plain[0] @ plain[1].T, targets, ignore_index=-1)
    (3 * loss).backward()
    (3 * expected).backward()
    torch.testing.assert_close(loss, expected)
    for mine, theirs in zip(ours, plain, strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, atol=1e-5, rtol=1e-4)


def test_loss_without_any_target_is_zero_with_zero_gradients() -> None:
    hidden = torch.randn(5, 4, requires_grad=True)
    weight = torch.randn(9, 4, requires_grad=True)
    loss = linear_cross_entropy(hidden, weight, torch.full((5,), -1))
    loss.backward()
    assert float(loss.detach()) == 0
    assert not hidden.grad.any()
    assert not weight.grad.any()


def test_bfloat16_gradients_are_close_to_float32_ones() -> None:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(200, 32, generator=generator)
    weight = torch.randn(300, 32, generator=generator) * 0.1
    targets = torch.randint(0, 300, (200,), generator=generator)
    grads = []
    for dtype in (torch.float32, torch.bfloat16):
        leaves = [t.to(dtype).clone().requires_grad_() for t in (hidden, weight)]
        linear_cross_entropy(*leaves, targets).backward()
        grads.append([leaf.grad.float() for leaf in leaves])
    for wide, narrow in zip(*grads, strict=True):
        assert (wide - narrow).norm() / wide.norm() < 0.02


def test_balancing_loss_is_one_when_even_and_num_experts_when_all_go_to_one() -> None:
    even = torch.eye(4) * 1e-6  # equal probabilities, each token its own first choice
    assert float(load_balancing_loss([even], 1)) == pytest.approx(1.0, abs=1e-4)
    one_sided = torch.tensor([[50.0, 0, 0, 0]]).expand(6, -1)
    assert float(load_balancing_loss([one_sided], 1)) == pytest.approx(4.0, abs=1e-4)


def test_balancing_gradient_lowers_the_busy_expert() -> None:
    logits = torch.tensor([[1.0, 0.5, 0.0]] * 4, requires_grad=True)
    load_balancing_loss([logits], 1).backward()
    assert (logits.grad[:, 0] > 0).all()


def test_z_loss_is_squared_log_partition() -> None:
    logits = torch.zeros(3, 8)
    assert float(router_z_loss([logits, logits])) == pytest.approx(math.log(8) ** 2, rel=1e-6)
