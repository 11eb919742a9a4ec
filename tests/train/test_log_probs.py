"""Log-probs of given tokens against log_softmax, with gradients, and what they keep in memory."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from mixtral.model import TokenBatch
from mixtral.train.log_probs import frozen_scorer, token_log_probs
from tests.models_for_tests import tiny_model


def random_case(
    tokens: int, *, words: int = 97, width: int = 16, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(tokens)
    hidden = torch.randn(tokens, width, generator=generator, dtype=torch.float64)
    weight = torch.randn(words, width, generator=generator, dtype=torch.float64)
    targets = torch.randint(0, words, (tokens,), generator=generator)
    targets[1::3] = -1
    return hidden.to(dtype).requires_grad_(), weight.to(dtype).requires_grad_(), targets


def plain(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    found = (hidden @ weight.T).log_softmax(dim=-1)
    found = found.gather(1, targets.clamp(min=0)[:, None])[:, 0]
    return torch.where(targets >= 0, found, 0)


@pytest.mark.parametrize("tokens", [1, 64, 130, 1700])
def test_values_and_gradients_equal_log_softmax(tokens: int) -> None:
    hidden, weight, targets = random_case(tokens)
    scale = torch.linspace(-2, 3, tokens)  # every row with a gradient of its own
    found = token_log_probs(hidden, weight, targets)
    expected = plain(hidden, weight, targets)
    torch.testing.assert_close(found, expected)
    ours = torch.autograd.grad((found * scale).sum(), (hidden, weight))
    theirs = torch.autograd.grad((expected * scale).sum(), (hidden, weight))
    for mine, plain_grad in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, plain_grad, atol=1e-4, rtol=1e-4)


def test_gradients_pass_gradcheck() -> None:
    hidden, weight, targets = random_case(7, words=11, width=5, dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda x, head: token_log_probs(x, head, targets), (hidden, weight)
    )


def test_frozen_head_gets_no_gradient_and_the_states_get_the_same() -> None:
    hidden, weight, targets = random_case(50)
    (wanted,) = torch.autograd.grad(token_log_probs(hidden, weight, targets).sum(), hidden)
    frozen = weight.detach()
    token_log_probs(hidden, frozen, targets).sum().backward()
    assert torch.equal(hidden.grad, wanted)  # type: ignore[arg-type]
    assert frozen.grad is None


def test_head_alone_learns_from_fixed_states() -> None:
    hidden, weight, targets = random_case(50)
    fixed = hidden.detach()
    (found,) = torch.autograd.grad(token_log_probs(fixed, weight, targets).sum(), weight)
    (expected,) = torch.autograd.grad(plain(fixed, weight, targets).sum(), weight)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_no_targets_give_zeros_and_zero_gradients() -> None:
    hidden, weight, _ = random_case(5)
    found = token_log_probs(hidden, weight, torch.full((5,), -1))
    found.sum().backward()
    assert found.tolist() == [0] * 5
    assert not hidden.grad.any()  # type: ignore[union-attr]
    assert not weight.grad.any()  # type: ignore[union-attr]


def test_bfloat16_gradients_are_close_to_float32_ones() -> None:
    grads = []
    for dtype in (torch.float32, torch.bfloat16):
        hidden, weight, targets = random_case(60, dtype=dtype)
        found = token_log_probs(hidden * 0.3, weight * 0.3, targets)
        assert found.dtype == torch.float32
        grads.append(torch.autograd.grad(found.sum(), (hidden, weight)))
    for wide, narrow in zip(*grads, strict=True):
        assert (wide - narrow.float()).norm() / wide.norm() < 0.02


class LargestTensor(TorchDispatchMode):
    """Notes the most elements of any tensor that an operation makes."""

    numel = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(tensor, Tensor):
                self.numel = max(self.numel, tensor.numel())
        return out


def test_forward_and_backward_never_make_all_logits() -> None:
    hidden, weight, targets = random_case(6000, words=64, width=4)
    with LargestTensor() as largest:
        token_log_probs(hidden, weight, targets).sum().backward()
    assert 0 < largest.numel <= 1024 * 64
    with LargestTensor() as naive:
        plain(hidden, weight, targets).sum().backward()
    assert naive.numel == 6000 * 64


def test_scoring_without_gradients_keeps_nothing_and_gives_the_same() -> None:
    hidden, weight, targets = random_case(70)
    wanted = token_log_probs(hidden, weight, targets)
    with torch.no_grad():
        found = token_log_probs(hidden, weight, targets)
    assert found.grad_fn is None
    assert torch.equal(found, wanted.detach())


def test_frozen_scorer_runs_without_dropout_and_gives_the_modes_back() -> None:
    model = tiny_model().requires_grad_(True).train()
    model.model.layers[0].eval()
    layer_modes = [layer.training for layer in model.model.layers]
    dropout = nn.Dropout(0.5)
    model.model.norm.register_forward_hook(lambda module, args, out: dropout(out))
    model.model.norm.dropout = dropout
    batch = TokenBatch.from_sequences([[1, 5, 9, 2]])
    targets = torch.tensor([5, 9, 2, -1])
    score = frozen_scorer(model)
    first, second = score(batch, targets), score(batch, targets)
    assert torch.equal(first, second)
    assert first.grad_fn is None
    assert [layer.training for layer in model.model.layers] == layer_modes == [False, True]
    logits = model.whole_logits([1, 5, 9, 2])  # with dropout: the modes are those of training
    assert not torch.allclose(plain(logits, torch.eye(512), targets), first)
