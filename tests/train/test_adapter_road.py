"""The whole road of an adapter: train it, serve it unmerged, merge it, quantise it, serve that."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mixtral import LLM, SamplingParams
from mixtral.checkpoint.merge import merge_adapter
from mixtral.checkpoint.quantize import quantize_checkpoint
from mixtral.model import TokenBatch
from mixtral.quantization import find_recipe
from mixtral.train import Trainer, TrainRecipe
from mixtral.train.lora_settings import LoraSettings

PROMPT = "Which colour has the grass?"
GREEDY = SamplingParams(max_tokens=8, temperature=0.0, ignore_eos=True)


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """Median over tokens; a token near a tie of experts may take the other one."""
    return float(((actual - expected).norm(dim=-1) / expected.norm(dim=-1)).median())


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

    quantize_checkpoint(tmp_path / "merged", tmp_path / "packed", find_recipe("int8"))
    packed = LLM(str(tmp_path / "packed"), max_model_len=128)
    assert relative_error(packed.logits(ids), as_trained) < 0.05

    quantize_checkpoint(start, tmp_path / "base", find_recipe("int8"))
    beside = LLM(str(tmp_path / "base"), adapters={"mine": adapter}, max_model_len=128)
    assert relative_error(beside.logits(ids, adapter="mine"), as_trained) < 0.05
