"""The training loop: it learns, it resumes to identical losses, it refuses what does not fit."""

import math
import os
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mixtral.checkpoint import open_checkpoint
from mixtral.config import ModelConfig
from mixtral.errors import CheckpointError, ConfigError
from mixtral.train import StepMetrics, Trainer, TrainRecipe, read_recipe


def losses(metrics: list[StepMetrics]) -> list[float]:
    return [m.loss for m in metrics]


def test_killed_and_resumed_run_gives_identical_losses(
    recipe_values: dict[str, object], tmp_path: Path
) -> None:
    whole = losses(list(Trainer(TrainRecipe(**recipe_values)).run()))
    other = TrainRecipe(**(recipe_values | {"output": str(tmp_path / "other")}))
    first = []
    for metrics in Trainer(other).run():
        first.append(metrics)
        if metrics.step == 4:  # past the state of step 3, before that of step 6
            break
    resumed = Trainer(other)
    assert resumed.next_step == 3
    second = list(resumed.run())
    assert losses(first[:3]) + losses(second) == whole
    log_steps = [record["step"] for record in resumed.folder.read_log()]
    assert log_steps == list(range(8))


def test_training_lowers_the_loss_and_exports_a_model_that_loads(
    recipe_values: dict[str, object], tmp_path: Path
) -> None:
    recipe = TrainRecipe(**(recipe_values | {"max_steps": 40, "learning_rate": 0.01}))
    trainer = Trainer(recipe)
    metrics = list(trainer.run())
    assert metrics[-1].loss < 0.7 * metrics[0].loss
    assert metrics[-1].valid_loss is not None
    exported = dict(open_checkpoint(tmp_path / "run" / "model").tensors())
    for name, parameter in trainer.model.named_parameters():
        assert torch.equal(exported[name], parameter.detach().bfloat16()), name


def test_finished_run_exports_again_over_the_old_model(recipe_values: dict[str, object]) -> None:
    recipe = TrainRecipe(**(recipe_values | {"max_steps": 1}))
    list(Trainer(recipe).run())
    assert list(Trainer(recipe).run()) == []
    output = Path(recipe.output)
    assert sorted(path.name for path in output.iterdir()) == [
        "best",
        "log.jsonl",
        "model",
        "run.json",
        "state.pt",
    ]
    assert open_checkpoint(output / "model").config.num_hidden_layers == 2


def test_router_and_every_expert_learn(recipe_values: dict[str, object]) -> None:
    trainer = Trainer(TrainRecipe(**(recipe_values | {"max_steps": 2, "dtype": "float32"})))
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    list(trainer.run())
    unchanged = [n for n, p in trainer.model.named_parameters() if torch.equal(p, before[n])]
    assert unchanged == []


def test_folder_of_another_run_is_refused(recipe_values: dict[str, object]) -> None:
    next(Trainer(TrainRecipe(**(recipe_values | {"checkpoint_every": 1}))).run())
    changed = TrainRecipe(**(recipe_values | {"checkpoint_every": 1, "learning_rate": 0.5}))
    with pytest.raises(ConfigError, match="run with other settings"):
        Trainer(changed)


def test_damaged_state_is_named(recipe_values: dict[str, object], tmp_path: Path) -> None:
    next(Trainer(TrainRecipe(**(recipe_values | {"checkpoint_every": 1}))).run())
    state = tmp_path / "run" / "state.pt"
    state.write_bytes(state.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match=r"state\.pt is damaged"):
        Trainer(TrainRecipe(**(recipe_values | {"checkpoint_every": 1})))


