"""Perplexity and its curve over context as Markdown, and the curve as a picture.

Importing this file does not import matplotlib; ``draw_curve`` does, from the extra ``train``.
"""

import math
from pathlib import Path

from mixtral.eval.context_curve import ContextCurve
from mixtral.eval.perplexity import Perplexity
from mixtral.pictures import BLUE, new_figure, save_picture

_SHOWN_DOCUMENTS = 20


def perplexity_table(measured: Perplexity, *, context: int | None, stride: int | None) -> str:
    """Return a perplexity as Markdown, with one line per document where there are several.

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
    lines = [
        f"Perplexity {measured.perplexity:.4f}{error} over {measured.num_tokens:,} tokens: {cut}.",
    ]
    if measured.num_too_short:
        lines.append(
            f"Documents that are shorter than a window and left out: {measured.num_too_short} of "
            f"{len(measured.documents)}."
        )
    if len(measured.documents) > 1:
        lines += ["", "| document | tokens | perplexity |", "|---|---|---|"]
        for document in measured.documents[:_SHOWN_DOCUMENTS]:
            found = document.as_dict()["perplexity"]
            value = "too short" if found is None else f"{found:.4f}"
            lines.append(f"| {document.name} | {document.num_tokens:,} | {value} |")
        if (rest := len(measured.documents) - _SHOWN_DOCUMENTS) > 0:
            lines += ["", f"{rest} more documents are in results.json."]
    return "\n".join(lines) + "\n"


def curve_table(curve: ContextCurve) -> str:
    """Return a curve as Markdown: perplexity and its change by length of context."""
    lines = [
        f"Perplexity of the same {curve.num_windows * curve.num_scored:,} tokens "
        f"({curve.num_windows} windows of {curve.num_documents} documents) by context:",
        "",
        "| context (tokens) | perplexity | 95 % interval | change | 95 % interval | |",
        "|---|---|---|---|---|---|",
    ]
    for place, point in enumerate(curve.points):
        change = "| | | "
        if place:
            step = curve.steps[place - 1]
            change = (
                f"| {step.change:+.2%} | {100 * step.low:+.2f} to {100 * step.high:+.2f} % "
                f"| {step.verdict}"
            )
        interval = f"{point.low:.3f} to {point.high:.3f}"
        lines.append(f"| {point.context:,} | {point.perplexity:.3f} | {interval} {change} |")
    lines += ["", curve.statement, f"Intervals: bootstrap over {curve.resampled}."]
    if curve.num_too_short:
        lines.append(
            "Documents that are shorter than the longest context and left out: "
            f"{curve.num_too_short}."
        )
    return "\n".join(lines) + "\n"


def draw_curve(curve: ContextCurve, folder: Path, *, title: str) -> list[Path]:
    """Draw perplexity against the length of context, with its 95 % band.

    Args:
        curve: What was measured.
        folder: Where ``perplexity.png`` and ``perplexity.svg`` are written.
        title: Model and format.

    Returns:
        The files.

    Raises:
        OSError: A file cannot be written.
    """
    figure = new_figure(width=7, height=4.2)
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
    axes.set_xlabel("context (tokens)")
    axes.set_ylabel("perplexity of the same tokens")
    axes.set_title(title, fontsize=10)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8, loc="upper right")  # "best" would try every place
    return save_picture(figure, folder, "perplexity")
