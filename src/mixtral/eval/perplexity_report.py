"""Perplexity and its curve over context as tables, and the curve as a picture."""

import math
from typing import TYPE_CHECKING

from mixtral.eval.context_curve import ContextCurve
from mixtral.eval.perplexity import DocumentLoss, Perplexity
from mixtral.pictures import BLUE
from mixtral.reports.report import Block, Picture, Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SHOWN_DOCUMENTS = 20


def perplexity_blocks(
    measured: Perplexity, *, context: int | None, stride: int | None
) -> list[Block]:
    """Return a perplexity, with one row per document where there are several.

    Args:
        measured: What was measured.
        context: Tokens of a window; None for whole documents.
        stride: Tokens between windows; None where they do not overlap.
    """
    cut = {
        "windows": f"windows of {context} tokens, second half scored (llama.cpp's definition)",
        "strided": f"windows of {context} tokens every {stride}, each token scored once",
        "whole": "each document in one pass, every token scored",
    }[measured.definition]
    error = f" +/- {measured.error:.4f}" if math.isfinite(measured.error) else ""
    blocks: list[Block] = [
        f"Perplexity {measured.perplexity:.4f}{error} over {measured.num_tokens:,} tokens: {cut}.",
    ]
    if measured.num_too_short:
        blocks.append(
            f"Documents that are shorter than a window and left out: {measured.num_too_short} of "
            f"{len(measured.documents)}."
        )
    if len(measured.documents) > 1:
        shown = measured.documents[:_SHOWN_DOCUMENTS]
        blocks.append(
            Table(
                caption="Perplexity by document",
                head=("document", "tokens", "perplexity"),
                rows=[_document_row(document) for document in shown],
            )
        )
        if (rest := len(measured.documents) - len(shown)) > 0:
            blocks.append(f"{rest} more documents are in results.json.")
    return blocks


def curve_blocks(curve: ContextCurve) -> list[Block]:
    """Return perplexity and its change by length of context."""
    rows = []
    for place, point in enumerate(curve.points):
        change = ("", "", "")
        if place:
            step = curve.steps[place - 1]
            interval = f"{100 * step.low:+.2f} to {100 * step.high:+.2f} %"
            change = (f"{step.change:+.2%}", interval, step.verdict)
        band = f"{point.low:.3f} to {point.high:.3f}"
        rows.append((f"{point.context:,}", f"{point.perplexity:.3f}", band, *change))
    blocks: list[Block] = [
        f"Perplexity of the same {curve.num_windows * curve.num_scored:,} tokens "
        f"({curve.num_windows} windows of {curve.num_documents} documents) by context:",
        Table(
            caption="Perplexity by length of context",
            head=(
                "context (tokens)",
                "perplexity",
                "95 % interval",
                "change",
                "95 % interval",
                "",
            ),
            rows=rows,
            text_columns=(0, 5),
        ),
        curve.statement,
        f"Intervals: bootstrap over {curve.resampled}.",
    ]
    if curve.num_too_short:
        blocks.append(
            "Documents that are shorter than the longest context and left out: "
            f"{curve.num_too_short}."
        )
    return blocks


def curve_picture(curve: ContextCurve, *, title: str) -> Picture:
    """Return perplexity against the length of context, with its 95 % band.

    Args:
        curve: What was measured.
        title: Model and format.
    """
    points = ", ".join(f"{p.context:,} tokens: {p.perplexity:.2f}" for p in curve.points)
    return Picture(
        name="perplexity",
        alt=f"Perplexity of {title} by length of context. {points}.",
        draw=lambda figure: _draw_curve(figure, curve, title),
        width=7,
        height=4.2,
    )


def _document_row(document: DocumentLoss) -> tuple[str, str, str]:
    found = document.as_dict()["perplexity"]
    value = "too short" if found is None else f"{found:.4f}"
    return document.name, f"{document.num_tokens:,}", value


def _draw_curve(figure: "Figure", curve: ContextCurve, title: str) -> None:
    axes = figure.add_subplot()
    contexts = [point.context for point in curve.points]
    axes.fill_between(
        contexts,
        [point.low for point in curve.points],
        [point.high for point in curve.points],
        color=BLUE,
        alpha=0.2,
        linewidth=0,
        label=f"95 % interval (bootstrap over {curve.resampled})",
    )
    values = [point.perplexity for point in curve.points]
    axes.plot(contexts, values, color=BLUE, marker="o", label="perplexity")
    axes.set_xscale("log", base=2)
    axes.set_xticks(contexts, [f"{context:,}" for context in contexts])
    axes.minorticks_off()
    axes.margins(y=0.15)  # room for the legend above a flat curve
    axes.set_xlabel("context (tokens)")
    axes.set_ylabel("perplexity of the same tokens")
    axes.set_title(title, fontsize=10)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8, loc="upper right")  # "best" would try every place
