"""Losses against plain PyTorch and numbers worked by hand."""

import math
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from mixtral.checkpoint import write_checkpoint
from mixtral.kernels.cpu_training import load_training_kernels
from mixtral.model import TokenBatch
from mixtral.train import losses
from mixtral.train.losses import linear_cross_entropy, load_balancing_loss, router_z_loss
from tests.models_for_tests import tiny_config, tiny_model


@pytest.fixture(params=["kernel", "torch"])
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run a test by the C++ kernel, where there is one, and by plain PyTorch."""
    if request.param == "torch":
        monkeypatch.setattr(losses, "load_training_kernels", lambda: None)
    elif load_training_kernels() is None:
        pytest.skip("the C++ library is not built")
    return str(request.param)


# The C++ kernel takes 384 rows and 96 words at a time; PyTorch's path 1024 rows.
@pytest.mark.parametrize("tokens", [1, 63, 450, 1500])
@pytest.mark.usefixtures("path")
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


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("place", [0, 1])
def test_number_that_is_none_is_seen_in_the_loss(place: int) -> None:
    tensors = [torch.ones(3, 4), torch.ones(200, 4)]
    tensors[place][2, 1] = float("nan")
    assert linear_cross_entropy(*tensors, torch.tensor([0, 1, 5])).isnan()


@pytest.mark.usefixtures("path")
def test_large_logits_neither_overflow_nor_lose_the_loss() -> None:
    hidden = torch.full((3, 4), 50.0)
    weight = torch.stack([torch.full((4,), float(word % 3)) for word in range(200)])
    loss = linear_cross_entropy(hidden, weight, torch.tensor([0, 1, 2]))
    expected = functional.cross_entropy(hidden @ weight.T, torch.tensor([0, 1, 2]))
    torch.testing.assert_close(loss, expected)


def test_float64_gradients_pass_gradcheck() -> None:
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randn(5, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(7, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    targets = torch.tensor([0, -1, 6, 3, -1])
    assert torch.autograd.gradcheck(
        lambda h, w: linear_cross_entropy(h, w, targets), (hidden, weight)
    )


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("trained", ["hidden", "weight", "nothing"])
def test_only_what_is_trained_gets_a_gradient(trained: str) -> None:
    generator = torch.Generator().manual_seed(2)
    both = [torch.randn(70, 8, generator=generator), torch.randn(120, 8, generator=generator)]
    targets = torch.randint(0, 120, (70,), generator=generator)
    leaves = [t.clone().requires_grad_() for t in both]
    whole = linear_cross_entropy(*leaves, targets)
    whole.backward()
    hidden, weight = (
        t.clone().requires_grad_(trained == name)
        for t, name in zip(both, ("hidden", "weight"), strict=True)
    )
    loss = linear_cross_entropy(hidden, weight, targets)
    assert torch.equal(loss, whole)
    assert loss.requires_grad == (trained != "nothing")
    if loss.requires_grad:
        loss.backward()
    for name, mine, full in zip(("hidden", "weight"), (hidden, weight), leaves, strict=True):
        assert mine.grad is None if name != trained else torch.equal(mine.grad, full.grad)


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("factor", [1, 3])
def test_a_graph_that_is_kept_gives_the_same_gradients_again(factor: int) -> None:
    leaves = [torch.randn(6, 4, requires_grad=True), torch.randn(9, 4, requires_grad=True)]
    loss = factor * linear_cross_entropy(*leaves, torch.arange(6))
    once = torch.autograd.grad(loss, leaves, retain_graph=True)
    loss.backward(retain_graph=True)
    loss.backward()
    for leaf, expected in zip(leaves, once, strict=True):
        torch.testing.assert_close(leaf.grad, 2 * expected)


@pytest.mark.usefixtures("path")
def test_micro_batches_weighted_by_their_size_add_up_to_the_whole_batch() -> None:
    generator = torch.Generator().manual_seed(3)
    hidden = torch.randn(50, 8, generator=generator)
    targets = torch.randint(0, 30, (50,), generator=generator)
    whole, parts = (torch.ones(30, 8, requires_grad=True) for _ in range(2))
    linear_cross_entropy(hidden, whole, targets).backward()
    for rows in (slice(0, 17), slice(17, 50)):
        size = rows.stop - rows.start
        (linear_cross_entropy(hidden[rows], parts, targets[rows]) * (size / 50)).backward()
    torch.testing.assert_close(parts.grad, whole.grad)


def test_bits_do_not_depend_on_the_threads() -> None:
    generator = torch.Generator().manual_seed(4)
    hidden, weight = (
        torch.randn(90, 16, generator=generator),
        torch.randn(2000, 16, generator=generator),
    )
    targets = torch.randint(0, 2000, (90,), generator=generator)
    if load_training_kernels() is None:
        pytest.skip("the C++ library is not built")
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            leaves = [t.clone().requires_grad_() for t in (hidden, weight)]
            loss = linear_cross_entropy(*leaves, targets)
            loss.backward()
            found.append([loss.detach(), *(leaf.grad for leaf in leaves)])
    finally:
        torch.set_num_threads(before)
    for one, three in zip(*found, strict=True):
        assert torch.equal(one, three)


def test_target_beyond_the_vocabulary_is_refused_with_its_value() -> None:
    with pytest.raises(ValueError, match="targets has 9; words are from 0 to 8"):
        linear_cross_entropy(torch.zeros(2, 4), torch.zeros(9, 4), torch.tensor([1, 9]))


@pytest.mark.parametrize("is_tied", [True, False])
def test_gradients_of_all_parameters_equal_those_of_transformers(
    is_tied: bool, tmp_path: Path
) -> None:
    transformers = pytest.importorskip("transformers")
    config = tiny_config(tie_word_embeddings=is_tied)
    ours = tiny_model(tie_word_embeddings=is_tied).requires_grad_(True)
    tensors = {name: p.detach() for name, p in ours.named_parameters()}
    write_checkpoint(tmp_path / "tiny", config, tensors.items(), layout="hf")
    theirs = transformers.MixtralForCausalLM.from_pretrained(tmp_path / "tiny", dtype=torch.float32)
    ids = torch.randint(0, 512, (40,), generator=torch.Generator().manual_seed(0))
    starts = [0, 25, 26, 40]
    parts = [ids[a:b] for a, b in pairwise(starts)]
    targets = torch.cat([torch.cat((part[1:], torch.tensor([-1]))) for part in parts])
    hidden = ours(TokenBatch.from_sequences([part.tolist() for part in parts]))
    loss = linear_cross_entropy(hidden, ours.lm_head.weight, targets)
    loss.backward()
    logits = torch.cat([theirs(part[None]).logits[0] for part in parts])
    expected = functional.cross_entropy(logits, targets, ignore_index=-1)
    expected.backward()
    torch.testing.assert_close(loss, expected)
    grad_of = _gradients_by_our_names(theirs)
    for name, parameter in ours.named_parameters():
        difference = (parameter.grad - grad_of(name)).norm() / grad_of(name).norm()
        assert difference < 1e-5, f"{name}: {difference}"


def _gradients_by_our_names(model: torch.nn.Module) -> Callable[[str], torch.Tensor]:
    """Return a function from our name to the gradient; theirs stacks the experts of a layer."""
    grads = {name: p.grad for name, p in model.named_parameters()}

    def grad_of(name: str) -> torch.Tensor:
        theirs = name.replace("block_sparse_moe", "mlp")
        if ".experts." not in theirs:
            return grads[theirs]
        prefix, _, rest = theirs.partition("experts.")
        expert, leaf, _ = rest.split(".")
        if leaf == "w2":
            return grads[f"{prefix}experts.down_proj"][int(expert)]
        gate, up = grads[f"{prefix}experts.gate_up_proj"][int(expert)].chunk(2)
        return gate if leaf == "w1" else up

    return grad_of


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


def test_router_losses_are_means_over_layers() -> None:
    generator = torch.Generator().manual_seed(5)
    layers = [torch.randn(30, 6, generator=generator) for _ in range(3)]
    balance = [load_balancing_loss([logits], 2) for logits in layers]
    z_loss = [router_z_loss([logits]) for logits in layers]
    torch.testing.assert_close(load_balancing_loss(layers, 2), torch.stack(balance).mean())
    torch.testing.assert_close(router_z_loss(layers), torch.stack(z_loss).mean())


def test_balancing_gradient_lowers_the_busy_expert() -> None:
    logits = torch.tensor([[1.0, 0.5, 0.0]] * 4, requires_grad=True)
    load_balancing_loss([logits], 1).backward()
    assert (logits.grad[:, 0] > 0).all()


def test_z_loss_is_squared_log_partition() -> None:
    logits = torch.zeros(3, 8)
    assert float(router_z_loss([logits, logits])) == pytest.approx(math.log(8) ** 2, rel=1e-6)


@pytest.mark.parametrize("num_experts_per_tok", [1, 2])
@pytest.mark.parametrize("is_padded", [False, True])
def test_balancing_loss_and_gradient_are_those_of_transformers(
    num_experts_per_tok: int, is_padded: bool
) -> None:
    """Theirs is A times ours, and pools the layers before it multiplies: one layer at a time."""
    modeling = pytest.importorskip("transformers.models.mixtral.modeling_mixtral")
    generator = torch.Generator().manual_seed(6)
    layers = [torch.randn(2 * 9, 6, generator=generator) for _ in range(3)]
    mask = torch.ones(2, 9, dtype=torch.int64)
    if is_padded:
        mask[0, 5:] = 0
    ours, theirs = ([logits.clone().requires_grad_() for logits in layers] for _ in range(2))
    kept = mask.flatten().bool()
    loss = load_balancing_loss([logits[kept] for logits in ours], num_experts_per_tok)
    expected = torch.stack(
        [
            modeling.load_balancing_loss_func(
                (logits,), 6, num_experts_per_tok, mask if is_padded else None
            )
            for logits in theirs
        ]
    ).mean()
    torch.testing.assert_close(num_experts_per_tok * loss, expected)
    (num_experts_per_tok * loss).backward()
    expected.backward()
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine.grad, other.grad)
        assert not mine.grad[~kept].any()


def test_router_losses_pass_gradcheck() -> None:
    generator = torch.Generator().manual_seed(7)
    layers = [
        torch.randn(7, 5, generator=generator, dtype=torch.float64, requires_grad=True)
        for _ in range(2)
    ]
    assert torch.autograd.gradcheck(lambda *x: load_balancing_loss(list(x), 2), layers)
    assert torch.autograd.gradcheck(lambda *x: router_z_loss(list(x)), layers)
