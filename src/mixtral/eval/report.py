"""The card's measurement as JSON, as a Markdown table, and as two pictures.

matplotlib is imported when a picture is drawn; everything else here needs none.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mixtral.eval.answering import Answer, RowResult
from mixtral.eval.context_perplexity import ContextPerplexity, falls
from mixtral.eval.preference_accuracy import PreferenceAccuracy
from mixtral.pictures import BLUE, VERMILION, new_figure, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_GREY = "#999999"


@dataclass(frozen=True, kw_only=True, slots=True)
class CardReport:
    """Everything that was measured on one model."""

    model: str
    """Its name."""
    rows: Sequence[RowResult]
    """Rows of the card."""
    answers: Sequence[Answer]
    """Every answer."""
    preferences: PreferenceAccuracy | None = None
    """On held-out pairs; None where it was not measured."""
    perplexities: Sequence[ContextPerplexity] = ()
    """By length of context; empty where it was not measured."""

    def as_dict(self) -> dict[str, Any]:
        """Return it as one JSON object."""
        return {
            "model": self.model,
            "rows": [row.as_dict() for row in self.rows],
            "preferences": None if self.preferences is None else self.preferences.as_dict(),
            "perplexities": [each.as_dict() for each in self.perplexities],
            "perplexity_falls": falls(self.perplexities) if self.perplexities else None,
            "answers": [answer.as_dict() for answer in self.answers],
        }

    def table(self) -> str:
        """Return the card as Markdown."""
        lines = [
            "| task | what is asked | right | 95 % interval | goal | |",
            "|---|---|---|---|---|---|",
            *(_row_line(row) for row in self.rows),
        ]
        if self.preferences is not None and self.preferences.pairs:
            measured = self.preferences.as_dict()
            interval = _interval(measured["interval_95"])
            lines.append(
                f"| preferences | the better of two answers is likelier | {measured['right']} of "
                f"{measured['pairs']} | {interval} | | |"
            )
        if self.perplexities:
            lines += ["", *_perplexity_lines(self.perplexities)]
        return "\n".join(lines) + "\n"


def plot_rows(rows: Sequence[RowResult], path: Path) -> None:
    """Draw the share of right answers of each row, with its interval and its goal.

    Raises:
        OSError: The picture cannot be written.
    """

    def draw(axes: "Axes") -> None:
        for place, row in enumerate(reversed(rows)):
            low, high = row.interval or (0.0, 0.0)
            axes.barh(place, 100 * (row.share or 0.0), color=BLUE, height=0.6)
            axes.plot([100 * low, 100 * high], [place, place], color="black", linewidth=1)
            if row.row.goal is not None:
                goal = 100 * row.row.goal
                axes.plot([goal, goal], [place - 0.4, place + 0.4], color=VERMILION, linewidth=2)
            if row.share is None:
                axes.text(1, place, "does not fit", va="center", color=_GREY)
        axes.set_yticks(range(len(rows)), [row.row.task for row in reversed(rows)])
        axes.set_xlim(0, 100)
        axes.set_xlabel("right answers (%), 95 % interval; the upright mark is the goal")

    _save(path, draw, height=0.8 + 0.32 * len(rows))


def plot_perplexities(measured: Sequence[ContextPerplexity], path: Path) -> None:
    """Draw perplexity against the length of context.

    Raises:
        OSError: The picture cannot be written.
    """
    known = [(each.context, each.perplexity) for each in measured if each.perplexity is not None]

    def draw(axes: "Axes") -> None:
        axes.plot([c for c, _ in known], [p for _, p in known], color=BLUE, marker="o")
        axes.set_xscale("log", base=2)
        axes.set_xticks([c for c, _ in known], [f"{c:,}" for c, _ in known])
        axes.set_xlabel("context (tokens)")
        axes.set_ylabel("perplexity of the same tokens, held-out novels")
        axes.grid(alpha=0.3)

    _save(path, draw, height=4)


def _save(path: Path, draw: Callable[["Axes"], None], *, height: float) -> None:
    figure = new_figure(width=8, height=height)
    axes = figure.add_subplot()
    draw(axes)
    axes.spines[["top", "right"]].set_visible(False)
    save_figure(figure, path)


def _row_line(row: RowResult) -> str:
    right = f"{row.right} of {row.cases}" if row.cases else "-"
    interval = _interval(row.interval)
    goal = "" if row.row.goal is None else f"{row.row.goal:.0%}"
    return f"| {row.row.task} | {row.row.asks} | {right} | {interval} | {goal} | {row.verdict} |"


def _interval(bounds: Sequence[float] | None) -> str:
    return "-" if bounds is None else f"{100 * bounds[0]:.0f} to {100 * bounds[1]:.0f} %"


def _perplexity_lines(measured: Sequence[ContextPerplexity]) -> list[str]:
    verdict = {True: "met", False: "missed", None: "does not fit"}[falls(measured)]
    values = [
        "does not fit" if each.perplexity is None else f"{each.perplexity:.2f}" for each in measured
    ]
    return [
        f"Perplexity of the same tokens by context, which should fall with every step: {verdict}.",
        "",
        f"| context | {' | '.join(f'{each.context:,}' for each in measured)} |",
        f"|---|{'---|' * len(measured)}",
        f"| perplexity | {' | '.join(values)} |",
    ]
