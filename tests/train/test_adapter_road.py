"""The whole road of an adapter: train it, serve it unmerged, merge it, quantise it, serve that."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mixtral import LLM, SamplingParams
from mixtral.checkpoint import write_checkpoint
from mixtral.checkpoint.base_weights import base_digest
from mixtral.checkpoint.merge import merge_adapter
from mixtral.checkpoint.peft import read_adapter
from mixtral.checkpoint.quantize import quantize_checkpoint
from mixtral.model import TokenBatch
from mixtral.quantization import find_recipe
from mixtral.train import Trainer, TrainRecipe
from mixtral.train.lora_settings import LoraSettings
from tests.models_for_tests import tiny_model

PROMPT = "Which colour has the grass?"
GREEDY = SamplingParams(max_tokens=8, temperature=0.0, ignore_eos=True)


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """Median over tokens; a token near a tie of experts may take the other one."""
    return float(((actual - expected).norm(dim=-1) / expected.norm(dim=-1)).median())


def pack(source: Path, folder: Path) -> Path:
    """Write a checkpoint in the low-bit format that the new folder is called by."""
    quantize_checkpoint(source, folder, find_recipe(folder.name))
    return folder


@pytest.fixture
def trained(values: dict[str, Any], conversations: Path) -> Trainer:
    values |= {
        "train_records": str(conversations),
        "max_steps": 12,
        "lora": LoraSettings(rank=4, targets=("attention", "router", "experts")),
    }
    trainer = Trainer(TrainRecipe(**values), "sft")
    list(trainer.run())
    return trainer


def test_logits_agree_at_each_step_of_the_road(
    trained: Trainer, start: Path, tmp_path: Path
) -> None:
    adapter = trained.result
    served = LLM(str(start), dtype="float32", adapters={"mine": adapter}, max_model_len=128)
    ids = served.encode_chat([{"role": "user", "content": PROMPT}])
    model = trained.model.eval()
    with torch.no_grad():
        as_trained = model.logits(model(TokenBatch.from_sequences([ids])))
    unmerged = served.logits(ids, adapter="mine")
    assert relative_error(unmerged, as_trained) < 1e-5
    assert relative_error(served.logits(ids), as_trained) > 1e-2  # the adapter does something

    merge_adapter(start, adapter, tmp_path / "merged")
    merged = LLM(str(tmp_path / "merged"), dtype="float32", max_model_len=128)
    assert relative_error(merged.logits(ids), as_trained) < 1e-5
    answers = [
        llm.generate([ids], GREEDY, **extra)[0].token_ids
        for llm, extra in ((served, {"adapter": "mine"}), (merged, {}))
    ]
    assert answers[0] == answers[1]

    for name, tolerance in (("int8", 0.05), ("int4", 0.3)):
        packed = LLM(str(pack(tmp_path / "merged", tmp_path / "packed" / name)), max_model_len=128)
        assert relative_error(packed.logits(ids), as_trained) < tolerance
        base = pack(start, tmp_path / "base" / name)
        beside = LLM(str(base), adapters={"mine": adapter}, max_model_len=128)
        assert relative_error(beside.logits(ids, adapter="mine"), as_trained) < tolerance


def write_tiny(folder: Path, seed: int) -> Path:
    model = tiny_model(seed, vocab_size=32768)
    write_checkpoint(folder, model.config, model.named_parameters(), layout="hf")
    return folder


def train(**values: Any) -> Trainer:
    trainer = Trainer(TrainRecipe(**values), "sft")
    list(trainer.run())
    return trainer


def serve(model: Path, adapter: Path) -> None:
    LLM(str(model), device="cpu", adapters={"mine": adapter}, max_model_len=64)


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the lines about adapters and their bases."""
    lines = [record.getMessage() for record in caplog.records]
    return [line for line in lines if "was trained on" in line]


def test_trained_adapter_is_silent_on_copies_of_its_base_and_warns_once_on_another_model(
    values: dict[str, Any],
    conversations: Path,
    start: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    values |= {"train_records": str(conversations), "max_steps": 1}
    adapter = train(**values, lora=LoraSettings(rank=2, targets=("attention", "router"))).result
    for base in (start, tmp_path / "int8", tmp_path / "int4"):
        if base != start:
            quantize_checkpoint(start, base, find_recipe(base.name))
        serve(base, adapter)
    assert not warnings_of(caplog)

    other = write_tiny(tmp_path / "other", seed=1)
    serve(other, adapter)
    (line,) = warnings_of(caplog)
    assert all(str(named) in line for named in (adapter, start, other))
    assert "\n" not in line


def test_training_that_goes_on_from_an_adapter_of_other_weights_warns_once_and_takes_the_new_base(
    values: dict[str, Any],
    conversations: Path,
    start: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    values |= {"train_records": str(conversations), "max_steps": 1}
    lora = LoraSettings(rank=2, targets=("attention",))
    first = train(**values, lora=lora).result
    values |= {"init_adapter": str(first)}
    train(**(values | {"output": str(tmp_path / "same")}))
    assert not warnings_of(caplog)

    other = write_tiny(tmp_path / "other", seed=1)
    changed = train(**(values | {"output": str(tmp_path / "changed"), "init_from": str(other)}))
    (line,) = warnings_of(caplog)
    assert all(str(named) in line for named in (first, start, other))
    assert read_adapter(changed.result, changed.config).base_digest == base_digest(other)
