"""``mixtral train``: a run of three steps, stopped and resumed."""

import json
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mixtral.checkpoint import open_checkpoint
from mixtral.checkpoint.peft import read_adapter
from mixtral.model_source import read_config
from mixtral.train import Trainer, TrainRecipe
from mixtral.train.recipe import TABLES
from tests.cli.conftest import Run


@pytest.fixture
def recipe(tmp_path: Path, tiny: Path) -> Path:
    tokens = (np.arange(400) % 300 + 3).astype(np.uint16)
    np.save(tmp_path / "tokens.npy", tokens)
    np.save(tmp_path / "mask.npy", np.ones(400, np.uint8))
    return write_recipe(tmp_path / "recipe.toml", init_from=str(tiny))


def write_recipe(path: Path, **changes: object) -> Path:
    values: dict[str, object] = {
        "output": "run",
        "train_tokens": "tokens.npy",
        "valid_tokens": "tokens.npy",
        "max_steps": 3,
        "tokens_per_step": 32,
        "max_seq_len": 16,
        "eval_every": 2,
        "eval_steps": 1,
        "log_every": 1,
        "checkpoint_every": 1,
        "dtype": "float32",
        "warmup_steps": 1,
    }
    lines = (f"{name} = {json.dumps(value)}\n" for name, value in (values | changes).items())
    path.write_text("".join(lines))
    return path


def test_run_writes_model_log_and_picture(run: Run, recipe: Path) -> None:
    result = run("train", "pretrain", recipe)
    folder = recipe.parent / "run"
    assert result.exit_code == 0, result.stderr
    assert result.stdout == (
        f"wrote {folder / 'model'} and {folder / 'loss.png'} and {folder / 'router.png'}\n"
    )
    lines = result.stderr.splitlines()
    assert [line.split(":")[0] for line in lines] == ["step 1/3", "step 2/3", "step 3/3"]
    assert "held out" in lines[1]
    assert (folder / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert open_checkpoint(folder / "model").config.num_hidden_layers == 1


def test_interrupted_run_goes_on_from_its_checkpoint(
    run: Run, recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Trainer.run

    def interrupted(self: Trainer) -> Iterator[Any]:
        steps = whole(self)
        yield next(steps)
        yield next(steps)
        raise KeyboardInterrupt

    monkeypatch.setattr(Trainer, "run", interrupted)
    first = run("train", "pretrain", recipe)
    assert first.exit_code == 130
    assert "goes on from the checkpoint at step 2" in first.stderr
    monkeypatch.setattr(Trainer, "run", whole)
    second = run("train", "pretrain", recipe, "--json")
    values = json.loads(second.stdout)
    assert "going on from the checkpoint at step 2 of 3" in second.stderr
    assert values["steps"] == 3
    assert values["loss"] > 0


def test_sft_needs_a_mask(run: Run, recipe: Path, tiny: Path) -> None:
    result = run("train", "sft", recipe)
    assert result.exit_code == 2
    assert "train_mask is empty" in result.stderr
    write_recipe(recipe, init_from=str(tiny), train_mask="mask.npy", max_steps=1)
    result = run("train", "sft", recipe)
    assert result.exit_code == 2
    assert "valid_mask is empty" in result.stderr
    masks = {"train_mask": "mask.npy", "valid_mask": "mask.npy"}
    write_recipe(recipe, init_from=str(tiny), max_steps=1, **masks)
    assert run("train", "sft", recipe).exit_code == 0


def test_missing_matplotlib_is_said_and_the_model_is_kept(
    run: Run, recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "mixtral.train.plot", raising=False)
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    result = run("train", "pretrain", recipe)
    assert result.exit_code == 0
    assert "pip install 'mixtral[train]'" in result.stderr
    assert (recipe.parent / "run" / "model").is_dir()


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("output = ", "cannot be read as TOML"),
        ('bogus = 1\noutput = "x"', "unknown field bogus"),
        ('output = "x"', "neither given"),
    ],
)
def test_wrong_recipe_is_one_line(run: Run, tmp_path: Path, text: str, part: str) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(text)
    result = run("train", "pretrain", recipe)
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1
    assert part in result.stderr


