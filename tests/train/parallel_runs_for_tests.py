"""Whole training runs as one process of several does them in the tests, and their first models."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from mixtral.checkpoint import write_checkpoint
from mixtral.model import TokenBatch, Transformer
from mixtral.train.dpo_settings import DpoSettings
from mixtral.train.first_model import make_model
from mixtral.train.lora_settings import LoraSettings
from mixtral.train.parallel import ParallelContext
from mixtral.train.recipe import TrainRecipe
from mixtral.train.run_folder import read_log
from mixtral.train.trainer import Trainer
from tests.models_for_tests import tiny_model

STORED = ("float32", "bfloat16", "float16")
LOADED = (  # stored, computed in, with an adapter
    ("float32", "bfloat16", False),
    ("float32", "bfloat16", True),
    ("bfloat16", "float32", False),
    ("bfloat16", "float32", True),
    ("float16", "bfloat16", False),
)


def write_runs(folder: Path) -> None:
    """Write what ``trainer`` learns from: the last step of the tokens is one micro-batch."""
    tokens = np.tile(np.arange(3, 63), 7).astype(np.uint16)
    tokens[::60] = 1
    np.save(folder / "tokens.npy", np.append(tokens, [5]).astype(np.uint16))
    model = tiny_model(vocab_size=32768)
    write_checkpoint(folder / "start", model.config, model.named_parameters(), layout="hf")
    for dtype in STORED:
        write_model(folder / dtype, tiny_model(), dtype)
    records = [
        {
            "messages": [{"role": "user", "content": f"Say yes, {'please ' * (i % 4)}number {i}."}],
            "chosen": "yes",
            "rejected": "no",
        }
        for i in range(16)
    ]
    text = "".join(json.dumps(record) + "\n" for record in records)
    (folder / "pairs.jsonl").write_text(text)


def write_model(folder: Path, model: Transformer, dtype: str) -> None:
    config = model.config.replace(dtype=dtype)
    tensors = ((name, p.to(getattr(torch, dtype))) for name, p in model.named_parameters())
    write_checkpoint(folder, config, tensors, layout="hf")


def trainer(context: ParallelContext, folder: Path) -> dict[str, Any]:
    """Run whole stages, of data that lies beside the folder."""
    data = folder.parent
    tokens = {"train_tokens": str(data / "tokens.npy"), "valid_tokens": str(data / "tokens.npy")}
    pairs = {"train_records": str(data / "pairs.jsonl"), "valid_fraction": 0.4}
    pairs["dpo"] = DpoSettings(pairs_per_step=4, max_eval_pairs=4)
    losses = {}
    for stage, own in (("pretrain", tokens), ("dpo", pairs)):
        recipe = run_recipe(data, folder / stage, **own)
        run = Trainer(recipe, stage, context=context)
        steps = list(run.run())
        losses[stage] = [step.loss for step in steps] + [step.valid_loss for step in steps][-1:]
        if context.is_main:  # which writes the log
            entropies = [record["router_entropy"] for record in read_log(run.folder.log_path)]
            losses[f"{stage} entropy"] = [value for layers in entropies for value in layers]
    return losses


def stopped(context: ParallelContext, folder: Path) -> dict[str, Any]:
    """Stop the first stage of ``trainer`` after its third step, and go on from its state."""
    data = folder.parent
    tokens = str(data / "tokens.npy")
    recipe = run_recipe(
        data, folder / "stopped", train_tokens=tokens, valid_tokens=tokens, checkpoint_every=2
    )
    run = Trainer(recipe, "pretrain", context=context)
    steps = run.run()
    before = [next(steps).loss for _ in range(3)]
    run.wait()
    steps.close()
    run = Trainer(recipe, "pretrain", context=context)
    saved_step = run.next_step
    return {"before": before, "saved_step": saved_step, "after": [s.loss for s in run.run()]}


def loaded(context: ParallelContext, folder: Path) -> dict[str, Any]:
    """Compare models that were loaded to be split with whole ones; name those that differ."""
    weights, states = [], []
    for stored, dtype, is_adapted in LOADED:
        lora = LoraSettings(rank=2) if is_adapted else None
        recipe = unread_recipe(folder, init_from=stored, dtype=dtype, lora=lora)
        whole_one = make_model(recipe).model.eval()
        split = make_model(recipe, is_split=True).model.eval()
        case = f"{stored} in {dtype}{', adapted' * is_adapted}"
        assert split.dtype == whole_one.dtype
        context.shard(split, split.dtype)
        parts = dict(context.whole_tensors(split))
        for name, parameter in whole_one.named_parameters():
            # What learns is float32 in parts; what does not is as it is stored.
            part = parameter.float() if parameter.requires_grad else parameter
            if not torch.equal(parts[name].to(part.dtype), part):
                weights.append(f"{case}: {name}")
        batch = TokenBatch.from_sequences([[5, 9, 300, 17, 4], [3, 8]])
        with torch.no_grad():
            if not torch.equal(split(batch), whole_one(batch)):
                states.append(case)
    return {"weights": weights, "states": states}


def loading(context: ParallelContext, folder: Path) -> dict[str, Any]:
    """Return the most memory of its own that the process takes while it loads and splits a model.

    It is looked at where it is largest: before and after the parts of a layer are cut.
    """
    from mixtral.train import distributed  # late, as it imports FSDP

    context.shard(tiny_model(), torch.float32)  # imports what splitting needs
    used: list[int] = []

    def watched(module: nn.Module, **options: Any) -> nn.Module:
        used.append(own_memory_bytes())
        fully_shard(module, **options)
        used.append(own_memory_bytes())
        return module

    fully_shard = distributed.fully_shard
    distributed.fully_shard = watched
    before = own_memory_bytes()
    model = make_model(unread_recipe(folder, init_from="model"), is_split=True).model
    size = 4 * sum(parameter.numel() for parameter in model.parameters())
    context.shard(model, model.dtype)
    return {"share": (max(used) - before) / size}


def unread_recipe(folder: Path, init_from: str, **own: Any) -> TrainRecipe:
    """A recipe for a first model beside the folder, whose data nobody reads."""
    data = folder.parent
    own |= {"train_tokens": "unread.npy", "valid_tokens": "unread.npy"}
    return run_recipe(data, folder, init_from=str(data / init_from), **own)


def own_memory_bytes() -> int:
    """Memory that no file and no other process shares."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.partition("RssAnon:")[2].split()[0])


def run_recipe(data: Path, output: Path, **own: Any) -> TrainRecipe:
    values: dict[str, Any] = {
        "init_from": str(data / "start"),
        "dtype": "float32",
        "num_epochs": 1,
        "tokens_per_step": 120,
        "micro_batch_tokens": 60,
        "max_seq_len": 60,
        "learning_rate": 1e-3,
        "warmup_steps": 1,
        "eval_every": 2,
        "log_every": 1,
        "keep_best": False,
        "tensorboard": False,
    }
    return TrainRecipe(output=str(output), **values | own)


def going_on_from_one(context: ParallelContext, folder: Path) -> None:
    """Go on from a state of one process, which lies there."""
    data = folder.parent
    tokens = str(data / "tokens.npy")
    recipe = run_recipe(data, data / "one", train_tokens=tokens, valid_tokens=tokens)
    Trainer(recipe, "pretrain", context=context)
