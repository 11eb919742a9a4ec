"""LoRA on a model: what it computes, what learns, and that it comes off without a trace."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from mixtral.checkpoint import packed_config, quantized_tensors
from mixtral.errors import CheckpointError, ConfigError
from mixtral.model import TokenBatch, Transformer
from mixtral.model.adapter import Adapter, LoraMatrices, adaptable_linears
from mixtral.model.lora import (
    LoraLinear,
    LoraSpec,
    add_adapter,
    add_lora,
    lora_adapter,
    lora_off,
    remove_lora,
)
from mixtral.model.low_bit_linear import LowBitLinear
from mixtral.model.low_bit_transformer import low_bit_transformer
from mixtral.model.moe import SparseMoe, router_logits, set_router_jitter
from mixtral.model.router_trace import RouterRecorder
from mixtral.quantization import RECIPES
from tests.adapters_for_tests import TARGETS, logits_of, merged, random_adapter, relative_error
from tests.models_for_tests import tiny_config, tiny_model

DENSE = {"num_local_experts": 0, "num_experts_per_tok": 0}
EXPERT = "model.layers.0.block_sparse_moe.experts.3."


def specs_of(model: Transformer, target: str = "everything") -> dict[str, LoraSpec]:
    names = filter(TARGETS[target], adaptable_linears(model.config))
    return {name: LoraSpec(rank=3, scale=2.0) for name in names}


@pytest.mark.parametrize("changes", [{}, DENSE])
def test_adaptable_linears_are_those_of_the_model_but_the_head(changes: dict[str, int]) -> None:
    model = tiny_model(**changes)
    found = {
        name: tuple(module.weight.shape)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and name != "lm_head"
    }
    listed = adaptable_linears(model.config)
    assert found == listed
    assert Adapter(matrices={}).max_rank == 0


def test_fresh_adapter_leaves_the_logits_as_they_are() -> None:
    model = tiny_model()
    before = logits_of(model)
    add_lora(model, specs_of(model))
    assert relative_error(logits_of(model), before) < 1e-5  # another order of sums
    adapter = lora_adapter(model)
    assert adapter.max_rank == 3
    assert all(matrices.a.any() and not matrices.b.any() for matrices in adapter.matrices.values())


@pytest.mark.parametrize("target", TARGETS)
def test_unmerged_logits_are_the_merged_ones(target: str) -> None:
    model = tiny_model()
    before = logits_of(model)
    adapter = random_adapter(model.config, target)
    expected = logits_of(merged(model, adapter))
    add_adapter(model, adapter)
    assert relative_error(logits_of(model), expected) < 1e-5
    assert relative_error(before, expected) > 1e-3


def test_unmerged_logits_are_the_merged_ones_in_a_dense_model() -> None:
    model = tiny_model(**DENSE)
    adapter = random_adapter(model.config)
    expected = logits_of(merged(model, adapter))
    add_adapter(model, adapter)
    assert relative_error(logits_of(model), expected) < 1e-5


def test_stacked_experts_do_not_lose_their_adapter() -> None:
    model = tiny_model()
    adapter = random_adapter(model.config, "expert 3 of layer 0")
    expected = logits_of(merged(model, adapter))
    model.stack_experts()
    add_adapter(model, adapter)
    assert relative_error(logits_of(model), expected) < 1e-5


def test_adapter_off_or_removed_is_the_base_to_the_bit() -> None:
    model = tiny_model()
    modules = dict(model.named_modules())
    before = logits_of(model)
    add_adapter(model, random_adapter(model.config))
    after = logits_of(model)
    with lora_off(model):
        off = logits_of(model)
    assert torch.equal(off, before)
    assert torch.equal(logits_of(model), after)
    remove_lora(model)
    assert torch.equal(logits_of(model), before)
    assert dict(model.named_modules()) == modules


def test_gradients_reach_all_of_a_and_b_and_nothing_else() -> None:
    model = tiny_model().requires_grad_(True)
    add_adapter(model, random_adapter(model.config))
    logits_of(model).square().mean().backward()
    learned = {name for name, p in model.named_parameters() if p.grad is not None}
    assert learned == {n for n, p in model.named_parameters() if p.requires_grad}
    assert learned == {
        f"{name}.{matrix}"
        for name in adaptable_linears(model.config)
        for matrix in ("lora_a", "lora_b")
    }
    assert all(p.grad.any() for p in model.parameters() if p.grad is not None)


def test_gradients_are_those_of_the_merged_weights() -> None:
    model = tiny_model()
    adapter = random_adapter(model.config)
    whole = merged(model, adapter).requires_grad_(True)
    logits_of(whole).square().mean().backward()
    add_adapter(model, adapter)
    logits_of(model).square().mean().backward()
    for name, matrices in adapter.matrices.items():
        weight_grad = whole.get_parameter(name + ".weight").grad
        assert weight_grad is not None
        expected_a = matrices.scale * matrices.b.T @ weight_grad
        expected_b = matrices.scale * weight_grad @ matrices.a.T
        for matrix, expected in (("lora_a", expected_a), ("lora_b", expected_b)):
            grad = model.get_parameter(f"{name}.{matrix}").grad
            assert grad is not None
            assert relative_error(grad, expected) < 1e-4, f"{name}.{matrix}"


def test_each_chosen_expert_runs_once_and_idle_ones_never() -> None:
    model = tiny_model(num_local_experts=8)
    add_adapter(model, random_adapter(model.config, "experts"))
    runs: list[int] = []
    experts = model.model.layers[0].block_sparse_moe.experts
    for number, expert in enumerate(experts):
        expert.register_forward_hook(lambda *_, number=number: runs.append(number))
    recorder = RouterRecorder()
    model(TokenBatch.from_sequences([[5, 6]]), recorder=recorder)
    chosen = recorder.expert_ids[0].unique().tolist()
    assert runs == chosen
    assert len(chosen) <= 4


def test_low_rank_matrices_stay_float32_over_a_bfloat16_base() -> None:
    model = tiny_model().to(torch.bfloat16)
    adapter = random_adapter(model.config)
    expected = logits_of(merged(model, adapter))
    add_adapter(model, adapter)
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    recorder = RouterRecorder()
    hidden = model(TokenBatch.from_sequences([[1, 2, 3]]), recorder=recorder)
    assert hidden.dtype == torch.bfloat16
    assert recorder.router_logits[0].dtype == torch.float32
    actual = logits_of(model)
    assert (actual - expected).norm() / expected.norm() < 5e-2


def test_any_module_called_like_a_linear_can_be_a_base() -> None:
    class Packed(nn.Module):
        def __init__(self, weight: Tensor) -> None:
            super().__init__()
            self.out_features, self.in_features = weight.shape
            self.register_buffer("packed", weight)

        def forward(self, x: Tensor) -> Tensor:
            return x @ self.packed.T

    model = tiny_model()
    adapter = random_adapter(model.config, "experts")
    expected = logits_of(merged(model, adapter))
    for name in adapter.matrices:
        path, _, leaf = name.rpartition(".")
        packed = Packed(model.get_parameter(name + ".weight").detach())
        setattr(model.get_submodule(path), leaf, packed)
    add_adapter(model, adapter)
    assert relative_error(logits_of(model), expected) < 1e-5


def test_packed_base_takes_an_adapter_and_keeps_its_bytes() -> None:
    plain = tiny_model(hidden_size=128, intermediate_size=128)
    config = packed_config(plain.config)
    packed = quantized_tensors(plain.named_parameters(), plain.config, RECIPES["int4"])
    model = low_bit_transformer(config, packed, torch.float32)
    before = {name: b.clone() for name, b in model.named_buffers() if name.endswith("packed")}
    for name, module in model.named_modules():
        if isinstance(module, LowBitLinear):
            plain.get_parameter(name + ".weight").data = module.dequantize()
    plain.model.embed_tokens.weight.data = model.model.embed_tokens.weight.float()
    plain.lm_head.weight.data = model.lm_head.weight
    adapter = random_adapter(config)
    add_adapter(model, adapter)
    logits = logits_of(model)
    assert relative_error(logits, logits_of(merged(plain, adapter))) < 1e-4
    logits.square().mean().backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    remove_lora(model)
    after = dict(model.named_buffers())
    assert before
    assert all(torch.equal(after[name], packed) for name, packed in before.items())


def test_trained_adapter_comes_off_as_it_was_put_on() -> None:
    model = tiny_model()
    adapter = random_adapter(model.config)
    add_adapter(model, adapter)
    copy = lora_adapter(model, base_model="nano")
    assert copy.base_model == "nano"
    assert copy.num_parameters == adapter.num_parameters
    assert list(copy.matrices) == list(adapter.matrices)
    for name, matrices in adapter.matrices.items():
        assert torch.equal(copy.matrices[name].a, matrices.a)
        assert torch.equal(copy.matrices[name].b, matrices.b)
        assert copy.matrices[name].scale == matrices.scale
    with torch.no_grad():
        model.get_parameter(EXPERT + "w1.lora_a").zero_()
    assert copy.matrices[EXPERT + "w1"].a.any()


def test_same_seed_gives_the_same_start_and_another_seed_another() -> None:
    starts = []
    for seed in (1, 1, 2):
        model = tiny_model()
        add_lora(model, specs_of(model), seed=seed)
        starts.append(model.get_parameter(EXPERT + "w2.lora_a").detach())
    assert torch.equal(starts[0], starts[1])
    assert not torch.equal(starts[0], starts[2])
    bound = model.config.intermediate_size**-0.5
    assert bound * 0.9 < float(starts[0].abs().max()) <= bound


def test_dropout_drops_inputs_of_the_adapter_while_training_only() -> None:
    base = nn.Linear(1000, 1, bias=False)
    nn.init.zeros_(base.weight)
    linear = LoraLinear(base, LoraSpec(rank=1, scale=1.0), dropout=0.25)
    nn.init.ones_(linear.lora_a)
    nn.init.ones_(linear.lora_b)
    x = torch.ones(1, 1000)
    torch.manual_seed(0)
    kept = linear.train()(x).item() * 0.75
    assert kept == pytest.approx(round(kept), abs=1e-2)
    assert 650 < kept < 850
    assert linear.eval()(x).item() == 1000


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("model.layers.7.self_attn.q_proj", "the model has no such module"),
        ("model.embed_tokens", "it is a Embedding, not a linear"),
        (EXPERT + "w1", "is adapted already"),
    ],
)
def test_what_cannot_be_adapted_is_named(name: str, message: str) -> None:
    model = tiny_model()
    spec = LoraSpec(rank=1, scale=1.0)
    add_lora(model, {EXPERT + "w1": spec})
    with pytest.raises(ConfigError, match=message):
        add_lora(model, {name: spec})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: {"model.layers.9.self_attn.q_proj": m}, "which this model does not have"),
        (lambda m: {EXPERT + "w2": m}, r"its weight is \[64, 96\]"),
        (lambda m: {EXPERT + "w1": wrong_pair(m)}, r"B \[96, 2\]"),
        (lambda m: {EXPERT + "w1": not_finite(m)}, "not finite"),
    ],
)
def test_adapter_that_does_not_fit_is_refused(
    change: Callable[[LoraMatrices], dict[str, LoraMatrices]], message: str
) -> None:
    config = tiny_config()
    good = random_adapter(config).matrices[EXPERT + "w1"]
    Adapter(matrices={EXPERT + "w1": good}).check(config)
    with pytest.raises(CheckpointError, match=message):
        Adapter(matrices=change(good)).check(config)


def wrong_pair(matrices: LoraMatrices) -> LoraMatrices:
    return LoraMatrices(a=matrices.a, b=matrices.b[:, :2], scale=1.0)


def not_finite(matrices: LoraMatrices) -> LoraMatrices:
    return LoraMatrices(a=matrices.a, b=matrices.b.clone().fill_(torch.nan), scale=1.0)


def test_router_jitter_acts_in_training_only_and_follows_its_seed() -> None:
    model = tiny_model()
    quiet = logits_of(model)
    set_router_jitter(model, 0.3, seed=5)
    assert torch.equal(logits_of(model), quiet)
    model.train()
    noisy = logits_of(model)
    assert not torch.equal(noisy, quiet)
    torch.manual_seed(123)  # As when a layer is run again in the backward pass.
    assert torch.equal(logits_of(model), noisy)
    set_router_jitter(model, 0.3, seed=6)
    assert not torch.equal(logits_of(model), noisy)
    seeds = {m.jitter_seed for m in model.modules() if isinstance(m, SparseMoe)}
    set_router_jitter(model, 0.3, seed=7)
    seeds |= {m.jitter_seed for m in model.modules() if isinstance(m, SparseMoe)}
    assert len(seeds) == 4


def test_router_jitter_stays_within_its_bounds() -> None:
    gate = nn.Linear(64, 64, bias=False)
    with torch.no_grad():
        gate.weight.copy_(torch.eye(64))
    noise = router_logits(gate, torch.ones(50, 64), jitter=0.1, seed=3)
    noise = noise.detach()
    assert 0.9 <= float(noise.min()) < 0.902
    assert 1.098 < float(noise.max()) <= 1.1
    assert float(noise.mean()) == pytest.approx(1, abs=5e-3)
