"""Throughput and latency against load as pictures, PNG and SVG.

Importing this file imports matplotlib, which comes with the extra ``train``. Figures are made
without pyplot, so no display is looked for and no state of matplotlib changes.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from mixtral.bench.serve_report import ServeReport, ServeResult
from mixtral.pictures import new_figure, save_figure

# Three colours of Okabe and Ito's set, which colour-blind people can tell apart; the markers tell
# the lines apart in grey, too.
_LINES = (("p50", "#0072B2", "o"), ("p90", "#E69F00", "s"), ("p99", "#D55E00", "^"))
_TIMES = (
    ("ttft_ms", "time to first token"),
    ("tpot_ms", "time per output token"),
    ("e2e_ms", "end to end"),
)


def plot_report(report: ServeReport, folder: Path) -> list[Path]:
    """Draw throughput and latency against the load of each result.

    Args:
        report: A run; results in which nothing succeeded are left out.
        folder: Where ``throughput`` and ``latency`` are written, each as .png and .svg; made if it
            is not there.

    Returns:
        The files; none where nothing succeeded.

    Raises:
        OSError: A file cannot be written.
    """
    results = sorted((r for r in report.results if r.serve.succeeded), key=_load)
    if not results:
        return []
    folder.mkdir(parents=True, exist_ok=True)
    figures = {"throughput": _plot_throughput(results), "latency": _plot_latency(results)}
    return [
        save_figure(figure, folder / f"{name}.{form}")
        for name, figure in figures.items()
        for form in ("png", "svg")
    ]


def _plot_throughput(results: Sequence[ServeResult]) -> Figure:
    figure = _figure(width=7)
    axes = figure.add_subplot()
    loads = [_load(result) for result in results]
    speeds = [result.tokens_per_s.median if result.tokens_per_s else 0.0 for result in results]
    axes.plot(loads, speeds, color=_LINES[0][1], marker="o", label="measured")
    new_tokens = results[0].new_tokens
    if results[0].serve.arrivals == "poisson" and new_tokens is not None:
        asked = [load * new_tokens for load in loads]
        axes.plot(loads, asked, color="0.5", linestyle="--", label="asked for")
        axes.legend(frameon=False)
    axes.set_ylabel("output tokens per second")
    _finish(axes, results)
    axes.set_title(f"{results[0].model}, {results[0].engine}")
    return figure


def _plot_latency(results: Sequence[ServeResult]) -> Figure:
    figure = _figure(width=14)
    for place, (name, title) in enumerate(_TIMES, 1):
        axes = figure.add_subplot(1, len(_TIMES), place)
        for share, color, marker in _LINES:
            found = [(_load(r), getattr(r.serve, name)) for r in results]
            points = [(load, getattr(times, share)) for load, times in found if times is not None]
            axes.plot(
                [load for load, _ in points],
                [value for _, value in points],
                color=color,
                marker=marker,
                markersize=4,
                label=share,
            )
        axes.set_title(title)
        axes.set_ylabel("ms")
        axes.legend(frameon=False)
        _finish(axes, results)
    return figure


def _figure(*, width: float) -> Figure:
    return new_figure(width=width, height=4.5)


def _finish(axes: Any, results: Sequence[ServeResult]) -> None:
    is_open = results[0].serve.arrivals == "poisson"
    axes.set_xlabel("requests per second" if is_open else "concurrent requests")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def _load(result: ServeResult) -> float:
    serve = result.serve
    return float(serve.concurrency or 0) if serve.request_rate is None else serve.request_rate
