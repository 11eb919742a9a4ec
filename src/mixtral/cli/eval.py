"""``mixtral eval``: what a model can do: benchmarks by name, or the held-out cases of nano's card.

The table goes to standard output; ``--json`` and ``--out`` write files. What is no command of this
group is a list of benchmarks, so that ``mixtral eval mmlu,hellaswag`` is enough.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from mixtral.cli import eval_compare
from mixtral.cli.console import spinner
from mixtral.cli.eval_benchmarks import EXAMPLES, benchmarks
from mixtral.cli.measuring import (
    OutOption,
    check_out,
    describe,
    give_report,
    progress_bar,
    record_cost,
)
from mixtral.cli.options import (
    DeviceOption,
    DTypeOption,
    ModelOption,
    ModelOptions,
    grouped_options,
)
from mixtral.errors import ConfigError
from mixtral.whole_file import write_whole

if TYPE_CHECKING:
    from mixtral.eval.report import CardReport
    from mixtral.llm import LLM
    from mixtral.reports.report import Report

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
app.command("compare", epilog=eval_compare.EXAMPLES)(eval_compare.compare)


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
    out: OutOption = None,
) -> None:
    """Answer the held-out cases of nano's card, and count the right answers.

    Greedy answers, strict checks, 95 % intervals, goals beside the numbers; preference accuracy
    on held-out pairs; perplexity by length of context.
    """
    if limit is not None and limit < 1:
        raise ConfigError(f"limit is {limit}; it must be at least 1, or absent for all cases.")
    from mixtral.reports.folder import check_file, json_text

    # Before the minutes of work, not after them.
    if json_file is not None:
        check_file("--json", json_file)
    check_out(out, kind="nano-card")
    with spinner("starting"):
        from mixtral.llm import LLM

        llm = LLM(model, dtype=dtype, device=device)
    measured = _measure(llm, model, limit)
    cost = record_cost(llm, is_kept=json_file is not None or out is not None)
    described = describe(ModelOptions(model=model, dtype=dtype, device=device), adapter=None)
    report = _report(measured, {"model": described, "limit": limit}, cost)
    try:
        if json_file is not None:
            write_whole(json_file, json_text(report.as_dict()))
    finally:
        give_report(report, out=out, as_json=False)


def _measure(llm: "LLM", model: str, limit: int | None) -> "CardReport":
    from mixtral.eval.answering import measure
    from mixtral.eval.cases import read_cases, read_pairs
    from mixtral.eval.context_perplexity import measure_contexts
    from mixtral.eval.preference_accuracy import measure_preferences
    from mixtral.eval.report import CardReport

    with progress_bar("answering") as show:
        rows, answers = measure(llm, read_cases(limit), show)
    with spinner("comparing preferences"):
        preferences = measure_preferences(llm, read_pairs(limit))
    with progress_bar("reading novels") as show:
        num_windows = 40 if limit is None else min(limit, 40)
        perplexities = measure_contexts(llm, num_windows=num_windows, progress=show)
    return CardReport(
        model=model,
        rows=rows,
        answers=answers,
        preferences=preferences,
        perplexities=perplexities,
    )


def _report(measured: "CardReport", settings: dict[str, Any], cost: dict[str, Any]) -> "Report":
    from mixtral.eval.cases import hash_cases
    from mixtral.reports.report import Report, new_head

    return Report(
        head=new_head("nano-card", {**settings, "cases_sha256": hash_cases()}),
        title=f"Card of {measured.model}",
        results={**cost, **measured.as_dict()},
        blocks=measured.blocks(),
        pictures=measured.pictures(),
    )
