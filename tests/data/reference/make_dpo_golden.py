"""Compute dpo_golden.json with TRL's DPOTrainer, and compare or write it.

    python tests/data/reference/make_dpo_golden.py            compare; exit status 1 on a difference
    python tests/data/reference/make_dpo_golden.py --write    write it

Policy and reference are two random Mixtrals of transformers. Each pair is a batch of its own, so
that the numbers are those of one pair: its log-probs, and TRL's loss for each kind of loss. The
package under test is not imported here.
"""

import json
import math
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn

FILE = Path(__file__).with_name("dpo_golden.json")
BETA = 0.3
LOSSES = {"dpo": "sigmoid", "ipo": "ipo", "dpo_per_token": "sigmoid_norm", "sft": "sft"}
VOCAB_SIZE = 512
PAIRS = [
    {"prompt_ids": [1, 20, 21], "chosen_ids": [30, 31, 2], "rejected_ids": [40, 2]},
    {"prompt_ids": [1, 22], "chosen_ids": [32, 2], "rejected_ids": [41, 42, 43, 44, 2]},
    {"prompt_ids": [1, 23, 24, 25], "chosen_ids": [33, 34, 35, 2], "rejected_ids": [33, 34, 45, 2]},
]


def trl_trainer(policy: nn.Module, reference: nn.Module, *, loss: str, beta: float) -> Any:
    """Make a DPOTrainer whose loss has no other terms (no router loss, no dropout)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from datasets import Dataset
        from tokenizers import Tokenizer, models
        from transformers import PreTrainedTokenizerFast
        from trl import DPOConfig, DPOTrainer

        words = {"<pad>": 0, "<s>": 1, "</s>": 2, "a": 3}
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="a")),
            pad_token="<pad>",
            eos_token="</s>",
        )
        unused = Dataset.from_list([{"prompt": "a", "chosen": "a", "rejected": "a a"}])
        with tempfile.TemporaryDirectory() as folder:
            settings = DPOConfig(
                output_dir=folder,
                report_to="none",
                use_cpu=True,
                bf16=False,
                beta=beta,
                loss_type=[loss],
                router_aux_loss_coef=0.0,
                gradient_checkpointing=False,
            )
            return DPOTrainer(
                policy, reference, settings, train_dataset=unused, processing_class=tokenizer
            )


def trl_loss(trainer: Any, pairs: list[dict[str, list[int]]]) -> tuple[Any, dict[str, float]]:
    """Return TRL's loss of a batch with its graph, and its metrics."""
    trainer._metrics["train"].clear()
    trainer.model.train()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loss = trainer.compute_loss(trainer.model, trainer.data_collator(pairs))
    return loss, {name: values[0] for name, values in trainer._metrics["train"].items()}


def random_model(seed: int) -> nn.Module:
    """Return a Mixtral of transformers with clearly different logits."""
    from transformers import MixtralConfig, MixtralForCausalLM

    torch.manual_seed(seed)
    return MixtralForCausalLM(
        MixtralConfig(
            vocab_size=VOCAB_SIZE,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            num_local_experts=4,
            num_experts_per_tok=2,
            initializer_range=0.15,
        )
    )


def exchanged(pair: dict[str, list[int]]) -> dict[str, list[int]]:
    """Return a pair the wrong way round."""
    return {
        "prompt_ids": pair["prompt_ids"],
        "chosen_ids": pair["rejected_ids"],
        "rejected_ids": pair["chosen_ids"],
    }


def golden() -> dict[str, Any]:
    """Score every pair with both models and give it to each of TRL's losses."""
    policy, reference = random_model(0), random_model(1)
    trainers = {
        name: trl_trainer(policy, reference, loss=loss, beta=BETA) for name, loss in LOSSES.items()
    }
    cases = []
    for pair in PAIRS:
        results = {name: trl_loss(trainer, [pair]) for name, trainer in trainers.items()}
        metrics = results["dpo"][1]
        losses = {name: float(loss.detach()) for name, (loss, _) in results.items()}
        losses["dpo_exchanged"] = float(trl_loss(trainers["dpo"], [exchanged(pair)])[0].detach())
        scores = {}
        for answer in ("chosen", "rejected"):
            scores[f"policy_{answer}"] = metrics[f"logps/{answer}"]
            scores[f"reference_{answer}"] = (
                metrics[f"logps/{answer}"] - metrics[f"rewards/{answer}"] / BETA
            )
            scores[f"{answer}_lengths"] = len(pair[f"{answer}_ids"])
        metrics = {name: value for name, value in metrics.items() if name.startswith("rewards/")}
        cases.append({"log_probs": scores, "losses": losses, "metrics": metrics})
    return {"beta": BETA, "cases": cases}


def _is_close(found: Any, wanted: Any) -> bool:
    if isinstance(found, dict):
        return found.keys() == wanted.keys() and all(_is_close(found[k], wanted[k]) for k in found)
    if isinstance(found, list):
        return len(found) == len(wanted) and all(map(_is_close, found, wanted))
    return math.isclose(found, wanted, rel_tol=1e-4, abs_tol=1e-5)


def main() -> int:
    """Compare or write the file."""
    found = golden()
    if "--write" in sys.argv[1:]:
        FILE.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        return 0
    is_same = _is_close(found, json.loads(FILE.read_text(encoding="utf-8")))
    print(FILE.name, "is what TRL says" if is_same else "differs from what TRL says now")
    return 0 if is_same else 1


if __name__ == "__main__":
    sys.exit(main())
