"""``mixtral train``: a training run from a recipe, shown while it goes and stopped at any time."""

import dataclasses
import logging
import math
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from mixtral.cli import train_plan, train_show
from mixtral.cli.console import note, print_json, spinner, stderr_console, stdout_console
from mixtral.cli.fields import FieldDoc, read_fields
from mixtral.errors import ConfigError, Error

if TYPE_CHECKING:
    from mixtral.train import StepMetrics, Trainer, TrainRecipe
    from mixtral.train.objectives import Stage
    from mixtral.train.parallel import ParallelContext


# torchrun looks for failed processes every 0.1 s and ends the others.
_PATIENCE_S = 5.0

_TABLES = {
    "lora": ("train/lora_settings.py", "LoraSettings"),
    "dpo": ("train/dpo_settings.py", "DpoSettings"),
    "parallel": ("train/parallel_settings.py", "ParallelSettings"),
}


def _epilog(command: str) -> str:
    """Return an example and every field of a recipe with its default and its meaning."""
    lines = [
        f"Example:\n  mixtral train {command} recipes/nano/{command}.toml\n",
        "Recipe fields (paths are relative to the file):",
    ]
    fields = read_fields("train/recipe.py", "TrainRecipe")
    lines += _describe({name: field for name, field in fields.items() if name not in _TABLES})
    for name, (source, class_name) in _TABLES.items():
        lines.append(f"\n{escape(fields[name].doc)}")
        lines += _describe(read_fields(source, class_name))
    return "\n".join(lines)


def _describe(fields: dict[str, FieldDoc]) -> list[str]:
    """Return a line for each field: name, default, meaning."""
    lines = []
    for name, field in fields.items():
        default = "required" if field.default is None else field.default
        if default.startswith("field("):
            default = "{}"
        lines.append(f"  [bold]{name}[/] ({escape(default)}): {escape(field.doc)}")
    return lines


app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    help="Train a model as a recipe says.",
    epilog=_epilog("pretrain"),
)

_Recipe = Annotated[Path, typer.Argument(metavar="RECIPE.toml", help="TOML file, fields below.")]
_Json = Annotated[bool, typer.Option("--json", help="Print one JSON object at the end.")]
_Experts = Annotated[
    str | None,
    typer.Option(
        metavar="all|busiest:N|0,3",
        help="Adapt these experts of each layer, instead of lora.experts of the recipe.",
    ),
]
_ExpertLoads = Annotated[
    str | None,
    typer.Option(
        metavar="REPORT.json",
        help="Routing report that says which are busiest, instead of lora.expert_loads.",
    ),
]


@app.command(epilog=_epilog("pretrain"))
def pretrain(recipe: _Recipe, as_json: _Json = False) -> None:
    """Learn to predict the next token of a text, from random weights or a checkpoint.

    A run that was stopped goes on where it stopped when started again.
    """
    _train(recipe, "pretrain", as_json=as_json)


@app.command(epilog=_epilog("sft"))
def sft(
    recipe: _Recipe,
    experts: _Experts = None,
    expert_loads: _ExpertLoads = None,
    as_json: _Json = False,
) -> None:
    """Learn to answer: the loss counts what the assistant says in conversations.

    A run that was stopped goes on where it stopped when started again.
    """
    _train(recipe, "sft", as_json=as_json, experts=experts, expert_loads=expert_loads)


@app.command(epilog=_epilog("dpo"))
def dpo(
    recipe: _Recipe,
    experts: _Experts = None,
    expert_loads: _ExpertLoads = None,
    as_json: _Json = False,
) -> None:
    """Learn to prefer one answer to another, staying close to the model that it starts from.

    A run that was stopped goes on where it stopped when started again.
    """
    _train(recipe, "dpo", as_json=as_json, experts=experts, expert_loads=expert_loads)


app.command(epilog=train_plan.EPILOG)(train_plan.plan)
app.command(epilog=train_show.EPILOG)(train_show.show)


