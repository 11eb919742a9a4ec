"""Which run a folder belongs to: what may change before it goes on, and what is noticed."""

import json
import math
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mixtral.checkpoint import write_checkpoint
from mixtral.errors import CheckpointError, ConfigError, UnsupportedError
from mixtral.fingerprint import fingerprint
from mixtral.train import Trainer, TrainRecipe, precision, read_recipe
from mixtral.train.export import write_result
from mixtral.train.run_folder import RunFolder
from mixtral.train.run_identity import RunIdentity, settings_of
from tests.models_for_tests import tiny_model


def begun(values: dict[str, Any], num_steps: int = 1, **changes: Any) -> Trainer:
    """Run some steps, with a state after each."""
    trainer = Trainer(TrainRecipe(**(values | {"checkpoint_every": 1} | changes)))
    steps = trainer.run()
    for _ in range(num_steps):
        next(steps)
    trainer.wait()
    steps.close()
    return trainer


def again(values: dict[str, Any], **changes: Any) -> Trainer:
    return Trainer(TrainRecipe(**(values | {"checkpoint_every": 1} | changes)))


def test_changed_setting_is_named_with_both_values(recipe_values: dict[str, Any]) -> None:
    begun(recipe_values)
    line = r"run with other settings: learning_rate was 0\.002 and is 0\.5; undo that, name another"
    with pytest.raises(ConfigError, match=line):
        again(recipe_values, learning_rate=0.5)


@pytest.mark.parametrize("name", ["train_tokens", "valid_tokens"])
def test_changed_data_is_noticed(recipe_values: dict[str, Any], name: str, tmp_path: Path) -> None:
    values = recipe_values | {name: str(tmp_path / "own.npy")}
    shutil.copy(recipe_values[name], values[name])
    begun(values)
    tokens = np.load(values[name])
    tokens[7] += 1
    np.save(values[name], tokens)
    with pytest.raises(ConfigError, match=f"what {name} names is not what it was"):
        again(values)


def test_changed_start_is_noticed(recipe_values: dict[str, Any]) -> None:
    begun(recipe_values)
    start = Path(recipe_values["init_from"])
    shutil.rmtree(start)
    other = tiny_model(seed=1)
    write_checkpoint(start, other.config, other.named_parameters(), layout="hf")
    with pytest.raises(ConfigError, match="what init_from names is not what it was"):
        again(recipe_values)


def test_moved_files_and_how_often_is_logged_may_change(
    recipe_values: dict[str, Any], tmp_path: Path
) -> None:
    begun(recipe_values, 2)
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for name in ("run", "start", "tokens.npy"):
        shutil.move(tmp_path / name, moved / name)
    values = {
        name: value.replace(str(tmp_path), str(moved)) if isinstance(value, str) else value
        for name, value in recipe_values.items()
    }
    assert again(values, log_every=3, keep_best=False).next_step == 2


def test_state_of_an_earlier_version_goes_on(recipe_values: dict[str, Any]) -> None:
    trainer = begun(recipe_values, 2)
    state = torch.load(trainer.folder.state_path, weights_only=True)
    fields = {"stage": "pretrain", **recipe_values, "dpo": {}, "checkpoint_every": 1}
    settings = settings_of(trainer.recipe, "pretrain", {})
    del settings["geometry"]  # as before there was such a field
    state["recipe"] = json.dumps(fields | settings)
    torch.save(state, trainer.folder.state_path)
    trainer.folder.identity_path.unlink()
    assert again(recipe_values).next_step == 2


def test_run_killed_before_its_first_state_begins_anew(recipe_values: dict[str, Any]) -> None:
    values = recipe_values | {"eval_every": 1, "checkpoint_every": 5}
    trainer = Trainer(TrainRecipe(**values))
    steps = trainer.run()
    first = [next(steps).loss for _ in range(2)]
    steps.close()
    with trainer.folder.log_path.open("a") as log:
        log.write('{"step": 2, "lo')  # cut by the kill
    assert (trainer.folder.path / "best").is_dir()
    steps = Trainer(TrainRecipe(**values)).run()
    assert [next(steps).loss for _ in range(2)] == first
    steps.close()
    assert [record["step"] for record in trainer.folder.read_log()] == [0, 1]
    with pytest.raises(ConfigError, match="run with other settings: seed was 0 and is 1"):
        Trainer(TrainRecipe(**(values | {"seed": 1})))


@pytest.mark.parametrize("name", ["log.jsonl", "run.json"])
def test_file_of_somebody_else_is_not_replaced(recipe_values: dict[str, Any], name: str) -> None:
    path = Path(recipe_values["output"]) / name
    path.parent.mkdir()
    path.write_text('{"mine": 1}\n')
    with pytest.raises(ConfigError, match=name):
        again(recipe_values)
    assert path.read_text() == '{"mine": 1}\n'


def test_model_is_put_back_where_its_replacement_was_stopped(
    recipe_values: dict[str, Any],
) -> None:
    best = begun(recipe_values, eval_every=1).folder.path / "best"
    best.rename(best.with_name("best.old"))
    again(recipe_values, eval_every=1).folder.close()
    assert sorted(path.name for path in best.parent.iterdir() if "best" in path.name) == ["best"]


