"""``mixtral eval compare A B C``: earlier runs side by side, against the table of the guides."""

from pathlib import Path
from typing import Annotated

import typer

from mixtral.cli.measuring import JsonOption, OutOption, check_out, give_report

EXAMPLES = """Examples:
  mixtral eval compare results results-int4 --out comparison
  mixtral eval compare card-before card-after --json"""


def compare(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUNS...",
            help="Folders that mixtral eval, passkey or perplexity wrote, or their results.json; "
            "the first is what the others are compared with.",
        ),
    ],
    out: OutOption = None,
    as_json: JsonOption = False,
) -> None:
    """Put runs side by side: quality with standard errors, parameters, bytes and speed.

    Says which differences are beyond chance, and draws quality over active parameters.
    """
    from mixtral.eval.compare import compare_runs
    from mixtral.eval.compare_report import comparison_report
    from mixtral.eval.compare_runs import read_runs, results_file

    found = read_runs(runs)
    check_out(out, kind="comparison")
    comparison = compare_runs(found)
    report = comparison_report(comparison, [results_file(run) for run in runs])
    give_report(report, out=out, as_json=as_json)