def _read(path: Path) -> "TrainRecipe":
    with spinner("starting"):
        from mixtral.train import read_recipe
    return read_recipe(path)


def _choose_experts(
    recipe: "TrainRecipe", experts: str | None, expert_loads: str | None
) -> "TrainRecipe":
    """Return the recipe with another choice of experts, where one is given.

    Raises:
        ConfigError: The recipe has no table ``[lora]``, or the choice is wrong.
    """
    if experts is None and expert_loads is None:
        return recipe
    if recipe.lora is None:
        option = "--expert-loads" if experts is None else "--experts"
        raise ConfigError(
            f"{option} is {expert_loads if experts is None else experts}, and the recipe has no "
            "table [lora] to choose experts for. Add the table, or leave the option out."
        )
    if experts is None:
        experts = recipe.lora.experts
    if expert_loads is None:
        # A report of the recipe belongs to its own choice; only busiest has a use for it.
        expert_loads = recipe.lora.expert_loads if experts.startswith("busiest") else ""
    lora = dataclasses.replace(recipe.lora, experts=experts, expert_loads=expert_loads)
    return dataclasses.replace(recipe, lora=lora)


def _train(
    path: Path,
    stage: "Stage",
    *,
    as_json: bool,
    experts: str | None = None,
    expert_loads: str | None = None,
) -> None:
    with _told_once():
        recipe = _choose_experts(_read(path), experts, expert_loads)
        from mixtral.loading import torch_device
        from mixtral.train.parallel import ParallelContext

        device = torch_device(recipe.device).type
        with ParallelContext.from_environment(recipe.parallel, device) as context:
            if stage == "pretrain" and recipe.train_mask and context.is_main:
                note("train_mask is set: the loss counts masked tokens only, as in sft.")
            _run(recipe, stage, context, as_json=as_json)


@contextmanager
def _told_once() -> Iterator[None]:
    """Leave it to the first process of a machine to tell of what all of them meet.

    The others wait with an error until torchrun ends them; one that is not ended met something of
    its own, and tells of it.
    """
    if os.environ.get("LOCAL_RANK", "0") == "0":
        yield
        return
    ours = logging.getLogger("mixtral")
    level = ours.level
    ours.setLevel(logging.ERROR)
    try:
        yield
    except Error:
        time.sleep(_PATIENCE_S)
        raise
    finally:
        ours.setLevel(level)


def _run(
    recipe: "TrainRecipe", stage: "Stage", context: "ParallelContext", *, as_json: bool
) -> None:
    """Train, and tell of it in the main process alone."""
    from mixtral.train import Trainer

    with _preparing(is_shown=context.is_main) as tell:
        trainer = Trainer(recipe, stage, on_progress=tell, context=context)
    if trainer.next_step and context.is_main:
        note(f"going on from the checkpoint at step {trainer.next_step} of {trainer.max_steps}.")
    begin = time.perf_counter()
    last: StepMetrics | None = None
    try:
        with _display(trainer) as show, _stop_after_step() as stop:
            steps = trainer.run()
            for last in steps:
                if context.is_main:
                    show(last)
                if context.any_true(stop()):
                    trainer.save()
                    trainer.wait()
                    steps.close()
                    raise KeyboardInterrupt
    except KeyboardInterrupt:
        if context.is_main:
            _explain_resume(trainer)
        raise
    if not context.is_main:
        return
    plots = _plot(trainer)
    if as_json:
        print_json(_summary(trainer, last, plots, seconds=time.perf_counter() - begin))
    else:
        written = " and ".join(str(path) for path in (trainer.result, *plots))
        stdout_console().print(f"wrote {written}", markup=False, soft_wrap=True)


@contextmanager
def _preparing(*, is_shown: bool) -> Iterator[Callable[[str, int, int], None]]:
    """Give a function that shows how far a preparation is, in a terminal."""
    console = stderr_console()
    if not (is_shown and console.is_terminal):
        yield lambda what, done, total: None
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("preparing", total=None)
        yield lambda what, done, total: progress.update(
            task, description=f"{what}: {done:,} of {total:,}"
        )


