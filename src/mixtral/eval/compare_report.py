"""A comparison of runs as tables, with the table of the guides beside it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mixtral.eval.compare import Comparison, Difference
from mixtral.eval.compare_picture import quality_picture
from mixtral.eval.compare_runs import Run, Score
from mixtral.eval.guide_table import ReferenceModel, read_guide_table
from mixtral.reports.provenance import hash_files
from mixtral.reports.report import Block, Heading, Report, Table, new_head

_NONE = "-"
_SIZES = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "K"))
_BYTES = ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"))


def comparison_report(comparison: Comparison, files: Sequence[Path]) -> Report:
    """Return the report of a comparison.

    Args:
        comparison: What was found.
        files: The results.json of the runs, whose hashes are noted.
    """
    table = read_guide_table()
    picture = quality_picture(comparison.runs, table)
    return Report(
        head=new_head("comparison", {"results_sha256": hash_files(files)}),
        title="Runs side by side: " + ", ".join(run.name for run in comparison.runs),
        results=comparison.as_dict(),
        blocks=comparison_blocks(comparison, table),
        pictures=[] if picture is None else [picture],
    )


def comparison_blocks(comparison: Comparison, table: Sequence[ReferenceModel]) -> list[Block]:
    """Return what the runs cost, what they reached, what differs, and the guides' table."""
    blocks: list[Block] = [Heading("Runs"), _cost_table(comparison.runs)]
    blocks += [Heading("Results"), _score_table(comparison)]
    blocks.append(
        "Shares and perplexities with their standard errors; at chance: the 95 % interval holds "
        "what guessing gets; -: not measured, or not recorded."
    )
    if len(comparison.runs) > 1:
        blocks += [Heading(f"Against {comparison.runs[0].name}"), *_differences(comparison)]
    if any(task in table[0].percent for task in comparison.tasks):
        blocks += [Heading("Reference"), _reference_table(comparison, table), _REFERENCE]
    return blocks


_REFERENCE = (
    "From the guides (table 2 of arXiv:2401.04088): base models, with prompts that were never "
    "published. The picture has the same numbers over active parameters; models of one size stand "
    "side by side, and bars are 95 % intervals."
)


def _cost_table(runs: Sequence[Run]) -> Table:
    return Table(
        caption="What the runs measured, and what their models cost",
        head=(
            "run",
            "measured",
            "model",
            "format",
            "parameters",
            "active",
            "weights",
            "bits per weight",
            "prefill (tokens/s)",
            "decode (tokens/s)",
            "memory then (GB/s)",
        ),
        rows=[_cost_row(run) for run in runs],
        text_columns=(0, 1, 2, 3),
    )


def _cost_row(run: Run) -> tuple[str, ...]:
    return (
        run.name,
        run.kind,
        run.model,
        str(run.weights.get("format", _NONE)),
        _large(run.weights, "parameters", _SIZES),
        _large(run.weights, "active_parameters", _SIZES),
        _large(run.weights, "weight_bytes", _BYTES),
        _number(run.weights, "bits_per_weight", ".2f"),
        _number(run.speed, "prefill_tokens_per_s", ",.0f"),
        _number(run.speed, "decode_tokens_per_s", ",.1f"),
        _number(run.speed, "read_gb_per_s", ",.1f"),
    )


def _score_table(comparison: Comparison) -> Table:
    rows = []
    for task in comparison.tasks:
        scores = [run.scores.get(task) for run in comparison.runs]
        counts = sorted({score.count for score in scores if score is not None})
        rows.append((task, " / ".join(f"{count:,}" for count in counts), *map(_score, scores)))
    return Table(
        caption="Results by task",
        head=("task", "questions or tokens", *(run.name for run in comparison.runs)),
        rows=rows,
    )


def _score(score: Score | None) -> str:
    if score is None:
        return _NONE
    error = "" if score.error is None else f" \u00b1 {_scaled(score, score.error)}"
    unit = " %" if score.measure == "share" else ""
    verdict = f" ({score.verdict})" if score.verdict else ""
    return f"{_scaled(score, score.value)}{error}{unit}{verdict}"


def _scaled(score: Score, value: float) -> str:
    return f"{100 * value:.1f}" if score.measure == "share" else f"{value:.3f}"


def _differences(comparison: Comparison) -> list[Block]:
    first, *others = comparison.runs
    rows = [
        (task, *(_change(comparison.difference(task, run), first.scores[task]) for run in others))
        for task in first.scores
        if any(comparison.difference(task, run) for run in others)
    ]
    blocks: list[Block] = []
    if rows:
        head = ("task", *(run.name for run in others))
        caption = f"Differences from {first.name}"
        places = tuple(range(len(head)))
        blocks.append(Table(caption=caption, head=head, rows=rows, text_columns=places))
        judged = sum(d.p_value is not None for d in comparison.differences)
        blocks.append(
            "Shares in points, perplexities in per cent; clear means p < 0.05; paired means "
            "question by question or document by document. Of "
            f"{judged} differences, {judged / 20:.1f} would look clear by chance alone."
        )
    else:
        blocks.append("No task was measured by two runs in the same way.")
    return [*blocks, *comparison.mismatches]


def _change(difference: Difference | None, score: Score) -> str:
    if difference is None:
        return _NONE
    factor, unit = {"share": (100, " points"), "perplexity": (100, " %"), "bias": (1, "")}[
        score.measure
    ]
    digits = 3 if score.measure == "bias" else 1 if score.measure == "share" else 2
    error = "" if difference.error is None else f" \u00b1 {factor * difference.error:.{digits}f}"
    paired = ", paired" if difference.is_paired else ""
    return f"{factor * difference.change:+.{digits}f}{error}{unit}: {difference.verdict}{paired}"


def _reference_table(comparison: Comparison, table: Sequence[ReferenceModel]) -> Table:
    tasks = [task for task in comparison.tasks if task in table[0].percent]
    return Table(
        caption="Benchmarks of the guides",
        head=("model", "active", *tasks),
        rows=[
            (
                model.name,
                _large({"active": model.active_parameters}, "active", _SIZES),
                *(f"{model.percent[task]:.1f} %" for task in tasks),
            )
            for model in table
        ],
    )


def _large(values: Mapping[str, Any], name: str, units: Sequence[tuple[float, str]]) -> str:
    value = values.get(name)
    if value is None:
        return _NONE
    for size, unit in units:
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return str(value)


def _number(values: Mapping[str, Any], name: str, form: str) -> str:
    value = values.get(name)
    return _NONE if value is None else format(value, form)