def test_missing_data_is_one_line(run: Run, recipe: Path, tiny: Path) -> None:
    write_recipe(recipe, init_from=str(tiny), train_tokens="nope.npy")
    result = run("train", "pretrain", recipe)
    assert result.exit_code == 2
    assert "nope.npy does not exist" in result.stderr


def test_help_lists_every_field_of_a_recipe(run: Run) -> None:
    for command in (["train"], ["train", "pretrain"], ["train", "sft"], ["train", "dpo"]):
        text = run(*command, "--help").stdout
        for owner in (TrainRecipe, *TABLES.values()):
            for name in owner.__dataclass_fields__:  # type: ignore[attr-defined]
                assert name in TABLES or f"{name} (" in text


def test_first_ctrl_c_keeps_the_step_under_way(
    run: Run, recipe: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_recipe(recipe, init_from=str(tiny), checkpoint_every=100)
    whole = Trainer.run

    def interrupted(self: Trainer) -> Iterator[Any]:
        for metrics in whole(self):
            if metrics.step == 1:
                signal.raise_signal(signal.SIGINT)
            yield metrics

    monkeypatch.setattr(Trainer, "run", interrupted)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        first = run("train", "pretrain", recipe)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
    assert first.exit_code == 130
    assert "stopping after this step" in first.stderr
    assert "goes on from the checkpoint at step 2" in first.stderr
    monkeypatch.setattr(Trainer, "run", whole)
    assert "going on from the checkpoint at step 2 of 3" in run("train", "pretrain", recipe).stderr


def test_no_place_for_pictures_is_said_and_the_model_is_kept(
    run: Run, recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("mixtral.train.plot.plot_run", full)
    result = run("train", "pretrain", recipe)
    assert result.exit_code == 0
    assert "no curves were drawn: No space left on device." in result.stderr
    assert result.stdout == f"wrote {recipe.parent / 'run' / 'model'}\n"


@pytest.mark.parametrize(("local_rank", "waits"), [("0", []), ("1", [5.0])])
def test_first_process_of_a_machine_tells_what_all_of_them_meet(
    run: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    local_rank: str,
    waits: list[float],
) -> None:
    waited: list[float] = []
    monkeypatch.setenv("LOCAL_RANK", local_rank)
    monkeypatch.setattr("mixtral.cli.train.time.sleep", waited.append)
    assert run("train", "sft", tmp_path / "none.toml").exit_code == 2
    assert waited == waits  # there torchrun would have ended it


def test_show_marks_what_is_learned(run: Run, tmp_path: Path) -> None:
    records = tmp_path / "talk.jsonl"
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    records.write_text(json.dumps({"messages": messages}) + "\n")
    shown = run("train", "show", records).stdout
    assert shown.splitlines()[1] == "<s>[INST] Hi[/INST]{ Hello</s>}"
    pieces = json.loads(run("train", "show", records, "--json").stdout)["pieces"]
    assert [piece["is_learned"] for piece in pieces] == [False, True]
    function = {"name": "add", "arguments": "{}"}
    both = {"content": "Sure.", "tool_calls": [{"id": "abcdefghi", "function": function}]}
    tool = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
    unwritable = {"messages": [messages[0], {"role": "assistant"} | both], "tools": [tool]}
    for record in ({}, unwritable):
        records.write_text(json.dumps({"messages": messages}) + "\n" + json.dumps(record) + "\n")
        result = run("train", "show", records, "--limit", "1")
        assert result.exit_code == 2
        assert "talk.jsonl:2" in result.stderr


def test_show_draws_what_is_learned_and_refuses_other_kinds_of_files(
    run: Run, tmp_path: Path
) -> None:
    pytest.importorskip("matplotlib", reason="pictures need the extra train")
    records = tmp_path / "talk.jsonl"
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    records.write_text(json.dumps({"messages": messages}) + "\n")
    picture = tmp_path / "learned.svg"
    result = run("train", "show", records, "--plot", picture)
    assert result.exit_code == 0
    assert picture.read_text().startswith("<?xml")
    for wrong, reason in (
        (tmp_path / "a.pdf", ".png or .svg"),
        (tmp_path / "no/a.png", "no folder"),
    ):
        result = run("train", "show", records, "--plot", wrong)
        assert result.exit_code == 2
        assert reason in result.stderr


def with_adapter(recipe: Path, tiny: Path, **lora: object) -> None:
    masks = {"train_mask": "mask.npy", "valid_mask": "mask.npy"}
    write_recipe(recipe, init_from=str(tiny), **masks)
    lines = (f"{name} = {json.dumps(value)}\n" for name, value in lora.items())
    recipe.write_text(recipe.read_text() + "[lora]\nrank = 2\n" + "".join(lines))


def adapted_experts(folder: Path, model: Path) -> set[int]:
    matrices = read_adapter(folder, read_config(model)).matrices
    names = [name for name in matrices if ".experts." in name]
    return {int(name.partition(".experts.")[2].partition(".")[0]) for name in names}


def test_experts_of_the_command_line_come_before_those_of_the_recipe(
    run: Run, recipe: Path, tiny: Path, tmp_path: Path
) -> None:
    loads = tmp_path / "loads.json"
    loads.write_text(json.dumps({"layers": [{"load": [0.1, 0.2, 0.6, 0.1]}]}))
    with_adapter(recipe, tiny, experts="0")
    busiest = ("--experts", "busiest:1", "--expert-loads", loads)
    result = run("train", "sft", recipe, *busiest)
    assert result.exit_code == 0, result.stderr
    assert adapted_experts(recipe.parent / "run" / "adapter", tiny) == {2}
    again = run("train", "sft", recipe, "--experts", "1")
    assert again.exit_code == 2
    assert "lora.experts was 'busiest:1' and is '1'" in again.stderr


def test_experts_by_number_leave_the_report_of_the_recipe_aside(
    run: Run, recipe: Path, tiny: Path
) -> None:
    with_adapter(recipe, tiny, experts="busiest:1", expert_loads="gone.json")
    assert run("train", "sft", recipe, "--experts", "1,3").exit_code == 0
    assert adapted_experts(recipe.parent / "run" / "adapter", tiny) == {1, 3}


@pytest.mark.parametrize(
    ("options", "part"),
    [
        (("--experts", "some"), "lora.experts is 'some'; it must be all, busiest:4"),
        (("--experts", "busiest:2"), "lora.expert_loads is empty"),
        (("--expert-loads", "loads.json"), "the report is for busiest only"),
    ],
)
def test_wrong_choice_of_experts_is_one_line(
    run: Run, recipe: Path, tiny: Path, options: tuple[str, str], part: str
) -> None:
    with_adapter(recipe, tiny)
    result = run("train", "sft", recipe, *options)
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1
    assert part in result.stderr


@pytest.mark.parametrize("stage", ["sft", "dpo"])
@pytest.mark.parametrize("option", ["--experts", "--expert-loads"])
def test_experts_without_an_adapter_are_refused(
    run: Run, recipe: Path, stage: str, option: str
) -> None:
    result = run("train", stage, recipe, option, "busiest:1")
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1
    assert f"{option} is busiest:1, and the recipe has no table [lora]" in result.stderr


def test_show_lists_every_bad_record_when_asked(run: Run, tmp_path: Path) -> None:
    records = tmp_path / "talk.jsonl"
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    records.write_text("{}\n" * 8 + json.dumps({"messages": messages}) + "\n")
    first = run("train", "show", records)
    assert "and 3 more (mixtral train show FILE --all-errors" in first.stderr
    result = run("train", "show", records, "--all-errors", "--max-seq-len", "2")
    assert result.exit_code == 2
    places = [line.split(": ")[0] for line in result.stdout.splitlines()]
    assert places == [f"{records}:{number}" for number in range(1, 10)]
    assert "and max_seq_len is 2" in result.stdout
    listed = run("train", "show", records, "--all-errors", "--json").stdout.splitlines()
    assert [json.loads(line)["place"] for line in listed] == places[:8]