@contextmanager
def _stop_after_step() -> "Iterator[Callable[[], bool]]":
    """Let the first Ctrl-C end the step under way, so that its state can be kept.

    Gives a function that says whether that was asked for. A second Ctrl-C stops at once.
    """
    asked = False

    def ask(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        asked = True
        signal.signal(signal.SIGINT, signal.default_int_handler)
        note("stopping after this step; Ctrl-C again stops at once.")

    try:
        before = signal.signal(signal.SIGINT, ask)
    except ValueError:  # not the main thread, which alone may do this
        yield lambda: False
        return
    try:
        yield lambda: asked
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def _display(trainer: "Trainer") -> "Iterator[Callable[[StepMetrics], None]]":
    """Give a function that shows a step: a live line in a terminal, else a line now and then."""
    console = stderr_console()
    if not (console.is_terminal and trainer.context.is_main):
        yield lambda metrics: _print_step(metrics, trainer)
        return
    columns = (
        MofNCompleteColumn(),
        BarColumn(bar_width=20),
        TextColumn("{task.description}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("first step", total=trainer.max_steps, completed=trainer.next_step)
        valid_loss = math.nan

        def show(metrics: "StepMetrics") -> None:
            nonlocal valid_loss
            if metrics.valid_loss is not None:
                valid_loss = metrics.valid_loss
            held_out = "" if math.isnan(valid_loss) else f", held out {valid_loss:.3f}"
            text = f"{_losses(metrics)}{held_out}, {_speed(metrics)}"
            progress.update(task, completed=metrics.step + 1, description=text)

        yield show


def _print_step(metrics: "StepMetrics", trainer: "Trainer") -> None:
    is_last = metrics.step + 1 == trainer.max_steps
    if metrics.step % trainer.recipe.log_every and metrics.valid is None and not is_last:
        return
    held_out = "" if metrics.valid_loss is None else f", held out {metrics.valid_loss:.3f}"
    left = (trainer.max_steps - metrics.step - 1) * metrics.seconds
    stderr_console().print(
        f"step {metrics.step + 1}/{trainer.max_steps}: {_losses(metrics)}{held_out}, "
        f"{_speed(metrics)}, {left / 60:.1f} min left",
        soft_wrap=True,
    )


def _losses(metrics: "StepMetrics") -> str:
    accuracy = metrics.extra.get("reward_accuracy")
    more = "" if accuracy is None else f", preferred {accuracy:.0%}"
    return f"loss {metrics.loss:.3f}{more}"


def _speed(metrics: "StepMetrics") -> str:
    return f"{metrics.tokens_per_s:,.0f} tokens/s ({metrics.flops_use:.0%} of the arithmetic)"


def _explain_resume(trainer: "Trainer") -> None:
    trainer.folder.close()
    state = trainer.saved_step
    if state is None:
        note(f"stopped after step {trainer.next_step}, before the first checkpoint.")
    else:
        note(
            f"stopped after step {trainer.next_step}; the same command goes on from the "
            f"checkpoint at step {state} in {trainer.folder.path}."
        )


def _plot(trainer: "Trainer") -> list[Path]:
    try:
        from mixtral.train.plot import plot_run
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != "matplotlib":
            raise
        note("no curves were drawn, matplotlib is missing: pip install 'mixtral[train]'.")
        return []
    try:
        return plot_run(trainer.folder.log_path)
    except OSError as error:  # The model is there, which is what counts.
        note(f"no curves were drawn: {error.strerror or error}.")
        return []


def _summary(
    trainer: "Trainer", last: "StepMetrics | None", plots: list[Path], *, seconds: float
) -> dict[str, Any]:
    return {
        "output": str(trainer.folder.path),
        "model": str(trainer.result),
        "plots": [str(path) for path in plots],
        "steps": trainer.max_steps,
        "loss": None if last is None else last.loss,
        "valid_loss": None if last is None else last.valid_loss,
        "seconds": round(seconds, 3),
    }
