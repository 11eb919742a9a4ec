"""The training loop: it learns, it resumes to identical losses, it refuses what does not fit."""

import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from mixtral.checkpoint import open_checkpoint, write_checkpoint
from mixtral.errors import CheckpointError, ConfigError
from mixtral.train import StepMetrics, Trainer, TrainRecipe
from tests.models_for_tests import tiny_model


@pytest.fixture
def recipe_values(tmp_path: Path) -> dict[str, object]:
    rng = np.random.default_rng(0)
    tokens = np.tile(rng.integers(3, 500, 60), 60).astype(np.uint16)
    tokens[::60] = 1
    np.save(tmp_path / "tokens.npy", tokens)
    model = tiny_model()
    write_checkpoint(tmp_path / "start", model.config, model.named_parameters(), layout="hf")
    return {
        "output": str(tmp_path / "run"),
        "train_tokens": str(tmp_path / "tokens.npy"),
        "valid_tokens": str(tmp_path / "tokens.npy"),
        "init_from": str(tmp_path / "start"),
        "max_steps": 8,
        "tokens_per_step": 120,
        "max_seq_len": 64,
        "warmup_steps": 2,
        "eval_every": 4,
        "checkpoint_every": 3,
        "log_every": 1,
    }


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
    assert sorted(path.name for path in output.iterdir()) == ["log.jsonl", "model", "state.pt"]
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
        TrainRecipe.from_toml(path)
    path.write_text(base + 'max_steps="many"\n')
    with pytest.raises(ConfigError, match="max_steps is 'many'; it must be a whole number"):
        TrainRecipe.from_toml(path)
    path.write_text('output="o"\n')
    with pytest.raises(ConfigError, match="lacks the field train_tokens"):
        TrainRecipe.from_toml(path)
    path.write_text(base)
    assert TrainRecipe.from_toml(path).train_tokens == str(tmp_path / "a")


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
    rates = [recipe.learning_rate_at(step) for step in range(100)]
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
