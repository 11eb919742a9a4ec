"""The card's measurement as JSON values, as tables and as two pictures."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mixtral.eval.answering import Answer, RowResult
from mixtral.eval.chance import chance_verdict
from mixtral.eval.context_perplexity import ContextPerplexity, falls
from mixtral.eval.preference_accuracy import PreferenceAccuracy
from mixtral.pictures import BLUE, VERMILION
from mixtral.reports.markdown import markdown
from mixtral.reports.report import Block, Picture, Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_GREY = "#999999"
_PREFERENCE_GUESS = 0.5  # one of two answers


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
        """Return the numbers as JSON values by name."""
        return {
            "rows": [
                # Answers are free, so guessing gets none of them right.
                {**row.as_dict(), "at_chance": bool(chance_verdict(row.interval, None))}
                for row in self.rows
            ],
            "preferences": None if self.preferences is None else _preferences(self.preferences),
            "perplexities": [each.as_dict() for each in self.perplexities],
            "perplexity_falls": falls(self.perplexities) if self.perplexities else None,
            "answers": [answer.as_dict() for answer in self.answers],
        }

    def blocks(self) -> list[Block]:
        """Return tables and sentences; a result at chance is called so."""
        rows = [_row(row) for row in self.rows]
        if self.preferences is not None and self.preferences.pairs:
            rows.append(_preference_row(_preferences(self.preferences)))
        card = Table(
            caption="Right answers by task",
            head=("task", "what is asked", "right", "95 % interval", "goal", ""),
            rows=rows,
            text_columns=(0, 1, 5),
        )
        return [card, *(_perplexity_blocks(self.perplexities) if self.perplexities else ())]

    def table(self) -> str:
        """Return the blocks as Markdown."""
        return markdown(self.blocks())

    def pictures(self) -> list[Picture]:
        """Return the share of right answers of each row, and perplexity against context."""
        rows = Picture(
            name="card",
            alt=f"Right answers of {self.model} by task; the numbers are in the table.",
            draw=lambda figure: _draw_rows(figure, self.rows),
            width=8,
            height=0.8 + 0.32 * len(self.rows),
        )
        if not self.perplexities:
            return [rows]
        perplexity = Picture(
            name="perplexity",
            alt=f"Perplexity of {self.model} by length of context; the numbers are in the table.",
            draw=lambda figure: _draw_perplexities(figure, self.perplexities),
            width=8,
            height=4,
        )
        return [rows, perplexity]


def _draw_rows(figure: "Figure", rows: Sequence[RowResult]) -> None:
    axes = figure.add_subplot()
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
    _open(axes)


def _draw_perplexities(figure: "Figure", measured: Sequence[ContextPerplexity]) -> None:
    axes = figure.add_subplot()
    known = [(each.context, each.perplexity) for each in measured if each.perplexity is not None]
    axes.plot([c for c, _ in known], [p for _, p in known], color=BLUE, marker="o")
    axes.set_xscale("log", base=2)
    axes.set_xticks([c for c, _ in known], [f"{c:,}" for c, _ in known])
    axes.set_xlabel("context (tokens)")
    axes.set_ylabel("perplexity of the same tokens, held-out novels")
    axes.grid(alpha=0.3)
    _open(axes)


def _open(axes: "Axes") -> None:
    axes.spines[["top", "right"]].set_visible(False)


def _row(row: RowResult) -> tuple[str, ...]:
    verdicts = (row.verdict, chance_verdict(row.interval, None))
    return (
        row.row.task,
        row.row.asks,
        f"{row.right} of {row.cases}" if row.cases else "-",
        _interval(row.interval),
        "" if row.row.goal is None else f"{row.row.goal:.0%}",
        ", ".join(filter(None, verdicts)),
    )


def _preferences(measured: PreferenceAccuracy) -> dict[str, Any]:
    values = measured.as_dict()
    interval = None if values["interval_95"] is None else tuple(values["interval_95"])
    at_chance = bool(chance_verdict(interval, _PREFERENCE_GUESS))
    return {**values, "guess": _PREFERENCE_GUESS, "at_chance": at_chance}


def _preference_row(values: dict[str, Any]) -> tuple[str, ...]:
    return (
        "preferences",
        "the better of two answers is likelier",
        f"{values['right']} of {values['pairs']}",
        _interval(values["interval_95"]),
        "",
        "at chance" if values["at_chance"] else "",
    )


def _interval(bounds: Sequence[float] | None) -> str:
    return "-" if bounds is None else f"{100 * bounds[0]:.0f} to {100 * bounds[1]:.0f} %"


def _perplexity_blocks(measured: Sequence[ContextPerplexity]) -> list[Block]:
    verdict = {True: "met", False: "missed", None: "does not fit"}[falls(measured)]
    values = [
        "does not fit" if each.perplexity is None else f"{each.perplexity:.2f}" for each in measured
    ]
    return [
        f"Perplexity of the same tokens by context, which should fall with every step: {verdict}.",
        Table(
            caption="Perplexity by length of context",
            head=("context", *(f"{each.context:,}" for each in measured)),
            rows=[("perplexity", *values)],
        ),
    ]
