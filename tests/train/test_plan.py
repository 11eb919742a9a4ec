"""The arithmetic of a plan against measurements, numbers worked by hand, and common sense."""

import dataclasses
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer
from torch import Tensor
from typer.testing import CliRunner

from mixtral.checkpoint import write_checkpoint
from mixtral.checkpoint.peft import write_adapter
from mixtral.checkpoint.quantize import quantize_checkpoint
from mixtral.cli import train_plan
from mixtral.config import ModelConfig
from mixtral.errors import ConfigError
from mixtral.model import TokenBatch, Transformer
from mixtral.model.lora import LoraSpec, add_lora
from mixtral.model_source import find_model
from mixtral.quantization import RECIPES
from mixtral.train.checkpointing import checkpoint_activations
from mixtral.train.flops import step_flops
from mixtral.train.losses import linear_cross_entropy
from mixtral.train.plan import PlanInput, activation_bytes, flops_per_token, make_plan
from tests.adapters_for_tests import random_adapter
from tests.models_for_tests import tiny_config, tiny_model

BIG = ModelConfig.preset("8x7b")
ADAPTER = 240_123_904  # rank 16 on attention and all experts of 8x7B


def saved_bytes(model: Transformer, batch: TokenBatch) -> int:
    """Bytes that autograd keeps of a forward pass and its loss, but for weights."""
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        # Kept alive, so that no two tensors have one address.
        if tensor.untyped_storage().data_ptr() not in own:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        hidden = model(batch)
        targets = torch.zeros(len(hidden), dtype=torch.int64)
        linear_cross_entropy(hidden, model.lm_head.weight, targets)
    head = model.lm_head.weight.shape
    sizes = (t.untyped_storage().nbytes() for t in kept.values() if t.shape != head)
    return sum(sizes)


def two_sequences(length: int) -> TokenBatch:
    return TokenBatch.from_sequences([list(range(3, 3 + length))] * 2)


@pytest.mark.parametrize(
    "geometry",
    [
        {},
        {"num_hidden_layers": 3, "hidden_size": 128, "num_experts_per_tok": 1},
        {"intermediate_size": 320, "num_attention_heads": 8, "num_key_value_heads": 1},
        {"num_local_experts": 0, "num_experts_per_tok": 0},
    ],
)
def test_activations_are_what_autograd_keeps(geometry: dict[str, object]) -> None:
    model = tiny_model(**geometry).bfloat16().requires_grad_(True).train()
    predicted = activation_bytes(model.config, num_tokens=64, dtype="bfloat16")
    assert predicted == pytest.approx(saved_bytes(model, two_sequences(32)), rel=0.15)


def test_checkpointed_activations_are_the_layers_inputs() -> None:
    model = tiny_model(num_hidden_layers=6).bfloat16().requires_grad_(True).train()
    whole, few = (
        activation_bytes(c, num_tokens=64, dtype="bfloat16", is_checkpointed=True)
        for c in (model.config, model.config.replace(num_hidden_layers=3))
    )
    checkpoint_activations(model)
    measured = saved_bytes(model, two_sequences(32))
    short = tiny_model(num_hidden_layers=3).bfloat16().requires_grad_(True).train()
    checkpoint_activations(short)
    assert whole - few == measured - saved_bytes(short, two_sequences(32))


def test_activations_under_an_adapter_are_what_autograd_keeps() -> None:
    model = tiny_model().bfloat16().train()
    linears = [n for n, _ in model.named_parameters() if "proj" in n or ".experts." in n]
    spec = LoraSpec(rank=1, scale=1.0)
    add_lora(model, {name.removesuffix(".weight"): spec for name in linears})
    predicted = activation_bytes(model.config, num_tokens=64, dtype="bfloat16", is_adapted=True)
    assert predicted == pytest.approx(saved_bytes(model, two_sequences(32)), rel=0.15)


@pytest.mark.parametrize("adapter", [0, 1])
def test_operations_are_those_that_the_trainer_counts(adapter: int) -> None:
    config = tiny_config()
    given = PlanInput(config=config, adapter_parameters=adapter, max_seq_len=32)
    counted = step_flops(
        config, two_sequences(32), num_targets=64, num_words=config.vocab_size, is_full=not adapter
    )
    assert flops_per_token(given) == pytest.approx(counted / 64, rel=1e-3)


def test_running_layers_again_costs_another_forward_pass() -> None:
    once, twice = (
        flops_per_token(PlanInput(config=BIG, activation_checkpointing=again, max_seq_len=1))
        for again in (False, True)
    )
    assert twice / once == pytest.approx(8 / 6, rel=0.01)


def test_full_training_of_8x7b_needs_16_bytes_per_weight_split_over_devices() -> None:
    memory = make_plan(PlanInput(config=BIG, num_devices=8)).memory
    states = memory["masters"] + memory["gradients"] + memory["moments"]
    assert states * 8 == pytest.approx(16 * 46_702_792_704, rel=1e-6)
    assert memory["weights"] == 0


