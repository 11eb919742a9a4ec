"""The loss against a sample of the vocabulary: exact with all words, right on average with few."""

import torch

from mixtral.train.losses import linear_cross_entropy
from mixtral.train.sampled_loss import sampled_cross_entropy

_VOCAB, _WIDTH = 97, 16


def _inputs(tokens: int = 40) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(tokens)
    hidden = torch.randn(tokens, _WIDTH, generator=generator)
    weight = torch.randn(_VOCAB, _WIDTH, generator=generator) / 4
    targets = torch.randint(0, 12, (tokens,), generator=generator)
    targets[1::7] = -1
    return hidden, weight, targets


def test_with_all_words_drawn_it_is_the_loss_with_its_gradients() -> None:
    hidden, weight, targets = _inputs()
    words = torch.tensor([3, 50])
    ours = [hidden.clone().requires_grad_(), weight.clone().requires_grad_()]
    plain = [hidden.clone().requires_grad_(), weight.clone().requires_grad_()]
    loss = sampled_cross_entropy(*ours, targets, words, _VOCAB)
    expected = linear_cross_entropy(*plain, targets)
    (3 * loss).backward()
    (3 * expected).backward()
    torch.testing.assert_close(loss, expected)
    for mine, theirs in zip(ours, plain, strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, atol=1e-5, rtol=1e-4)


def test_sum_of_exponentials_is_right_on_average() -> None:
    hidden, weight, targets = _inputs(1)
    words = torch.arange(12)
    exact = (hidden @ weight.T).exp().sum()
    said = (hidden[0] @ weight[targets[0]]).exp()
    torch.manual_seed(0)
    draws = torch.stack(
        [said * sampled_cross_entropy(hidden, weight, targets, words, 8).exp() for _ in range(600)]
    )
    error = draws.std() / len(draws) ** 0.5
    assert error < 0.02 * exact
    assert abs(draws.mean() - exact) < 4 * error


def test_only_the_words_that_are_compared_get_a_gradient() -> None:
    hidden, weight, targets = _inputs()
    weight.requires_grad_()
    words = torch.tensor([[70, 71], [70, 96]])
    torch.manual_seed(1)
    sampled_cross_entropy(hidden, weight, targets, words, 5).backward()
    assert weight.grad is not None
    has_gradient = weight.grad.abs().sum(dim=1) > 0
    kept = {*words.flatten().tolist(), *targets[targets >= 0].tolist()}
    assert has_gradient[sorted(kept)].all()
    assert int(has_gradient.sum()) == len(kept) + 5


def test_the_draw_depends_on_the_seed_alone() -> None:
    hidden, weight, targets = _inputs()
    words = torch.arange(12)

    def loss(seed: int) -> float:
        torch.manual_seed(seed)
        return float(sampled_cross_entropy(hidden, weight, targets, words, 5))

    assert loss(1) == loss(1)
    assert loss(1) != loss(2)


def test_rows_without_a_target_cost_nothing() -> None:
    hidden, weight, _ = _inputs()
    none = torch.full((len(hidden),), -1)
    assert float(sampled_cross_entropy(hidden, weight, none, torch.arange(3), 5)) == 0.0