def test_older_model_survives_a_disk_that_is_full(
    recipe_values: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = begun(recipe_values, eval_every=1)
    best = trainer.folder.path / "best"
    before = fingerprint(best)

    def full(*arguments: object, **named: object) -> None:
        raise CheckpointError("the disk is full.")

    monkeypatch.setattr("mixtral.train.export.write_checkpoint", full)
    with pytest.raises(CheckpointError, match="full"):
        write_result(best, trainer._first, trainer.context, None)
    assert fingerprint(best) == before


def test_gradient_that_is_not_finite_changes_no_weight(recipe_values: dict[str, Any]) -> None:
    trainer = again(recipe_values)
    before = [p.detach().clone() for p in trainer.model.parameters()]
    for parameter in trainer.model.parameters():
        parameter.grad = torch.full_like(parameter, math.nan)
    assert math.isnan(trainer.optimizer.step(0.1))
    assert all(map(torch.equal, before, trainer.model.parameters()))


def test_losses_that_are_not_finite_end_the_run_by_name(
    recipe_values: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = again(recipe_values, eval_every=1)
    monkeypatch.setattr(trainer.objective, "evaluate", lambda model: {"loss": math.nan})
    with pytest.raises(
        ConfigError, match="the held-out loss is nan at step 1; lower learning_rate"
    ):
        next(trainer.run())


def test_read_only_folder_is_one_line(
    recipe_values: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = RunFolder(Path(recipe_values["output"]))

    def refuse(*arguments: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(CheckpointError, match=r"run\.json cannot be written: Permission denied"):
        folder.claim(RunIdentity(settings={}, files={}), None)
    assert list(folder.path.iterdir()) == []


def test_recipe_decides_and_not_where_it_lies(
    recipe_values: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "recipe.toml").write_text('output = "run"\ntrain_records = "a.jsonl"\n')
    absolute = read_recipe(tmp_path / "recipe.toml")
    other = replace(absolute, output="x", train_records="b", tensorboard=False)
    assert settings_of(absolute, "sft", {}) == settings_of(other, "sft", {})
    assert settings_of(absolute, "sft", {}) != settings_of(absolute, "dpo", {})


def test_what_a_recipe_leaves_to_the_machine_is_noticed(
    recipe_values: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    values = recipe_values | {"dtype": "auto"}
    monkeypatch.setattr(precision, "has_native_bfloat16", lambda: False)
    begun(values)
    assert again(values | {"dtype": "float32"}).next_step == 1
    monkeypatch.setattr(precision, "has_native_bfloat16", lambda: True)
    with pytest.raises(ConfigError, match="dtype was 'float32' and is 'bfloat16'"):
        again(values)


def test_size_of_micro_batches_may_be_given_that_was_the_whole_step(
    recipe_values: dict[str, Any],
) -> None:
    begun(recipe_values)
    step = recipe_values["tokens_per_step"]
    assert again(recipe_values, micro_batch_tokens=step).next_step == 1
    with pytest.raises(ConfigError, match=f"micro_batch_tokens was {step} and is 64"):
        again(recipe_values, micro_batch_tokens=64)


def test_state_of_a_step_is_written_once(recipe_values: dict[str, Any]) -> None:
    trainer = Trainer(TrainRecipe(**(recipe_values | {"checkpoint_every": 1})))
    steps = trainer.run()
    next(steps)
    trainer.wait()
    written = trainer.folder.state_path.stat().st_mtime_ns
    trainer.save()  # as a Ctrl-C in this step does
    trainer.wait()
    steps.close()
    assert trainer.folder.state_path.stat().st_mtime_ns == written


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
    ],
)
@pytest.mark.parametrize(
    ("part", "method", "line"),
    [
        ("objective", "loss", r"a micro-batch of \d+ tokens; lower micro_batch_tokens or"),
        (
            "optimizer",
            "step",
            r"the optimizer, which .* train fewer weights, with a table \[lora\]",
        ),
        ("objective", "evaluate", "the held-out data; lower micro_batch_tokens or"),
    ],
)
def test_too_little_memory_is_one_line_that_says_what_to_change(
    recipe_values: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    error: RuntimeError,
    part: str,
    method: str,
    line: str,
) -> None:
    trainer = Trainer(TrainRecipe(**(recipe_values | {"eval_every": 1})))

    def fail(*args: object) -> None:
        raise error

    monkeypatch.setattr(getattr(trainer, part), method, fail)
    with pytest.raises(UnsupportedError, match=f"there is not enough memory for {line}"):
        next(trainer.run())


def test_state_that_does_not_fit_into_memory_is_not_called_damaged(
    recipe_values: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    begun(recipe_values)

    def fail(*args: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(torch.optim.AdamW, "load_state_dict", fail)
    with pytest.raises(UnsupportedError, match="not enough memory for the optimizer"):
        again(recipe_values)
