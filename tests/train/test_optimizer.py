"""The optimizer against PyTorch's own, and what it keeps in memory."""

from collections.abc import Mapping

import pytest
import torch
from torch import nn

from mixtral.model.lora import LoraSpec, add_lora
from mixtral.train import TrainRecipe
from mixtral.train.optimizer import MasterAdamW
from tests.models_for_tests import tiny_model


def two_layers(dtype: torch.dtype) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 3)).to(dtype)


def optimizer_of(model: nn.Module, recipe_values: Mapping[str, object]) -> MasterAdamW:
    values = dict(recipe_values) | {"weight_decay": 0.2, "grad_clip": 0.5}
    return MasterAdamW(model, TrainRecipe(**values))  # type: ignore[arg-type]


def set_gradients(model: nn.Module, seed: int, *, idle: str = "") -> None:
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        grad = torch.randn(parameter.shape, generator=generator)
        parameter.grad = None if name == idle else grad.to(parameter.dtype)


def test_float32_steps_equal_adamw_with_clipping(recipe_values: dict[str, object]) -> None:
    ours, theirs = two_layers(torch.float32), two_layers(torch.float32)
    optimizer = optimizer_of(ours, recipe_values)
    matrices = [p for p in theirs.parameters() if p.dim() > 1]
    biases = [p for p in theirs.parameters() if p.dim() == 1]
    recipe = TrainRecipe(**recipe_values)  # type: ignore[arg-type]
    plain = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.2}, {"params": biases, "weight_decay": 0.0}],
        lr=0.01,
        betas=(recipe.beta1, recipe.beta2),
    )
    for step in range(4):
        set_gradients(ours, step)
        set_gradients(theirs, step)
        norm = optimizer.step(0.01)
        assert norm == pytest.approx(float(nn.utils.clip_grad_norm_(theirs.parameters(), 0.5)))
        plain.step()
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, other)
        assert mine.grad is None


def test_float32_parameters_are_their_own_masters(recipe_values: dict[str, object]) -> None:
    model = two_layers(torch.float32)
    places = [p.data_ptr() for p in model.parameters()]
    masters = optimizer_of(model, recipe_values).state_dict()["masters"]
    assert [master.data_ptr() for master in masters] == places


def test_bfloat16_model_follows_float32_masters(recipe_values: dict[str, object]) -> None:
    model = two_layers(torch.bfloat16)
    optimizer = optimizer_of(model, recipe_values)
    first = [p.detach().clone() for p in model.parameters()]
    for step in range(3):
        set_gradients(model, step)
        optimizer.step(1e-5)  # far below what bfloat16 can hold of one step
    masters = optimizer.state_dict()["masters"]
    for parameter, master, before in zip(model.parameters(), masters, first, strict=True):
        assert master.dtype == torch.float32
        assert torch.equal(parameter, master.bfloat16())
        assert not torch.equal(master, before.float())


def test_micro_batches_of_a_bfloat16_model_add_up_in_float32(
    recipe_values: dict[str, object],
) -> None:
    model = two_layers(torch.bfloat16)
    model.get_parameter("0.bias").requires_grad_(False)
    optimizer = optimizer_of(model, recipe_values)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    expected = {name: torch.zeros(p.shape) for name, p in trained.items()}
    inputs = torch.randn(300, 4, 6, generator=torch.Generator().manual_seed(0)).abs().bfloat16()
    for micro in inputs:
        for (name, _), grad in zip(
            trained.items(),
            torch.autograd.grad(model(micro).sum(), list(trained.values())),
            strict=True,
        ):
            expected[name] += grad.float()
        model(micro).sum().backward()
        assert all(p.grad is None for p in trained.values())  # no second copy of any
    for name, total in expected.items():
        found = optimizer.gradient(name)
        assert found is not None
        assert torch.equal(found, total), name
    # In bfloat16 the bias's sum of fours would have stopped at 1,024: the next number is 1,032.
    assert expected["1.bias"].tolist() == [1200.0] * 3
    assert optimizer.gradient("0.bias") is None
    optimizer.step(0.01)
    assert optimizer.gradient("1.bias") is None


def test_float32_gradients_are_stepped_where_backward_has_put_them(
    recipe_values: dict[str, object],
) -> None:
    model = two_layers(torch.float32)
    optimizer = optimizer_of(model, recipe_values)
    model(torch.ones(4, 6)).sum().backward()
    weight = model.get_parameter("0.weight")
    assert weight.grad is not None
    place = weight.grad.data_ptr()
    found = optimizer.gradient("0.weight")
    assert found is not None
    assert found.data_ptr() == place
    assert weight.grad is None


def test_parameter_without_gradient_counts_as_one_with_zeros(
    recipe_values: dict[str, object],
) -> None:
    idle, zeros = two_layers(torch.float32), two_layers(torch.float32)
    optimizers = [optimizer_of(model, recipe_values) for model in (idle, zeros)]
    for step in range(3):
        set_gradients(idle, step, idle="1.weight")
        set_gradients(zeros, step)
        zeros.get_parameter("1.weight").grad = torch.zeros(3, 5)
        norms = [optimizer.step(0.01) for optimizer in optimizers]
        assert norms[0] == norms[1]
    for mine, other in zip(idle.parameters(), zeros.parameters(), strict=True):
        assert torch.equal(mine, other)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_saved_state_goes_on_to_the_same_bits(
    dtype: torch.dtype, recipe_values: dict[str, object], tmp_path: object
) -> None:
    whole = two_layers(dtype)
    optimizer = optimizer_of(whole, recipe_values)
    set_gradients(whole, 0)
    optimizer.step(0.01)
    torch.save(optimizer.state_dict(), f"{tmp_path}/state.pt")
    other = two_layers(dtype)
    resumed = optimizer_of(other, recipe_values)
    resumed.load_state_dict(torch.load(f"{tmp_path}/state.pt"))
    for model, adamw in ((whole, optimizer), (other, resumed)):
        set_gradients(model, 1)
        adamw.step(0.01)
    for mine, theirs in zip(whole.parameters(), other.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_matrices_decay_and_those_of_adapters_do_not(recipe_values: dict[str, object]) -> None:
    model = tiny_model().requires_grad_(False)
    name = "model.layers.0.self_attn.q_proj"
    add_lora(model, {name: LoraSpec(rank=2, scale=1.0)})
    gate = model.model.layers[0].block_sparse_moe.gate.weight.requires_grad_(True)
    before = {n: p.clone() for n, p in model.named_parameters() if p.requires_grad}
    optimizer_of(model, recipe_values).step(0.1)  # without any gradient
    assert torch.allclose(gate, before["model.layers.0.block_sparse_moe.gate.weight"] * 0.98)
    parameters = dict(model.named_parameters())
    for kind in ("lora_a", "lora_b"):
        assert torch.equal(parameters[f"{name}.{kind}"], before[f"{name}.{kind}"])
