"""Benchmarks as JSON values, as tables and as a picture."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mixtral.eval.bbq import BiasCounts, BiasResult
from mixtral.eval.benchmark_run import BenchmarkResult
from mixtral.eval.chance import chance_verdict
from mixtral.pictures import BLUE, VERMILION
from mixtral.reports.markdown import markdown
from mixtral.reports.report import Block, Picture, Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_GREY = "#999999"


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchmarkReport:
    """Everything that one run measured."""

    settings: Mapping[str, Any]
    """How it was asked, JSON values: preset, seed, model, hashes of the data."""
    results: Sequence[BenchmarkResult]
    """One per benchmark."""
    bias: Sequence[BiasResult] = ()
    """BBQ by category, all together last; empty where it was not asked."""

    def as_dict(self) -> dict[str, Any]:
        """Return the numbers as JSON values by name."""
        return {
            "benchmarks": [result.as_dict() for result in self.results],
            "bbq": [result.as_dict() for result in self.bias],
        }

    def blocks(self) -> list[Block]:
        """Return tables and sentences; a result at chance is called so."""
        blocks: list[Block] = []
        if self.results:
            blocks.append(_results_table(self.results))
        blocks += [_cut_line(result) for result in self.results if result.num_cut]
        if self.bias:
            blocks += [_bias_table(self.bias), _BIAS_EXPLAINED]
        return blocks

    def table(self) -> str:
        """Return the blocks as Markdown."""
        return markdown(self.blocks())


def shares_picture(report: BenchmarkReport, *, title: str) -> Picture:
    """Return the share of right answers of each benchmark beside guessing and the paper.

    Args:
        report: What was measured; with at least one benchmark.
        title: Model and format.
    """
    shares = ", ".join(f"{row.name} {100 * row.share:.0f} %" for row in report.results)
    return Picture(
        name="benchmarks",
        alt=f"Right answers of {title} by benchmark: {shares}.",
        draw=lambda figure: _draw_shares(figure, report.results, title),
        width=8,
        height=1.6 + 0.36 * len(report.results),
    )


def _draw_shares(figure: "Figure", results: Sequence[BenchmarkResult], title: str) -> None:
    axes = figure.add_subplot()
    rows = list(reversed(results))
    for place, row in enumerate(rows):
        low, high = row.interval
        axes.barh(place, 100 * row.share, height=0.6, color=_GREY if row.is_at_chance else BLUE)
        axes.plot([100 * low, 100 * high], [place, place], color="black", linewidth=1)
        if row.guess is not None:
            mark = [100 * row.guess] * 2
            axes.plot(mark, [place - 0.4, place + 0.4], color="black", linestyle=":")
        if row.paper is not None:
            axes.plot(row.paper, place, color=VERMILION, marker="D", markersize=5)
    axes.set_yticks(range(len(rows)), [f"{row.name}, {row.shots}-shot" for row in rows])
    axes.set_xlim(0, 100)
    axes.set_xlabel(
        "right answers (%) with 95 % interval; grey: at chance; dotted: guessing;\n"
        "diamond: Mixtral 8x7B in the paper"
    )
    axes.set_title(title)
    axes.spines[["top", "right"]].set_visible(False)


def _results_table(results: Sequence[BenchmarkResult]) -> Table:
    return Table(
        caption="Right answers by benchmark",
        head=(
            "benchmark",
            "shots",
            "metric",
            "questions",
            "right",
            "95 % interval",
            "guessing",
            "Mixtral 8x7B, paper",
            "",
        ),
        rows=[_row(result) for result in results],
        text_columns=(0, 2, 8),
    )


def _row(result: BenchmarkResult) -> tuple[str, ...]:
    return (
        result.name,
        str(result.shots),
        result.metric,
        f"{result.asked:,}",
        f"{100 * result.share:.1f} %",
        _interval(result.interval),
        "" if result.guess is None else f"{100 * result.guess:.1f} %",
        "" if result.paper is None else f"{result.paper:.1f} %",
        chance_verdict(result.interval, result.guess),
    )


def _cut_line(result: BenchmarkResult) -> str:
    return (
        f"{result.name}: {result.num_cut:,} questions were longer than the context of the model; "
        "their beginning was left out."
    )


_BIAS_EXPLAINED = (
    "Bias from -1 (against the stereotype) over 0 to 1 (with it), with its 95 % interval; where "
    "that holds 0, no bias was found. Guessing gets 33.3 % right."
)


def _bias_table(bias: Sequence[BiasResult]) -> Table:
    return Table(
        caption="BBQ by category",
        head=(
            "BBQ",
            "ambiguous: right",
            "95 % interval",
            "bias",
            "disambiguated: right",
            "95 % interval",
            "bias",
            "",
        ),
        rows=[_bias_row(result) for result in bias],
        text_columns=(0, 7),
    )


def _bias_row(result: BiasResult) -> tuple[str, ...]:
    verdict = {
        (True, True): "at chance",
        (True, False): "ambiguous at chance",
        (False, True): "disambiguated at chance",
        (False, False): "",
    }[result.ambiguous.is_at_chance, result.disambiguated.is_at_chance]
    return (
        result.category,
        *_accuracy(result.ambiguous),
        _score(result.ambiguous_bias, result.ambiguous_bias_interval),
        *_accuracy(result.disambiguated),
        _score(result.disambiguated_bias, result.disambiguated_bias_interval),
        verdict,
    )


def _accuracy(counts: BiasCounts) -> tuple[str, str]:
    share = "-" if counts.accuracy is None else f"{100 * counts.accuracy:.1f} %"
    return share, _interval(counts.interval)


def _score(score: float | None, interval: tuple[float, float] | None) -> str:
    if score is None:
        return "-"
    if interval is None:
        return f"{score:+.3f}"
    return f"{score:+.3f} ({interval[0]:+.2f} to {interval[1]:+.2f})"


def _interval(bounds: tuple[float, float] | None) -> str:
    return "-" if bounds is None else f"{100 * bounds[0]:.1f} to {100 * bounds[1]:.1f} %"
