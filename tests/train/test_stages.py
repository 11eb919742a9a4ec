"""Recipes over records: what sft, dpo and adapters do to a model, from file to result."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from mixtral.checkpoint import open_checkpoint, write_checkpoint
from mixtral.checkpoint.peft import read_adapter
from mixtral.checkpoint.quantize import quantize_checkpoint
from mixtral.errors import CheckpointError, ConfigError
from mixtral.quantization import find_recipe
from mixtral.train import Trainer, TrainRecipe, read_recipe
from mixtral.train.dpo_settings import DpoSettings
from mixtral.train.lora_settings import LoraSettings
from tests.models_for_tests import tiny_model
from tests.train.conftest import assistant, user, write_records


def run(values: dict[str, Any], stage: Any, **changes: Any) -> tuple[Trainer, list[float]]:
    trainer = Trainer(TrainRecipe(**(values | changes)), stage)
    return trainer, [metrics.loss for metrics in trainer.run()]


def test_sft_learns_answers_of_a_file(values: dict[str, Any], conversations: Path) -> None:
    trainer, losses = run(values, "sft", train_records=str(conversations), max_steps=25)
    assert losses[-1] < 0.5 * losses[0]
    record = trainer.folder.read_log()[-1]
    assert record["valid_loss"] < 0.7 * losses[0]
    assert open_checkpoint(trainer.result).config == trainer.config.replace(dtype="bfloat16")


def test_dpo_prefers_the_chosen_answer(values: dict[str, Any], preferences: Path) -> None:
    changes = {"train_records": str(preferences), "dpo": DpoSettings(pairs_per_step=8)}
    trainer, losses = run(values, "dpo", max_steps=10, **changes)
    assert losses[0] == pytest.approx(math.log(2), abs=1e-5)  # policy = reference
    record = trainer.folder.read_log()[-1]
    assert record["reward_accuracy"] == 1.0
    assert record["valid_reward_accuracy"] == 1.0
    assert record["reward_chosen"] > record["reward_rejected"]


@pytest.mark.parametrize("stage", ["sft", "dpo"])
def test_stopped_run_over_records_goes_on_to_the_same_losses(
    values: dict[str, Any], conversations: Path, preferences: Path, tmp_path: Path, stage: Any
) -> None:
    file = conversations if stage == "sft" else preferences
    values |= {"train_records": str(file)}
    values |= {"dpo": DpoSettings(pairs_per_step=8)} if stage == "dpo" else {}
    _, whole = run(values, stage)
    values |= {"output": str(tmp_path / "stopped")}
    first = []
    for metrics in Trainer(TrainRecipe(**values), stage).run():
        first.append(metrics.loss)
        if len(first) == 3:
            break
    _, second = run(values, stage)
    assert first[:2] + second == whole


def lora(**changes: Any) -> Any:
    return LoraSettings(**({"rank": 4, "targets": ("attention", "router", "experts")} | changes))


@pytest.mark.parametrize("quantization", ["", "int4"])
def test_adapter_learns_and_its_base_stays(
    values: dict[str, Any], conversations: Path, quantization: str
) -> None:
    changes = {"train_records": str(conversations), "quantization": quantization, "lora": lora()}
    trainer = Trainer(TrainRecipe(**(values | changes | {"max_steps": 15})), "sft")
    before = {name: t.clone() for name, t in trainer.model.state_dict().items()}
    losses = [metrics.loss for metrics in trainer.run()]
    assert losses[-1] < 0.7 * losses[0]
    for name, tensor in trainer.model.state_dict().items():
        assert torch.equal(tensor, before[name]) == ("lora_" not in name), name
    assert trainer.result.name == "adapter"
    adapter = read_adapter(trainer.result, trainer.config)
    assert len(adapter.matrices) == 2 * (4 + 1 + 4 * 3)


def test_packed_checkpoint_is_a_base_as_it_is(
    values: dict[str, Any], conversations: Path, start: Path, tmp_path: Path
) -> None:
    quantize_checkpoint(start, tmp_path / "packed", find_recipe("int4"))
    changes = {"train_records": str(conversations), "lora": lora()}
    _, whole = run(values, "sft", quantization="int4", **changes)
    values |= {"output": str(tmp_path / "other"), "init_from": str(tmp_path / "packed")}
    assert run(values, "sft", **changes)[1] == whole
    with pytest.raises(ConfigError, match=r"packed in few bits, which cannot be trained"):
        run(values, "sft", train_records=str(conversations))


def test_adapter_is_trained_on_where_it_was(
    values: dict[str, Any], conversations: Path, tmp_path: Path
) -> None:
    values |= {"train_records": str(conversations)}
    trainer, _ = run(values, "sft", lora=lora())
    values |= {"output": str(tmp_path / "more"), "init_adapter": str(trainer.result)}
    more = Trainer(TrainRecipe(**values), "sft")
    assert more.evaluate()["loss"] == pytest.approx(trainer.evaluate()["loss"], abs=1e-5)


def test_adapter_of_routers_that_are_frozen_is_written_as_it_was(
    values: dict[str, Any], conversations: Path, tmp_path: Path
) -> None:
    values |= {"train_records": str(conversations)}
    trainer, _ = run(values, "sft", lora=lora())
    before = read_adapter(trainer.result, trainer.config).matrices
    values |= {"output": str(tmp_path / "more"), "init_adapter": str(trainer.result)}
    more, _ = run(values, "sft", freeze_router=True)
    after = read_adapter(more.result, more.config).matrices
    assert list(after) == list(before)
    for name, matrices in after.items():
        assert torch.equal(matrices.b, before[name].b) == name.endswith(".gate")


def test_reference_is_the_base_when_the_adapter_is_off(
    values: dict[str, Any], conversations: Path, preferences: Path, tmp_path: Path
) -> None:
    trainer, _ = run(values, "sft", train_records=str(conversations), lora=lora())
    values |= {
        "output": str(tmp_path / "dpo"),
        "train_records": str(preferences),
        "init_adapter": str(trainer.result),
    }
    off = DpoSettings(pairs_per_step=8, reference="adapter_off")
    _, losses = run(values, "dpo", dpo=off)
    # The adapter of the first stage already differs from the base.
    assert losses[0] != pytest.approx(math.log(2), abs=1e-5)
    values |= {"output": str(tmp_path / "dpo2")}
    _, losses = run(values, "dpo", dpo=DpoSettings(pairs_per_step=8))
    assert losses[0] == pytest.approx(math.log(2), abs=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"init_from": "", "lora": lora()}, "an adapter needs a trained model under it"),
        ({"quantization": "int4"}, "packed weights cannot be trained"),
        ({"quantization": "int5", "lora": lora()}, "int5"),
        ({"train_tokens": "x.npy"}, "are both given"),
        ({"train_mask": "x.npy"}, "does not go with train_records"),
        ({"init_adapter": "a", "lora": lora()}, "Leave one of them out"),
        ({"micro_batch_tokens": 32}, "must be at least the longest sequence, 64"),
        ({"long_seq_len": 128}, "long_seq_len is given; it does not go with train_records"),
        ({"model": "8x7b"}, "model is for random weights alone"),
        ({"init": "copy"}, "init is for random weights alone"),
        ({"min_learning_rate": 1.0}, "must be at most learning_rate, 0.01"),
        ({"freeze_router": True, "lora": lora()}, "lora.targets has the router"),
        ({"num_epochs": 1e308}, "num_epochs is 1e\\+308; it must be above 0 and at most 1000000"),
        ({"learning_rate": 1e9}, "must be above 0 and at most 100"),
        ({"embedding_rows": "Seen"}, "embedding_rows is 'Seen'; it must be"),
        ({"embedding_rows": "seen", "lora": lora()}, "an adapter leaves the embedding as it is"),
        ({"valid_records": "v.jsonl"}, r"valid_fraction is 0\.2 and what is held out is v\.jsonl"),
        ({"long_seq_fraction": 0.5}, "long_seq_fraction is 0.5 and long_seq_len is 0"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(
    values: dict[str, Any], conversations: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        TrainRecipe(**(values | {"train_records": str(conversations)} | changes))


def test_misspelt_start_is_a_missing_folder_and_never_a_hub_id(
    values: dict[str, Any], conversations: Path, tmp_path: Path
) -> None:
    recipe = tmp_path / "sub" / "r.toml"
    recipe.parent.mkdir()
    common = f'output = "o"\ntrain_records = "{conversations}"\n'
    recipe.write_text(common + 'init_from = "nonexist"\n')
    with pytest.raises(ConfigError, match=r"init_from is .*sub/nonexist, which does not exist"):
        Trainer(read_recipe(recipe), "sft")
    recipe.write_text(common + 'model = "9x9"\n')
    with pytest.raises(ConfigError, match="model is '9x9'; it must be"):
        read_recipe(recipe)


@pytest.mark.parametrize(("name", "value"), [("freeze_router", True), ("router_jitter", 0.1)])
def test_settings_of_routers_are_refused_where_there_are_none(
    values: dict[str, Any], conversations: Path, tmp_path: Path, name: str, value: Any
) -> None:
    dense = {"num_local_experts": 0, "num_experts_per_tok": 0}
    model = tiny_model(vocab_size=32768, **dense)
    write_checkpoint(tmp_path / "dense", model.config, model.named_parameters(), layout="hf")
    values |= {"train_records": str(conversations), "init_from": str(tmp_path / "dense")}
    with pytest.raises(ConfigError, match=f"{name} is given, and .* has no routers"):
        Trainer(TrainRecipe(**(values | {name: value})), "sft")


def test_bad_record_is_named_by_its_line(values: dict[str, Any], tmp_path: Path) -> None:
    good = {"messages": [user("Hi"), assistant("Hello")]}
    bad = {"messages": [user("Hi")]}
    path = write_records(tmp_path / "bad.jsonl", [good, bad])
    with pytest.raises(ConfigError, match=r"bad\.jsonl:2"):
        run(values, "sft", train_records=str(path))


def test_adapter_of_another_model_is_refused(
    values: dict[str, Any], conversations: Path, tmp_path: Path
) -> None:
    trainer, _ = run(values, "sft", train_records=str(conversations), lora=lora())
    other = tiny_model(vocab_size=32768, hidden_size=32, head_dim=8)
    write_checkpoint(tmp_path / "other", other.config, other.named_parameters(), layout="hf")
    values |= {"init_from": str(tmp_path / "other"), "init_adapter": str(trainer.result)}
    values |= {"output": str(tmp_path / "second"), "train_records": str(conversations)}
    with pytest.raises(CheckpointError, match="for another model"):
        Trainer(TrainRecipe(**values), "sft")


def test_killed_process_loses_no_step_that_was_saved(
    values: dict[str, Any], conversations: Path, tmp_path: Path
) -> None:
    values |= {"train_records": str(conversations), "max_steps": 400, "checkpoint_every": 1}
    values |= {"eval_every": 1000, "keep_best": False}
    recipe = tmp_path / "recipe.toml"
    lines = (f"{name} = {json.dumps(value)}\n" for name, value in values.items())
    recipe.write_text("".join(lines))
    command = [sys.executable, "-m", "mixtral.cli", "train", "sft", str(recipe)]
    log = Path(values["output"]) / "log.jsonl"
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, env=os.environ) as process:
        while not log.exists() or len(log.read_text().splitlines()) < 4:
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    trainer = Trainer(TrainRecipe(**values), "sft")
    assert trainer.next_step >= 1
    run_on = trainer.run()
    resumed = [next(run_on).loss for _ in range(3)]
    run_on.close()
    losses = [record["loss"] for record in trainer.folder.read_log()]
    values |= {"output": str(tmp_path / "whole")}
    whole = Trainer(TrainRecipe(**values), "sft").run()
    expected = [next(whole).loss for _ in range(trainer.next_step)]
    whole.close()
    assert expected[-3:] == resumed
    assert losses == expected
