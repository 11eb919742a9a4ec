"""Benchmarks as JSON values, as Markdown tables and as a picture.

Importing this file does not import matplotlib; ``draw_shares`` does, from the extra ``train``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mixtral.eval.bbq import BiasCounts, BiasResult
from mixtral.eval.benchmark_run import BenchmarkResult
from mixtral.pictures import BLUE, new_figure, save_picture

_BIAS_GUESS = 1 / 3  # three answers
# Of Okabe and Ito's set, as the others; colour-blind people can tell them apart.
_ORANGE, _GREY = "#D55E00", "#999999"


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchmarkReport:
    """Everything that one run measured."""

    settings: Mapping[str, Any]
    """How it was asked, JSON values: preset, seed, model, versions, hashes of the data."""
    results: Sequence[BenchmarkResult]
    """One per benchmark."""
    bias: Sequence[BiasResult] = ()
    """BBQ by category, all together last; empty where it was not asked."""

    def as_dict(self) -> dict[str, Any]:
        """Return it as one JSON object."""
        return {
            "settings": dict(self.settings),
            "benchmarks": [result.as_dict() for result in self.results],
            "bbq": [result.as_dict() for result in self.bias],
        }

    def table(self) -> str:
        """Return it as Markdown."""
        lines: list[str] = []
        if self.results:
            lines += [
                "| benchmark | shots | metric | questions | right | 95 % interval | guessing | "
                "Mixtral 8x7B, paper | |",
                "|---|---|---|---|---|---|---|---|---|",
                *map(_line, self.results),
            ]
        lines += [_cut_line(result) for result in self.results if result.num_cut]
        if self.bias:
            lines += ["", *_bias_lines(self.bias)]
        return "\n".join(lines) + "\n"


def draw_shares(report: BenchmarkReport, folder: Path, *, title: str) -> list[Path]:
    """Draw the share of right answers of each benchmark beside guessing and the paper.

    Args:
        report: What was measured; with at least one benchmark.
        folder: Where ``benchmarks.png`` and ``benchmarks.svg`` are written.
        title: Model and format.

    Returns:
        The files.

    Raises:
        OSError: A file cannot be written.
    """
    rows = list(reversed(report.results))
    figure = new_figure(width=8, height=1.6 + 0.36 * len(rows))
    axes = figure.add_subplot()
    for place, row in enumerate(rows):
        low, high = row.interval
        axes.barh(place, 100 * row.share, height=0.6, color=_GREY if row.is_at_chance else BLUE)
        axes.plot([100 * low, 100 * high], [place, place], color="black", linewidth=1)
        if row.guess is not None:
            mark = [100 * row.guess] * 2
            axes.plot(mark, [place - 0.4, place + 0.4], color="black", linestyle=":")
        if row.paper is not None:
            axes.plot(row.paper, place, color=_ORANGE, marker="D", markersize=5)
    axes.set_yticks(range(len(rows)), [f"{row.name}, {row.shots}-shot" for row in rows])
    axes.set_xlim(0, 100)
    axes.set_xlabel(
        "right answers (%) with 95 % interval; grey: at chance; dotted: guessing;\n"
        "diamond: Mixtral 8x7B in the paper"
    )
    axes.set_title(title)
    axes.spines[["top", "right"]].set_visible(False)
    return save_picture(figure, folder, "benchmarks")


def _line(result: BenchmarkResult) -> str:
    guess = "" if result.guess is None else f"{100 * result.guess:.1f} %"
    paper = "" if result.paper is None else f"{result.paper:.1f} %"
    return (
        f"| {result.name} | {result.shots} | {result.metric} | {result.asked:,} | "
        f"{100 * result.share:.1f} % | {_interval(result.interval)} | {guess} | {paper} | "
        f"{_verdict(result)} |"
    )


def _verdict(result: BenchmarkResult) -> str:
    if not result.is_at_chance:
        return ""
    return "none right" if result.guess is None else "at chance"


def _cut_line(result: BenchmarkResult) -> str:
    return (
        f"\n{result.name}: {result.num_cut:,} prompts were longer than the context of the model; "
        "their beginning was left out."
    )


def _bias_lines(bias: Sequence[BiasResult]) -> list[str]:
    return [
        "| BBQ | ambiguous: right | 95 % interval | bias | disambiguated: right | "
        "95 % interval | bias | |",
        "|---|---|---|---|---|---|---|---|",
        *map(_bias_line, bias),
        "",
        "Bias from -1 (against the stereotype) over 0 to 1 (with it); guessing gets 33.3 % right.",
    ]


def _bias_line(result: BiasResult) -> str:
    kinds = (result.ambiguous, result.disambiguated)
    verdict = {
        (True, True): "at chance",
        (True, False): "ambiguous at chance",
        (False, True): "disambiguated at chance",
        (False, False): "",
    }[_is_guess(result.ambiguous), _is_guess(result.disambiguated)]
    cells = [
        f"{_percent(counts.accuracy)} | {_interval(counts.interval)} | {_score(score)}"
        for counts, score in zip(
            kinds, (result.ambiguous_bias, result.disambiguated_bias), strict=True
        )
    ]
    return f"| {result.category} | {' | '.join(cells)} | {verdict} |"


def _is_guess(counts: BiasCounts) -> bool:
    if counts.interval is None:
        return False
    low, high = counts.interval
    return low <= _BIAS_GUESS <= high


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f} %"


def _score(score: float | None) -> str:
    return "-" if score is None else f"{score:+.3f}"


def _interval(bounds: tuple[float, float] | None) -> str:
    return "-" if bounds is None else f"{100 * bounds[0]:.1f} to {100 * bounds[1]:.1f} %"
