"""``mixtral train``: a training run from a recipe, shown while it goes and stopped at any time."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from mixtral.cli.console import note, print_json, spinner, stderr_console, stdout_console
from mixtral.cli.fields import read_fields
from mixtral.errors import ConfigError

if TYPE_CHECKING:
    from mixtral.train import StepMetrics, Trainer, TrainRecipe


def _epilog(command: str) -> str:
    """Return an example and every field of a recipe with its default and its meaning."""
    lines = [f"Example:\n  mixtral train {command} recipes/nano/{command}.toml\n", "Recipe fields:"]
    for name, field in read_fields("train/recipe.py", "TrainRecipe").items():
        default = "required" if field.default is None else field.default
        lines.append(f"  [bold]{name}[/] ({escape(default)}): {escape(field.doc)}")
    return "\n".join(lines)


app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    help="Train a model as a recipe says.",
    epilog=_epilog("pretrain"),
)

_Recipe = Annotated[Path, typer.Argument(metavar="RECIPE.toml", help="TOML file, fields below.")]
_Json = Annotated[bool, typer.Option("--json", help="Print one JSON object at the end.")]


@app.command(epilog=_epilog("pretrain"))
def pretrain(recipe: _Recipe, as_json: _Json = False) -> None:
    """Learn to predict the next token of a text, from random weights or a checkpoint.

    A run that was stopped goes on from its last checkpoint when started again.
    """
    loaded = _read(recipe)
    if loaded.train_mask:
        note("train_mask is set: the loss counts masked tokens only, as in sft.")
    _train(loaded, as_json=as_json)


@app.command(epilog=_epilog("sft"))
def sft(recipe: _Recipe, as_json: _Json = False) -> None:
    """Learn to answer: the loss counts the tokens that train_mask marks.

    A run that was stopped goes on from its last checkpoint when started again.
    """
    loaded = _read(recipe)
    if not loaded.train_mask:
        raise ConfigError(
            f"{recipe} lacks train_mask; sft learns from the tokens that it marks. "
            "Name a mask file, or use mixtral train pretrain."
        )
    _train(loaded, as_json=as_json)


def _read(path: Path) -> "TrainRecipe":
    with spinner("starting"):
        from mixtral.train import TrainRecipe
    return TrainRecipe.from_toml(path)


def _train(recipe: "TrainRecipe", *, as_json: bool) -> None:
    from mixtral.train import Trainer

    with spinner("preparing"):
        trainer = Trainer(recipe)
    first = trainer.next_step
    if first:
        note(f"going on from the checkpoint at step {first} of {recipe.max_steps}.")
    begin = time.perf_counter()
    last: StepMetrics | None = None
    try:
        with _display(recipe, first) as show:
            for last in trainer.run():
                show(last)
    except KeyboardInterrupt:
        _explain_resume(trainer, first)
        raise
    plot = _plot(trainer)
    if as_json:
        print_json(_summary(recipe, last, plot, seconds=time.perf_counter() - begin))
    else:
        model = Path(recipe.output) / "model"
        line = f"wrote {model}" + (f" and {plot}" if plot else "")
        stdout_console().print(line, markup=False, soft_wrap=True)


@contextmanager
def _display(recipe: "TrainRecipe", first: int) -> "Iterator[Callable[[StepMetrics], None]]":
    """Give a function that shows a step: a live line in a terminal, else a line now and then."""
    console = stderr_console()
    if not console.is_terminal:
        yield lambda metrics: _print_step(metrics, recipe)
        return
    columns = (
        MofNCompleteColumn(),
        BarColumn(bar_width=20),
        TextColumn("{task.description}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("first step", total=recipe.max_steps, completed=first)
        valid_loss = math.nan

        def show(metrics: "StepMetrics") -> None:
            nonlocal valid_loss
            if metrics.valid_loss is not None:
                valid_loss = metrics.valid_loss
            held_out = "" if math.isnan(valid_loss) else f", held out {valid_loss:.3f}"
            speed = f"{metrics.tokens_per_s:,.0f} tokens/s"
            text = f"loss {metrics.loss:.3f}{held_out}, {speed}"
            progress.update(task, completed=metrics.step + 1, description=text)

        yield show


def _print_step(metrics: "StepMetrics", recipe: "TrainRecipe") -> None:
    is_last = metrics.step + 1 == recipe.max_steps
    if metrics.step % recipe.log_every and metrics.valid_loss is None and not is_last:
        return
    held_out = "" if metrics.valid_loss is None else f", held out {metrics.valid_loss:.3f}"
    left = (recipe.max_steps - metrics.step - 1) * recipe.tokens_per_step / metrics.tokens_per_s
    stderr_console().print(
        f"step {metrics.step + 1}/{recipe.max_steps}: loss {metrics.loss:.3f}{held_out}, "
        f"{metrics.tokens_per_s:,.0f} tokens/s, {left / 60:.1f} min left",
        soft_wrap=True,
    )


def _explain_resume(trainer: "Trainer", first: int) -> None:
    every = trainer.recipe.checkpoint_every
    saved = max(first, trainer.next_step // every * every)
    if trainer.folder.state_path.exists():
        note(
            f"stopped after step {trainer.next_step}; the same command goes on from the "
            f"checkpoint at step {saved} in {trainer.folder.path}."
        )
    else:
        note(f"stopped after step {trainer.next_step}, before the first checkpoint (step {every}).")


def _plot(trainer: "Trainer") -> Path | None:
    try:
        from mixtral.train.plot import plot_log
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != "matplotlib":
            raise
        note("loss.png was not drawn, matplotlib is missing: pip install 'mixtral[train]'.")
        return None
    path = trainer.folder.path / "loss.png"
    plot_log(trainer.folder.log_path, path)
    return path


def _summary(
    recipe: "TrainRecipe", last: "StepMetrics | None", plot: Path | None, *, seconds: float
) -> dict[str, Any]:
    return {
        "output": recipe.output,
        "model": str(Path(recipe.output) / "model"),
        "plot": None if plot is None else str(plot),
        "steps": recipe.max_steps,
        "loss": None if last is None else last.loss,
        "valid_loss": None if last is None else last.valid_loss,
        "seconds": round(seconds, 3),
    }
