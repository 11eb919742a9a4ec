"""Training on a device: the losses of float32 on the CPU, for all that may be learned."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mixtral.checkpoint import open_checkpoint, write_checkpoint
from mixtral.train import Trainer, TrainRecipe
from mixtral.train.dpo_settings import DpoSettings
from mixtral.train.lora_settings import LoraSettings
from tests.models_for_tests import tiny_model

LORA = LoraSettings(rank=4, targets=("attention", "router", "experts"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model to start from, texts that repeat themselves, conversations and preferences."""
    folder = tmp_path_factory.mktemp("data")
    model = tiny_model(vocab_size=32768)
    write_checkpoint(folder / "start", model.config, model.named_parameters(), layout="hf")
    tokens = np.tile(np.random.default_rng(0).integers(3, 500, 60), 60).astype(np.uint16)
    tokens[::60] = 1
    np.save(folder / "tokens.npy", tokens)
    asked = [[{"role": "user", "content": f"Which colour has thing {i}?"}] for i in range(32)]
    talks = [
        {"messages": [*messages, {"role": "assistant", "content": "red"}]} for messages in asked
    ]
    pairs = [{"messages": messages, "chosen": "red", "rejected": "blue"} for messages in asked]
    for name, records in (("talks", talks), ("pairs", pairs)):
        lines = (json.dumps(record) + "\n" for record in records)
        (folder / f"{name}.jsonl").write_text("".join(lines))
    return folder


@pytest.fixture
def values(data: Path, tmp_path: Path) -> dict[str, Any]:
    return {
        "output": str(tmp_path / "run"),
        "init_from": str(data / "start"),
        "dtype": "float32",
        "max_steps": 6,
        "tokens_per_step": 128,
        "max_seq_len": 64,
        "learning_rate": 0.003,
        "warmup_steps": 2,
        "checkpoint_every": 3,
        "tensorboard": False,
    }


def of_stage(stage: str, data: Path) -> dict[str, Any]:
    tokens = str(data / "tokens.npy")
    return {
        "pretrain": {"train_tokens": tokens, "valid_tokens": tokens},
        "sft": {"train_records": str(data / "talks.jsonl")},
        "dpo": {
            "train_records": str(data / "pairs.jsonl"),
            "dpo": DpoSettings(pairs_per_step=8),
        },
    }[stage]


def run(values: dict[str, Any], stage: Any, **changes: Any) -> tuple[Trainer, list[float]]:
    trainer = Trainer(TrainRecipe(**(values | changes)), stage)
    return trainer, [metrics.loss for metrics in trainer.run()]


@pytest.mark.parametrize("changes", [{}, {"activation_checkpointing": True}, {"lora": LORA}])
@pytest.mark.parametrize("stage", ["pretrain", "sft", "dpo"])
def test_losses_are_those_of_the_cpu(
    values: dict[str, Any], data: Path, tmp_path: Path, device: str, stage: str, changes: Any
) -> None:
    values |= of_stage(stage, data) | changes
    _, expected = run(values, stage, device="cpu", output=str(tmp_path / "expected"))
    trainer, losses = run(values, stage, device=device)
    assert trainer.model.device.type == device
    assert losses == pytest.approx(expected, rel=1e-3)
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("quantization", ["int8", "int4"])
def test_adapter_over_a_packed_base_learns_as_on_the_cpu(
    values: dict[str, Any], data: Path, tmp_path: Path, device: str, quantization: str
) -> None:
    values |= of_stage("sft", data) | {"lora": LORA, "quantization": quantization}
    _, expected = run(values, "sft", device="cpu", output=str(tmp_path / "expected"))
    _, losses = run(values, "sft", device=device)
    assert losses == pytest.approx(expected, rel=1e-2)


def test_bfloat16_learns_and_its_result_is_a_model(
    values: dict[str, Any], data: Path, device: str
) -> None:
    values |= of_stage("sft", data) | {"dtype": "bfloat16", "max_steps": 12}
    trainer, losses = run(values, "sft", device=device)
    assert losses[-1] < 0.9 * losses[0]
    assert all(tensor.isfinite().all() for _, tensor in open_checkpoint(trainer.result).tensors())


def test_stopped_run_goes_on(
    values: dict[str, Any], data: Path, tmp_path: Path, device: str
) -> None:
    values |= of_stage("sft", data) | {"device": device}
    _, whole = run(values, "sft", output=str(tmp_path / "whole"))
    first = []
    for metrics in Trainer(TrainRecipe(**values), "sft").run():
        first.append(metrics.loss)
        if len(first) == 5:
            break
    _, second = run(values, "sft")
    assert first[:3] + second == pytest.approx(whole, rel=1e-3 if device == "cuda" else 0)
