"""The report as pictures. Making them does not import matplotlib; drawing one does."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from mixtral.reports.report import Picture
from mixtral.routing.comparison import RoutingComparison
from mixtral.routing.experts_per_token import ExpertsPerToken
from mixtral.routing.report import RoutingReport

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, which colour-blind people can tell apart; markers tell lines apart in
# grey, too.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
_MARKERS = "os^Dv<>"
_HEAT = "cividis"  # even steps of brightness, for every kind of sight

Draw = Callable[["Figure"], None]


def report_pictures(
    report: RoutingReport,
    comparison: RoutingComparison | None = None,
    experts: Sequence[ExpertsPerToken] = (),
) -> list[Picture]:
    """Return every picture of a report."""
    picked = _picked_layers(report.num_layers)
    wide = 3.2 + 2.4 * len(picked)
    pictures = [
        load_picture([layer.load for layer in report.layers]),
        _picture("entropy", lambda f: _entropies(f, report)),
        _picture("repetition", lambda f: _repetitions(f, report), height=7),
        _picture("information", lambda f: _information(f, report)),
        _picture("together", lambda f: _together(f, report, picked), width=wide, height=3.4),
    ]
    for name, ylabel, rows in (
        ("domains", "text", _domain_rows(report)),
        ("kinds", "kind of token", {g.name: g.load for g in report.kinds}),
        ("positions", "position in the sequence", {g.name: g.load for g in report.positions}),
    ):
        if rows:
            draw = _group_drawer(rows, picked, ylabel=ylabel)
            pictures.append(_picture(name, draw, width=wide + 1, height=2 + 0.3 * len(rows)))
    if comparison is not None:
        pictures.append(_picture("comparison", _comparison_drawer(comparison), height=7))
    if experts:
        pictures.append(_picture("experts_per_token", lambda f: _experts(f, experts)))
    return pictures


def load_picture(loads: Sequence[Sequence[float]]) -> Picture:
    """Return the map of loads, L lists of E."""
    return _picture("load", lambda f: _load_map(f, loads), height=1.8 + 0.28 * len(loads))


def _load_map(figure: "Figure", loads: Sequence[Sequence[float]]) -> None:
    axes = figure.add_subplot()
    num_experts = len(loads[0])
    relative = [[value * num_experts for value in load] for load in loads]
    image = axes.imshow(relative, cmap=_HEAT, vmin=0, aspect="auto")
    axes.set_xticks(range(num_experts))
    _layer_ticks(axes, len(loads), axis="y")
    axes.set_xlabel("expert")
    axes.set_ylabel("layer")
    figure.colorbar(image, label="load over an even load")


def _entropies(figure: "Figure", report: RoutingReport) -> None:
    axes = figure.add_subplot()
    _line(axes, [layer.load_entropy for layer in report.layers], 0, "load")
    _line(axes, [layer.router_entropy for layer in report.layers], 1, "router, mean over tokens")
    axes.axhline(math.log(report.num_experts), color="0.4", ls="--", lw=1, label="all alike")
    _finish(axes, "entropy (nats)", report.num_layers)


def _repetitions(figure: "Figure", report: RoutingReport) -> None:
    upper, lower = figure.subplots(2, 1, sharex=True)
    for index, domain in enumerate(report.domains):
        first = [100 * (layer.same_first or 0.0) for layer in domain.layers]
        shared = [100 * (layer.same_any or 0.0) for layer in domain.layers]
        _line(upper, first, index, domain.name)
        _line(lower, shared, index, domain.name)
    upper.axhline(100 * report.random_same_first, color="0.4", ls="--", lw=1, label="random")
    lower.axhline(100 * report.random_same_any, color="0.4", ls="--", lw=1, label="random")
    _finish(upper, "same best expert (% of tokens)", report.num_layers, xlabel="")
    _finish(lower, "an expert in common (% of tokens)", report.num_layers, legend=False)


def _information(figure: "Figure", report: RoutingReport) -> None:
    axes = figure.add_subplot()
    for index, (name, values) in enumerate(report.information.items()):
        _line(axes, values, index, name)
    _finish(axes, "information about the expert (nats)", report.num_layers)


def _together(figure: "Figure", report: RoutingReport, picked: Sequence[int]) -> None:
    matrices = []
    for layer in picked:
        rows = report.layers[layer].together
        matrices.append(
            [[math.nan if i == j else 100 * v for j, v in enumerate(r)] for i, r in enumerate(rows)]
        )
    names = [str(expert) for expert in range(report.num_experts)]
    label = "tokens of the row's expert\nthat also visit the column's (%)"
    _heat_panels(figure, matrices, names, picked, label=label, ylabel="expert")


def _domain_rows(report: RoutingReport) -> dict[str, list[list[float]]]:
    return {domain.name: [layer.load for layer in domain.layers] for domain in report.domains}


def _group_drawer(
    rows: Mapping[str, list[list[float]]], picked: Sequence[int], *, ylabel: str
) -> Draw:
    def draw(figure: "Figure") -> None:
        panels = [[[100 * v for v in load[layer]] for load in rows.values()] for layer in picked]
        _heat_panels(figure, panels, list(rows), picked, label="load (%)", ylabel=ylabel)

    return draw


def _heat_panels(
    figure: "Figure",
    panels: Sequence[Sequence[Sequence[float]]],
    names: Sequence[str],
    picked: Sequence[int],
    *,
    label: str,
    ylabel: str,
) -> None:
    """Draw one heat map per layer, side by side, with one scale of colours."""
    top = max(v for panel in panels for row in panel for v in row if not math.isnan(v))
    axes_list = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    for axes, panel, layer in zip(axes_list, panels, picked, strict=True):
        image = axes.imshow(panel, cmap=_HEAT, vmin=0, vmax=top, aspect="auto")
        axes.set_title(f"layer {layer}", fontsize=10)
        axes.set_xlabel("expert")
        axes.set_xticks(range(len(panel[0])))
    axes_list[0].set_yticks(range(len(names)), names)
    axes_list[0].set_ylabel(ylabel)
    figure.colorbar(image, ax=list(axes_list), label=label)


def _comparison_drawer(comparison: RoutingComparison) -> Draw:
    def draw(figure: "Figure") -> None:
        upper, lower = figure.subplots(2, 1, sharex=True)
        layers = comparison.layers
        _line(upper, [100 * layer.same_set for layer in layers], 0, "same experts")
        _line(upper, [100 * layer.same_first for layer in layers], 1, "same best expert")
        _line(upper, [100 * layer.swap_rate for layer in layers], 2, "experts swapped")
        _line(lower, [layer.kl for layer in layers], 0, "KL")
        upper.set_title(f"{comparison.second} against {comparison.first}", fontsize=10)
        _finish(upper, "share (%)", len(layers), xlabel="")
        _finish(lower, "KL of the routers (nats per token)", len(layers), legend=False)

    return draw


def _experts(figure: "Figure", measured: Sequence[ExpertsPerToken]) -> None:
    axes = figure.add_subplot()
    for each in measured:
        millions, colour = each.num_active_parameters / 1e6, _COLOURS[1 if each.is_trained else 0]
        axes.plot(millions, each.perplexity, marker="o", color=colour, ls="")
        name = each.label if len(each.label) <= 12 else f"{each.label[:11]}\u2026"
        text = f"{name} per token" + (", as trained" if each.is_trained else "")
        axes.annotate(
            text,
            (millions, each.perplexity),
            xytext=(0, 8),
            textcoords="offset points",
            ha="center",
            fontsize=8,
        )
    axes.margins(x=0.2, y=0.25)
    axes.set_xlabel("active parameters (millions)")
    axes.set_ylabel("perplexity")
    axes.grid(alpha=0.3)


def _line(axes: "Axes", values: Sequence[float], index: int, label: str) -> None:
    colour, marker = _COLOURS[index % len(_COLOURS)], _MARKERS[index % len(_MARKERS)]
    dashes = ("-", "--", ":")[index // len(_COLOURS) % 3]
    axes.plot(values, dashes, color=colour, marker=marker, markersize=4, lw=1.3, label=label)


def _finish(
    axes: "Axes", ylabel: str, num_layers: int, *, xlabel: str = "layer", legend: bool = True
) -> None:
    axes.set_ylim(bottom=0)
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    _layer_ticks(axes, num_layers, axis="x")
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    if legend:
        # Outside, where it hides no line.
        axes.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))


def _layer_ticks(axes: "Axes", num_layers: int, *, axis: str) -> None:
    ticks = range(0, num_layers, -(-num_layers // 16))
    (axes.set_xticks if axis == "x" else axes.set_yticks)(ticks)


def _picked_layers(num_layers: int) -> list[int]:
    """Return the first, the middle and the last layer, as figure 7 of arXiv:2401.04088 does.

    >>> _picked_layers(32), _picked_layers(2)
    ([0, 15, 31], [0, 1])
    """
    return sorted({0, (num_layers - 1) // 2, num_layers - 1})


def _picture(name: str, draw: Draw, *, width: float = 7.5, height: float = 4) -> Picture:
    # The page has charts of its own with their words; these are for documents and talks.
    alt = name.replace("_", " ")
    return Picture(name=name, alt=alt, draw=draw, width=width, height=height)