def test_full_training_of_8x7b_does_not_fit_eight_80_gb_but_sixteen() -> None:
    given = {"config": BIG, "activation_checkpointing": True}
    eight = make_plan(PlanInput(num_devices=8, **given))  # type: ignore[arg-type]
    assert not eight.fits
    assert eight.advice == ["use 16 devices"]
    assert make_plan(PlanInput(num_devices=16, **given)).fits  # type: ignore[arg-type]


@pytest.mark.parametrize("quantization", ["int4", "int8"])
def test_adapter_of_8x7b_over_a_low_bit_base_fits_one_80_gb(quantization: str) -> None:
    given = PlanInput(
        config=BIG,
        adapter_parameters=ADAPTER,
        quantization=quantization,
        activation_checkpointing=True,
    )
    made = make_plan(given)
    assert made.fits
    base = {"int4": 25e9, "int8": 48e9}[quantization]  # packed bytes, docs/quantization.md
    assert made.memory["weights"] == pytest.approx(base, rel=0.01)


def test_advice_makes_an_adapter_over_bfloat16_fit_and_is_needed() -> None:
    given = PlanInput(config=BIG, adapter_parameters=ADAPTER)
    made = make_plan(given)
    assert made.advice == ["set activation_checkpointing = true", 'set quantization = "int4"']


def test_advice_names_what_is_left_when_nothing_helps() -> None:
    made = make_plan(PlanInput(config=BIG, device_memory_gb=4.0))
    assert made.advice[-1] == "even so it does not fit: train an adapter (LoRA)"


def test_splitting_experts_shrinks_what_is_gathered_and_nothing_else() -> None:
    plain, split = (
        make_plan(PlanInput(config=BIG, num_devices=8, expert_parallel=ep)).memory for ep in (1, 8)
    )
    assert split.pop("gathered") < plain.pop("gathered") / 4
    assert split == plain


def test_more_devices_never_take_more_memory_each() -> None:
    totals = [make_plan(PlanInput(config=BIG, num_devices=2**k)).total_bytes for k in range(1, 8)]
    assert all(a > b for a, b in itertools.pairwise(totals))


def test_time_is_operations_over_what_the_devices_reach() -> None:
    given = PlanInput(config=BIG, num_devices=4, tokens_per_step=1000, tflops=100, mfu=0.5)
    made = make_plan(given)
    assert made.seconds_per_step == pytest.approx(flops_per_token(given) * 1000 / 200e12)
    assert made.total_seconds == pytest.approx(1000 * made.seconds_per_step)


def test_nano_fits_a_laptop() -> None:
    nano = ModelConfig.preset("nano")
    given = PlanInput(config=nano, dtype="float32", device_memory_gb=4, reserve_gb=0.4, tflops=0.1)
    assert make_plan(given).fits


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mfu": 1.5}, "mfu is 1.5"),
        ({"quantization": "int4"}, "there is no adapter"),
        ({"quantization": "int5", "adapter_parameters": 1}, "quantization is 'int5'"),
        ({"num_devices": 4, "expert_parallel": 3}, "it must divide the 4 devices"),
        ({"num_devices": 0}, "num_devices is 0"),
        ({"tflops": 0}, "tflops is 0"),
        ({"reference_passes": -1}, "reference_passes is -1; it must be from 0"),
        ({"dtype": "float16"}, "dtype is 'float16'; it must be bfloat16 or float32"),
        ({"tokens_per_step": 10**400}, "must be a whole number from 1 to"),
    ],
)
def test_values_without_sense_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        PlanInput(config=BIG, **changes)


def run(*arguments: str) -> str:
    app = typer.Typer()
    app.command()(train_plan.plan)
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_command_says_whether_it_fits_and_what_to_change() -> None:
    out = run("--model", "8x7b", "--lora-rank", "16", "--quantization", "int4")
    assert "it does not fit" in out
    assert "to make it fit: set activation_checkpointing = true" in out


