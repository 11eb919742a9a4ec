"""``mixtral train plan`` over records: steps, tokens and reference passes are those of training."""

import dataclasses
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mixtral.cli import train_plan
from mixtral.cli.main import app
from mixtral.config import ModelConfig
from mixtral.train import Trainer, read_recipe
from mixtral.train.plan import PlanInput, flops_per_token


def run(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["train", "plan", *arguments], prog_name="mixtral")
    assert result.exit_code == 0, result.output
    return result.stdout


def record_recipe(tmp_path: Path, records: Path, start: Path, table: str = "") -> Path:
    path = tmp_path / "recipe.toml"
    path.write_text(
        f'output = "run"\ntrain_records = "{records}"\ninit_from = "{start}"\n'
        "valid_fraction = 0.2\nnum_epochs = 2.5\ntokens_per_step = 128\nmax_seq_len = 64\n"
        f'dtype = "float32"\n[lora]\nrank = 2\n{table}'
    )
    return path


def test_epochs_over_records_have_the_steps_of_training(
    tmp_path: Path, start: Path, conversations: Path
) -> None:
    recipe = record_recipe(tmp_path, conversations, start)
    assumed = json.loads(run(str(recipe), "--json"))["assumed"]
    assert assumed["num_steps"] == Trainer(read_recipe(recipe), "sft").max_steps > 3
    assert assumed["tokens_per_step"] == 128
    larger = run(str(recipe), "--tokens-per-step", "1024", "--json")
    assert json.loads(larger)["assumed"]["num_steps"] == 3


@pytest.mark.parametrize("length", ["", "max_steps = 7\n"])
def test_steps_over_pairs_have_the_tokens_of_their_pairs_and_a_pass_of_the_reference(
    tmp_path: Path, start: Path, preferences: Path, length: str
) -> None:
    table = '[dpo]\npairs_per_step = 1\nreference = "adapter_off"\n'
    recipe = record_recipe(tmp_path, preferences, start, table)
    recipe.write_text(length + recipe.read_text())
    trainer = Trainer(read_recipe(recipe), "dpo")
    epoch = range(trainer.objective.num_steps)
    sizes = [
        len(micro.batch.input_ids) for index in epoch for micro in trainer.objective.step(index)
    ]
    assumed = json.loads(run(str(recipe), "--json"))["assumed"]
    assert assumed["num_steps"] == trainer.max_steps
    assert assumed["tokens_per_step"] == round(sum(sizes) / len(epoch))
    assert assumed["reference_passes"] == 1


def test_reference_that_is_scored_once_costs_its_share_of_the_run(
    tmp_path: Path, start: Path, preferences: Path
) -> None:
    recipe = record_recipe(tmp_path, preferences, start, "[dpo]\npairs_per_step = 4\n")
    assumed = json.loads(run(str(recipe), "--json"))["assumed"]
    trained = assumed["num_steps"] * 4  # pairs; all have nearly one length
    assert assumed["reference_passes"] == pytest.approx(24 / trained, rel=0.02)


def test_pass_of_a_reference_is_a_third_of_a_step_of_all_weights() -> None:
    given = PlanInput(config=ModelConfig.preset("nano"))
    with_reference = dataclasses.replace(given, reference_passes=1.5)
    assert flops_per_token(with_reference) == pytest.approx(1.5 * flops_per_token(given))


@pytest.mark.parametrize(
    ("size", "why"), [(train_plan.MOST_COUNTED_BYTES + 1, "is larger than"), (None, "not here yet")]
)
def test_steps_that_are_not_counted_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int | None, why: str
) -> None:
    notes: list[str] = []
    monkeypatch.setattr(train_plan, "note", notes.append)
    if size is not None:
        with (tmp_path / "t").open("wb") as file:
            file.truncate(size)
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('output = "o"\ntrain_records = "t"\nnum_epochs = 3\n')
    assert json.loads(run(str(recipe), "--json"))["assumed"]["num_steps"] == 1000
    assert len(notes) == 1
    assert why in notes[0]
    assert "that of 1,000 steps" in notes[0]