def test_recipe_names_unknown_and_wrong_fields(tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    base = 'output="o"\ntrain_tokens="a"\nvalid_tokens="b"\n'
    path.write_text(base + "learning_rat=1\n")
    with pytest.raises(ConfigError, match="unknown field learning_rat"):
        read_recipe(path)
    path.write_text(base + 'max_steps="many"\n')
    with pytest.raises(ConfigError, match="max_steps is 'many'; it must be a whole number"):
        read_recipe(path)
    path.write_text('train_tokens="o"\n')
    with pytest.raises(ConfigError, match="lacks the field output"):
        read_recipe(path)
    path.write_text(base)
    assert read_recipe(path).train_tokens == str(tmp_path / "a")


def test_learning_rate_rises_holds_and_falls() -> None:
    recipe = TrainRecipe(
        output="o",
        train_tokens="a",
        valid_tokens="b",
        max_steps=100,
        warmup_steps=10,
        learning_rate=1.0,
        min_learning_rate=0.1,
        decay_fraction=0.5,
    )
    rates = [recipe.schedule(100).rate(step) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9:50] == [1.0] * 41
    assert rates[-1] == pytest.approx(0.1)
    assert all(a >= b for a, b in pairwise(rates[50:]))


def test_second_training_in_a_folder_is_refused(recipe_values: dict[str, object]) -> None:
    recipe = TrainRecipe(**recipe_values)
    first = Trainer(recipe)
    with pytest.raises(ConfigError, match="another training is at work"):
        Trainer(recipe)
    first.folder.close()
    assert Trainer(recipe).next_step == 0


@pytest.mark.parametrize("content", [b"junk" * 1000, {"a": 1}, [1]])
def test_state_of_any_other_kind_is_damaged(
    recipe_values: dict[str, object], content: object
) -> None:
    recipe = TrainRecipe(**recipe_values)
    state = Path(recipe.output) / "state.pt"
    state.parent.mkdir()
    if isinstance(content, bytes):
        state.write_bytes(content)
    else:
        torch.save(content, state)
    with pytest.raises(CheckpointError, match=r"state\.pt is damaged"):
        Trainer(recipe)


def test_model_of_somebody_else_is_not_replaced(recipe_values: dict[str, object]) -> None:
    recipe = TrainRecipe(**recipe_values)
    model = Path(recipe.output) / "model"
    model.mkdir(parents=True)
    with pytest.raises(ConfigError, match="no state of its run"):
        Trainer(recipe)


def test_wrong_data_leaves_no_folder(recipe_values: dict[str, object], tmp_path: Path) -> None:
    (tmp_path / "junk.npy").write_bytes(b"junk" * 100)
    recipe = TrainRecipe(**(recipe_values | {"train_tokens": str(tmp_path / "junk.npy")}))
    with pytest.raises(ConfigError, match=r"junk\.npy is not a NumPy array"):
        Trainer(recipe)
    assert not Path(recipe.output).exists()


@pytest.mark.parametrize(
    ("name", "value"),
    [("learning_rate", math.nan), ("grad_clip", math.inf), ("seed", -1), ("output", "")],
)
def test_recipe_refuses_values_without_sense(
    recipe_values: dict[str, object], name: str, value: object
) -> None:
    with pytest.raises(ConfigError, match=f"{name} is"):
        TrainRecipe(**(recipe_values | {name: value}))


def test_small_micro_batches_give_the_losses_of_a_whole_step(
    recipe_values: dict[str, object], tmp_path: Path
) -> None:
    # Without the router's losses, which are means over a pass and not over tokens.
    values = recipe_values | {"load_balancing_coef": 0.0}
    whole = losses(list(Trainer(TrainRecipe(**values)).run()))
    values |= {"output": str(tmp_path / "parts"), "micro_batch_tokens": 64}
    parts = Trainer(TrainRecipe(**values))
    assert len(parts.objective.step(0)) == 2
    assert losses(list(parts.run())) == pytest.approx(whole, rel=1e-4)


def test_activation_checkpointing_changes_no_loss(
    recipe_values: dict[str, object], tmp_path: Path
) -> None:
    values = recipe_values | {"router_jitter": 0.1}
    kept = list(Trainer(TrainRecipe(**values)).run())
    values |= {"output": str(tmp_path / "again"), "activation_checkpointing": True}
    again = list(Trainer(TrainRecipe(**values)).run())
    assert losses(again) == losses(kept)
    assert [m.grad_norm for m in again] == [m.grad_norm for m in kept]


def test_jitter_changes_training_and_not_evaluation(
    recipe_values: dict[str, object], tmp_path: Path
) -> None:
    calm = Trainer(TrainRecipe(**recipe_values))
    values = recipe_values | {"router_jitter": 0.3, "output": str(tmp_path / "noisy")}
    noisy = Trainer(TrainRecipe(**values))
    assert noisy.evaluate() == calm.evaluate()
    assert losses(list(noisy.run()))[0] != losses(list(calm.run()))[0]


def test_frozen_router_stays_and_the_rest_learns(recipe_values: dict[str, object]) -> None:
    trainer = Trainer(TrainRecipe(**(recipe_values | {"freeze_router": True, "max_steps": 2})))
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    list(trainer.run())
    for name, parameter in trainer.model.named_parameters():
        assert torch.equal(parameter, before[name]) == name.endswith("gate.weight"), name


def test_best_model_is_that_of_the_lowest_held_out_loss(
    recipe_values: dict[str, object], tmp_path: Path
) -> None:
    # Other random text: what is learned of the training text does not help there.
    other = np.random.default_rng(7).integers(3, 500, 400).astype(np.uint16)
    np.save(tmp_path / "other.npy", other)
    values = recipe_values | {
        "valid_tokens": str(tmp_path / "other.npy"),
        "max_steps": 20,
        "learning_rate": 0.02,
        "eval_every": 1,
    }
    trainer = Trainer(TrainRecipe(**values))
    measured = [m.valid_loss for m in trainer.run() if m.valid_loss is not None]
    assert min(measured) < measured[-1]
    best = TrainRecipe(
        **(values | {"init_from": str(tmp_path / "run" / "best"), "output": str(tmp_path / "b")})
    )
    assert Trainer(best).evaluate()["loss"] == pytest.approx(min(measured), rel=1e-3)


def test_log_has_loads_and_entropies_of_every_layer(recipe_values: dict[str, object]) -> None:
    trainer = Trainer(TrainRecipe(**recipe_values))
    list(trainer.run())
    record = trainer.folder.read_log()[-1]
    assert len(record["expert_load"]) == len(record["router_entropy"]) == 2
    assert sum(record["expert_load"][0]) == pytest.approx(1, abs=1e-3)
    assert 0 < record["router_entropy"][0] <= math.log(4)
    assert 0 < record["flops_use"] < 1


def test_epochs_decide_the_steps_where_none_are_given(recipe_values: dict[str, object]) -> None:
    values = recipe_values | {"max_steps": 0, "num_epochs": 0.5}
    assert Trainer(TrainRecipe(**values)).max_steps == 15  # 3,600 tokens of 120 a step, half of it


def test_state_that_cannot_be_written_is_told_and_the_old_one_kept(
    recipe_values: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = Trainer(TrainRecipe(**(recipe_values | {"checkpoint_every": 1})))
    run = trainer.run()
    next(run)
    trainer.folder.wait()
    before = trainer.folder.state_path.read_bytes()

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(CheckpointError, match=r"state\.pt cannot be written; its disk has"):
        list(run)
    assert trainer.folder.state_path.read_bytes() == before
    assert [path.name for path in trainer.folder.path.glob("*.tmp")] == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full is of Linux")
def test_full_disk_under_state_and_tensorboard_is_one_error_and_the_folder_is_free(
    recipe_values: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = TrainRecipe(**(recipe_values | {"checkpoint_every": 1, "tensorboard": True}))
    trainer = Trainer(recipe)
    run = trainer.run()
    next(run)
    trainer.wait()
    opened = Path.open

    def open_file(path: Path, *arguments: Any, **named: Any) -> Any:
        is_state = path.name == "state.tmp"
        return opened(Path("/dev/full") if is_state else path, *arguments, **named)

    monkeypatch.setattr(Path, "open", open_file)
    (board,) = (trainer.folder.path / "tensorboard").iterdir()
    with opened(Path("/dev/full"), "ab") as full:
        for link in Path("/proc/self/fd").iterdir():
            if link.is_symlink() and link.resolve() == board:
                os.dup2(full.fileno(), int(link.name))
        with pytest.raises(CheckpointError, match=r"state\.pt cannot be written; its disk has"):
            list(run)
    monkeypatch.undo()
    resumed = Trainer(recipe)
    assert resumed.next_step == 1
    resumed.folder.close()


def test_last_step_is_in_the_log_however_seldom_it_is_written(
    values: dict[str, Any], conversations: Path
) -> None:
    values |= {"train_records": str(conversations), "valid_fraction": 0.0, "log_every": 4}
    trainer = Trainer(TrainRecipe(**values), "sft")
    assert [metrics.valid for metrics in trainer.run()] == [None] * 6
    assert [record["step"] for record in trainer.folder.read_log()] == [0, 4, 5]


def test_geometry_changes_the_preset(recipe_values: dict[str, object]) -> None:
    small = {"hidden_size": 32, "num_hidden_layers": 1, "vocab_size": 600}
    values = recipe_values | {"init_from": "", "geometry": small, "max_steps": 1}
    trainer = Trainer(TrainRecipe(**values))
    list(trainer.run())
    assert open_checkpoint(trainer.result).config.replace(dtype="bfloat16") == ModelConfig.preset(
        "nano"
    ).replace(**small)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("rows", ["all", "seen"])
def test_rows_of_other_tokens_stay_where_that_is_asked_for(
    recipe_values: dict[str, object], rows: str, dtype: str
) -> None:
    tied = {"hidden_size": 32, "num_hidden_layers": 1, "vocab_size": 600}
    values = recipe_values | {"init_from": "", "geometry": tied, "embedding_rows": rows}
    trainer = Trainer(TrainRecipe(**(values | {"dtype": dtype, "learning_rate": 0.05})))
    assert trainer.config.tie_word_embeddings
    embedding = trainer.model.model.embed_tokens.weight
    before = embedding.detach().clone()
    list(trainer.run())
    has_changed = (embedding != before).any(dim=1)
    is_seen = torch.zeros(600, dtype=torch.bool)
    is_seen[torch.from_numpy(np.load(str(values["train_tokens"])).astype(np.int64))] = True
    assert has_changed[is_seen].all()
    assert has_changed[~is_seen].all() == (rows == "all")
    assert has_changed[~is_seen].any() == (rows == "all")


@pytest.mark.parametrize(
    ("geometry", "message"),
    [
        ({"hidden": 32}, "geometry has 'hidden'; it must be of"),
        ({"hidden_size": -1}, "hidden_size is -1"),
        ("large", "geometry is 'large'; it must be a table"),
    ],
)
def test_wrong_geometry_is_refused(
    recipe_values: dict[str, object], geometry: object, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        TrainRecipe(**(recipe_values | {"init_from": "", "geometry": geometry}))
