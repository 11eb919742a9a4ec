"""Quality against active parameters: the runs, beside the models of the guides' table.

One panel per benchmark, bars are 95 % intervals. Models of one size stand side by side rather than
on each other. Colours are those of Okabe and Ito, and every model has a mark of its own, for eyes
of every kind and for print in grey.
"""

import math
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mixtral.eval.compare_runs import Run
from mixtral.eval.guide_table import ReferenceModel
from mixtral.reports.report import Picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
_REFERENCE = "#6B6B6B"
_RUN_MARKS, _REFERENCE_MARKS = "osD^v<", "hpPXd*"
_STEP = 0.03  # of the axis, between neighbours of one size: as wide as a mark
_MARK_SIZE = 5  # points
_COLUMNS = 3
_Z = 1.959964


def quality_picture(runs: Sequence[Run], table: Sequence[ReferenceModel]) -> Picture | None:
    """Return the picture; None where no run has a benchmark of the table and its parameters."""
    known = [run for run in runs if run.weights.get("active_parameters")]
    tasks = [task for task in table[0].percent if any(task in run.scores for run in known)]
    if not tasks:
        return None
    rows = math.ceil(len(tasks) / _COLUMNS)
    entries = math.ceil((len(known) + len(table) + 1) / _COLUMNS)
    return Picture(
        name="quality",
        alt="Right answers over active parameters, one panel for each of "
        f"{', '.join(tasks)}; the numbers are in the tables.",
        draw=lambda figure: _draw(figure, tasks, known, table),
        width=3.2 * max(2, min(len(tasks), _COLUMNS)) + 0.4,
        height=2.6 * rows + 0.5 + 0.2 * entries,
    )


def side_by_side(sizes: Sequence[int], *, step: float) -> list[float]:
    """Return places on a logarithmic axis where equal sizes stand beside each other.

    Args:
        sizes: What belongs on the axis.
        step: Factor between neighbours.

    >>> side_by_side([100, 5], step=4), side_by_side([100, 100], step=4)
    ([100.0, 5.0], [50.0, 200.0])
    """
    totals, seen = Counter(sizes), Counter[int]()
    places = []
    for size in sizes:
        places.append(size * step ** (seen[size] - (totals[size] - 1) / 2))
        seen[size] += 1
    return places


def _draw(
    figure: "Figure", tasks: Sequence[str], runs: Sequence[Run], table: Sequence[ReferenceModel]
) -> None:
    columns = min(len(tasks), _COLUMNS)
    panels = figure.subplots(
        math.ceil(len(tasks) / columns), columns, squeeze=False, sharex=True, sharey=True
    )
    sizes = [*(run.weights["active_parameters"] for run in runs)]
    sizes += [model.active_parameters for model in table]
    low, high = _powers(sizes)
    places = side_by_side(sizes, step=10 ** (_STEP * (high - low)))
    flat = [axes for line in panels for axes in line]
    for axes, task in zip(flat, tasks, strict=False):
        _panel(axes, task, runs, table, places)
    for axes in flat[len(tasks) :]:
        axes.set_visible(False)
    _scale(flat[0], *_powers(places))
    for axes in flat[max(0, len(tasks) - columns) : len(tasks)]:
        axes.tick_params(labelbottom=True)  # also above an empty panel
        axes.set_xlabel("active parameters", fontsize=9)
    for axes in flat[::columns]:
        axes.set_ylabel("right answers (%)", fontsize=9)
    marks: dict[str, Any] = {}
    for axes in flat:
        handles, names = axes.get_legend_handles_labels()
        marks |= dict(zip(names, handles, strict=True))
    figure.legend(
        list(marks.values()),
        list(marks),
        loc="outside lower center",
        ncols=_COLUMNS,
        frameon=False,
        fontsize=8,
    )


def _panel(
    axes: "Axes",
    task: str,
    runs: Sequence[Run],
    table: Sequence[ReferenceModel],
    places: Sequence[float],
) -> None:
    for index, (model, place) in enumerate(zip(table, places[len(runs) :], strict=True)):
        axes.plot(
            place,
            model.percent[task],
            _REFERENCE_MARKS[index % len(_REFERENCE_MARKS)],
            color=_REFERENCE,
            markerfacecolor=_REFERENCE if model.name.startswith("Mixtral") else "white",
            markersize=_MARK_SIZE,
            label=model.name,
        )
    guesses: set[float] = set()
    for index, (run, place) in enumerate(zip(runs, places, strict=False)):
        score = run.scores.get(task)
        if score is None:
            continue
        if score.guess is not None:
            guesses.add(score.guess)
        axes.errorbar(
            place,
            100 * score.value,
            yerr=100 * _Z * (score.error or 0.0),
            fmt=_RUN_MARKS[index % len(_RUN_MARKS)],
            color=_COLOURS[index % len(_COLOURS)],
            markersize=_MARK_SIZE,
            capsize=2,
            label=run.name,
        )
    for guess in guesses:
        axes.axhline(100 * guess, color="0.4", linestyle=":", linewidth=1, label="guessing")
    axes.set_title(task, fontsize=10)
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def _powers(sizes: Sequence[float]) -> tuple[int, int]:
    """Return the powers of ten between which sizes lie, with a little room."""
    return math.floor(math.log10(min(sizes) / 1.2)), math.ceil(math.log10(max(sizes) * 1.2))


def _scale(axes: "Axes", low: int, high: int) -> None:
    """Let the shared axes run from one power of ten to another, and from 0 to 100 %."""
    axes.set_xscale("log")
    axes.set_xlim(10.0**low, 10.0**high)
    axes.set_ylim(0, 100)
    axes.xaxis.set_major_formatter(lambda value, _: _size(value))
    axes.minorticks_off()


def _size(value: float) -> str:
    """Write a number of parameters as people say it.

    >>> _size(1e7), _size(1e9)
    ('10M', '1B')
    """
    for size, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "K")):
        if value >= size:
            return f"{value / size:g}{letter}"
    return f"{value:g}"
