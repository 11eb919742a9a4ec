"""``mixtral eval``: what a model can do: benchmarks by name, or the held-out cases of nano's card.

The table goes to standard output; ``--json`` and ``--out`` write files. What is no command of this
group is a list of benchmarks, so that ``mixtral eval mmlu,hellaswag`` is enough.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from typer.core import TyperGroup

from mixtral.cli.console import note, spinner, stderr_console, write_file
from mixtral.cli.eval_benchmarks import EXAMPLES, benchmarks
from mixtral.cli.options import DeviceOption, DTypeOption, ModelOption, grouped_options
from mixtral.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

    from mixtral.eval.report import CardReport
    from mixtral.llm import LLM

_BENCHMARKS = "benchmarks"


class _TasksOrCommand(TyperGroup):
    """A group that takes what is no command for the names of benchmarks."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the command."""
        named = args and (args[0] in self.commands or args[0].startswith("-"))
        return super().resolve_command(ctx, args if named else [_BENCHMARKS, *args])


app = typer.Typer(
    cls=_TasksOrCommand,
    help="Measure what a model can do, on held-out cases.",
    epilog="Example:\n  mixtral eval mmlu,hellaswag --model nano --limit 100",
    no_args_is_help=True,
    add_completion=False,
)


app.command(_BENCHMARKS, epilog=EXAMPLES)(grouped_options(benchmarks))


@app.callback()
def _root() -> None:
    """Measure what a model can do, on held-out cases."""


@app.command(
    "nano-card",
    epilog="Example:\n  mixtral eval nano-card --model nano --out card",
)
def nano_card(
    model: ModelOption = "nano",
    dtype: DTypeOption = None,
    device: DeviceOption = "auto",
    limit: Annotated[
        int | None, typer.Option("--limit", help="Cases of each row; without it, all.")
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write numbers and answers here.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", metavar="FOLDER", help="Write card.json, card.md and the pictures here."
        ),
    ] = None,
) -> None:
    """Answer the held-out cases of nano's card, and count the right answers.

    Greedy answers, strict checks, 95 % intervals, goals beside the numbers; preference accuracy
    on held-out pairs; perplexity by length of context.
    """
    if limit is not None and limit < 1:
        raise ConfigError(f"limit is {limit}; it must be at least 1, or absent for all cases.")
    # Before the minutes of work, not after them.
    if json_file is not None and not json_file.absolute().parent.is_dir():
        raise ConfigError(f"{json_file.parent} is no folder; make it, or name another file.")
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
    with spinner("starting"):
        from mixtral.llm import LLM

        llm = LLM(model, dtype=dtype, device=device)
    report = _measure(llm, model, limit)
    text = json.dumps(report.as_dict(), indent=1, ensure_ascii=False) + "\n"
    if json_file is not None:
        write_file(json_file, text)
    if out is not None:
        write_file(out / "card.json", text)
        write_file(out / "card.md", report.table())
        _draw(report, out)
    typer.echo(report.table(), nl=False)


def _measure(llm: "LLM", model: str, limit: int | None) -> "CardReport":
    from mixtral.eval.answering import measure
    from mixtral.eval.cases import read_cases, read_pairs
    from mixtral.eval.context_perplexity import measure_contexts
    from mixtral.eval.preference_accuracy import measure_preferences
    from mixtral.eval.report import CardReport

    with _bar("answering") as show:
        rows, answers = measure(llm, read_cases(limit), show)
    with spinner("comparing preferences"):
        preferences = measure_preferences(llm, read_pairs(limit))
    with _bar("reading novels") as show:
        num_windows = 40 if limit is None else min(limit, 40)
        perplexities = measure_contexts(llm, num_windows=num_windows, progress=show)
    return CardReport(
        model=model,
        rows=rows,
        answers=answers,
        preferences=preferences,
        perplexities=perplexities,
    )


@contextmanager
def _bar(text: str) -> "Iterator[Callable[[int, int], None]]":
    console = stderr_console()
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    if not console.is_terminal:
        yield lambda done, total: None
        return
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(text, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


def _draw(report: "CardReport", out: Path) -> None:
    from mixtral.eval.report import plot_perplexities, plot_rows

    try:
        plot_rows(report.rows, out / "card.png")
        plot_perplexities(report.perplexities, out / "perplexity.png")
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != "matplotlib":
            raise
        note("no pictures were drawn, matplotlib is missing: pip install 'mixtral[train]'.")
