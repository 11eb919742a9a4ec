"""The passkey grid as JSON values, as a table and as a heat map."""

import math
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from mixtral.eval.answers_check import wilson_interval
from mixtral.eval.chance import chance_verdict
from mixtral.eval.passkey_grid import Cell, GridResult
from mixtral.reports.report import Block, Picture, Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# cividis runs from blue to yellow, in even steps for eyes of every kind, and prints well in grey.
_COLOURS = "cividis"
_DARK_BELOW = 0.55  # shares whose colour needs white numbers


def grid_as_dict(result: GridResult) -> dict[str, Any]:
    """Return a grid for a report, answers included."""
    plan = result.plan
    return {
        "plan": asdict(plan),
        "lengths": [result.cell(length).as_dict() for length in plan.lengths],
        "cells": [
            result.cell(length, depth).as_dict() for length in plan.lengths for depth in plan.depths
        ],
        "left_out": result.left_out,
        "prompt_tokens": sum(trial.num_prompt_tokens for trial in result.trials),
        "reused_share": result.reused_share,
        "seconds": sum(trial.seconds for trial in result.trials),
        "trials": [asdict(trial) for trial in result.trials],
    }


def grid_blocks(result: GridResult) -> list[Block]:
    """Return right answers by length and depth, then of each whole length."""
    plan = result.plan
    rows = []
    for length in plan.lengths:
        cells = [_fraction(result.cell(length, depth)) for depth in plan.depths]
        whole = result.cell(length)
        verdict = chance_verdict(_interval(whole), None)  # five digits are not guessed
        rows.append((f"{length:,}", *cells, _share(whole), _percent(_interval(whole)), verdict))
    depths = [f"{depth:.4g} %" for depth in plan.depths]
    table = Table(
        caption="Right answers by length, and by depth of the key",
        head=("length (tokens)", *depths, "right", "95 % interval", ""),
        rows=rows,
        text_columns=(0, len(depths) + 3),
    )
    blocks: list[Block] = [
        table,
        f"The prefix cache had {result.reused_share:.0%} of all prompt tokens.",
    ]
    if result.left_out:
        places = ", ".join(f"{length:,}" for length in result.left_out)
        blocks.append(
            f"Left out in part or whole, because the share is below {plan.stop_below:.0%} with "
            f"95 % confidence: {places}."
        )
    return blocks


def heat_map(result: GridResult, *, title: str) -> Picture:
    """Return the share of right answers by length and depth.

    Args:
        result: A grid.
        title: Model and format.
    """
    plan = result.plan
    lines = [f"{length:,} tokens: {_share(result.cell(length))}" for length in plan.lengths]
    return Picture(
        name="passkey",
        alt=f"Passkeys that {title} found, by length and depth. {'; '.join(lines)}.",
        draw=lambda figure: _draw_heat_map(figure, result, title),
        width=max(5.5, 2.6 + 0.75 * len(plan.lengths)),
        height=max(3.2, 1.9 + 0.42 * len(plan.depths)),
    )


def _draw_heat_map(figure: "Figure", result: GridResult, title: str) -> None:
    plan = result.plan
    columns, rows = len(plan.lengths), len(plan.depths)
    axes = figure.add_subplot()
    cells = [[result.cell(length, depth) for length in plan.lengths] for depth in plan.depths]
    per_cent = [[math.nan if c.share is None else 100 * c.share for c in row] for row in cells]
    image = axes.imshow(per_cent, cmap=_COLOURS, vmin=0, vmax=100, aspect="auto")
    for row, line in enumerate(cells):
        for column, cell in enumerate(line):
            text = "left out" if cell.share is None else f"{100 * cell.share:.0f}"
            is_dark = cell.share is not None and cell.share < _DARK_BELOW
            colour = "white" if is_dark else "black"
            size = 7 if cell.share is None else 9
            axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=size)
    axes.set_xticks(range(columns), [f"{length:,}" for length in plan.lengths])
    axes.tick_params(axis="x", labelrotation=45 if columns > 8 else 0)
    axes.set_yticks(range(rows), [f"{depth:.4g}" for depth in plan.depths])
    axes.set_xlabel("length (tokens, question and answer included)")
    axes.set_ylabel("depth of the key (%)")
    axes.set_title(f"{title}: {plan.cases} case{'s'[: plan.cases > 1]} per cell", fontsize=10)
    figure.colorbar(image, ax=axes, label="right answers (%)")


def _fraction(cell: Cell) -> str:
    return f"{cell.right}/{cell.cases}" if cell.cases else "left out"


def _share(cell: Cell) -> str:
    return "-" if cell.share is None else f"{cell.share:.0%}"


def _interval(cell: Cell) -> tuple[float, float] | None:
    return wilson_interval(cell.right, cell.cases) if cell.cases else None


def _percent(bounds: tuple[float, float] | None) -> str:
    return "-" if bounds is None else f"{100 * bounds[0]:.0f} to {100 * bounds[1]:.0f} %"