def test_command_reads_a_recipe_and_lets_options_change_it(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(
        'output = "o"\ntrain_tokens = "t"\nvalid_tokens = "v"\nmodel = "8x7b"\nmax_steps = 7\n'
        "tokens_per_step = 4096\nmax_seq_len = 512\nactivation_checkpointing = true\n"
    )
    plain = json.loads(run(str(recipe), "--json"))
    assert plain["assumed"]["num_steps"] == 7
    assert plain["assumed"]["micro_batch_tokens"] == 4096
    assert plain["assumed"]["activation_checkpointing"] is True
    assert not plain["fits"]
    options = ("--gpus", "32", "--no-checkpointing", "--micro-batch-tokens", "512")
    changed = json.loads(run(str(recipe), *options, "--json"))
    assert changed["assumed"]["activation_checkpointing"] is False
    assert changed["assumed"]["num_devices"] == 32
    assert changed["total_bytes"] < plain["total_bytes"]


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (("--gpus", "-1"), "--gpus is -1; it must be at least 0"),
        (("--steps", "0"), "--steps is 0"),
        (("--gpu-memory-gb", "0"), "--gpu-memory-gb is 0"),
    ],
)
def test_wrong_values_are_named_by_their_options(option: tuple[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        run("--model", "8x7b", *option)


def test_micro_batches_of_0_are_whole_steps_of_each_device() -> None:
    options = ("--model", "nano", "--gpus", "4", "--micro-batch-tokens", "0")
    assert json.loads(run(*options, "--json"))["assumed"]["micro_batch_tokens"] == 65536 // 4


def test_packed_checkpoint_is_planned_as_it_is(tmp_path: Path) -> None:
    model = tiny_model(hidden_size=128)
    write_checkpoint(tmp_path / "plain", model.config, model.named_parameters(), layout="hf")
    quantize_checkpoint(tmp_path / "plain", tmp_path / "packed", RECIPES["int4"])
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('output = "o"\ntrain_records = "t"\ninit_from = "packed"\n[lora]\nrank = 4\n')
    assert json.loads(run(str(recipe), "--json"))["assumed"]["quantization"] == "int4"


def test_command_measures_this_cpu_where_no_gpu_is_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(train_plan, "available_memory_bytes", lambda: 8_000_000_000)
    assumed = json.loads(run("--model", "nano", "--gpus", "0", "--json"))["assumed"]
    assert assumed["device_memory_gb"] == 8
    assert 0 < assumed["tflops"] < 100
    assert assumed["is_cpu"] is True


def test_command_needs_a_model() -> None:
    with pytest.raises(ConfigError, match="neither a recipe nor --model"):
        run("--json")


def test_adapter_that_is_trained_on_counts_or_has_to_be_described(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(
        'output = "o"\ntrain_records = "t"\ninit_from = "nano"\ninit_adapter = "gone"\n'
    )
    with pytest.raises(ConfigError, match=r"gone, which is not here yet; say .* --lora-rank"):
        run(str(recipe))
    options = ("--lora-rank", "4", "--lora-targets", "attention")
    described = json.loads(run(str(recipe), *options, "--json"))["assumed"]
    config = find_model("nano").config
    adapter = random_adapter(config, "attention", rank=lambda name: 4)
    write_adapter(tmp_path / "gone", adapter, config)
    assert json.loads(run(str(recipe), "--json"))["assumed"] == described


def test_start_that_is_not_here_is_named(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(
        'output = "o"\ntrain_tokens = "t"\nvalid_tokens = "v"\ninit_from = "../gone"\n'
    )
    with pytest.raises(ConfigError, match=r"gone, which is not here yet; say .* --model"):
        run(str(recipe))


@pytest.mark.parametrize("size", ["8x7B", "8x22B"])
@pytest.mark.parametrize("kind", ["", "-Instruct"])
def test_published_models_need_no_download(tmp_path: Path, size: str, kind: str) -> None:
    recipe = tmp_path / "recipe.toml"
    name = f"mistralai/Mixtral-{size}{kind}-v0.1"
    recipe.write_text(f'output = "o"\ntrain_records = "t"\ninit_from = "{name}"\n[lora]\n')
    preset = ModelConfig.preset(size.lower())
    for arguments in ((str(recipe),), ("--model", name)):
        found = json.loads(run(*arguments, "--json"))["assumed"]["config"]
        assert found["num_hidden_layers"] == preset.num_hidden_layers
        assert found["hidden_size"] == preset.hidden_size


def test_epochs_over_a_token_file_are_counted(tmp_path: Path) -> None:
    np.save(tmp_path / "t.npy", np.full(101, 7, np.uint16))
    recipe = tmp_path / "recipe.toml"
    start = 'output = "o"\nvalid_tokens = "v"\nmax_seq_len = 8\nnum_epochs = 2.5\n'
    recipe.write_text(start + 'train_tokens = "t.npy"\ntokens_per_step = 10\n')
    assert json.loads(run(str(recipe), "--json"))["assumed"]["num_steps"] == 25
    fewer = run(str(recipe), "--tokens-per-step", "20", "--json")
    assert json.loads(fewer)["assumed"]["num_steps"] == 13
    assert json.loads(run(str(recipe), "--steps", "3", "--json"))["assumed"]["num_steps"] == 3


@pytest.mark.parametrize("adapter", [0, 1000])
def test_state_that_is_being_written_takes_memory_of_a_cpu_alone(adapter: int) -> None:
    given = PlanInput(config=ModelConfig.preset("nano"), adapter_parameters=adapter)
    cpu = make_plan(dataclasses.replace(given, is_cpu=True)).memory
    assert cpu["saved copy"] == cpu["masters"] + cpu["moments"]
    assert make_plan(given).memory == cpu | {"saved copy": 0}
