"""A run as pictures, drawn from its log: the loss, the routers, the rewards of preference training.

Importing this file imports matplotlib, which comes with the extra ``train``; nothing else in the
package needs it.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mixtral.pictures import BLUE, VERMILION, new_figure, save_figure
from mixtral.train.run_folder import read_log

# Of the same set as the other two; markers and dashes tell the lines apart in grey, too.
_GREEN = "#009E73"

Records = Sequence[dict[str, Any]]


def plot_run(log_path: Path) -> list[Path]:
    """Draw what the log of a run holds, beside it.

    ``loss.png`` always; ``router.png`` for a mixture of experts; ``rewards.png`` for preferences.

    Args:
        log_path: ``log.jsonl`` of a run; a last line that a crash cut is left out.

    Returns:
        The pictures, each written whole or not at all; none for an empty log.

    Raises:
        OSError: A file cannot be read or written.
    """
    records = read_log(log_path)
    if not records:
        return []
    folder = log_path.absolute().parent
    pictures = [plot_loss(records, folder / "loss.png", title=folder.name)]
    if "expert_load" in records[-1]:
        pictures.append(_plot_router(records, folder / "router.png", title=folder.name))
    if "reward_margin" in records[-1]:
        pictures.append(_plot_rewards(records, folder / "rewards.png", title=folder.name))
    return pictures


def plot_loss(records: Records, path: Path, *, title: str) -> Path:
    """Draw training and held-out loss against the step, and return the picture's path.

    Args:
        records: Lines of a log.
        path: Picture to write.
        title: What the run is called.
    """
    figure = _figure(1)
    axes = figure.add_subplot()
    _line(axes, records, "loss", color=BLUE, label="training")
    _line(axes, records, "valid_loss", color=VERMILION, label="held out", marker="o")
    unit = "per pair" if "reward_margin" in records[-1] else "nats per token"
    _finish(axes, ylabel=f"loss ({unit})", title=title)
    return save_figure(figure, path)


def _plot_router(records: Records, path: Path, *, title: str) -> Path:
    """Draw the entropy of each layer's router, and its fullest and emptiest expert."""
    figure = _figure(2)
    entropy_axes, load_axes = figure.subplots(2, 1, sharex=True)
    rows = [record for record in records if "expert_load" in record]
    steps = [record["step"] + 1 for record in rows]
    num_layers, num_experts = len(rows[0]["expert_load"]), len(rows[0]["expert_load"][0])
    colours = colormaps["viridis"]
    marker = "" if len(rows) > 1 else "."
    for layer in range(num_layers):
        colour = colours(0.9 * layer / max(1, num_layers - 1))
        name = f"layer {layer}" if num_layers <= 8 or layer in (0, num_layers - 1) else None
        entropy = [record["router_entropy"][layer] for record in rows]
        entropy_axes.plot(steps, entropy, color=colour, label=name, lw=1, marker=marker)
        for pick, dashes in ((max, "-"), (min, "--")):
            load = [num_experts * pick(record["expert_load"][layer]) for record in rows]
            load_axes.plot(steps, load, dashes, color=colour, lw=1, marker=marker)
    entropy_axes.axhline(math.log(num_experts), color="black", lw=0.8, ls=":")
    load_axes.axhline(1, color="black", lw=0.8, ls=":")
    _finish(entropy_axes, ylabel="router entropy (nats)", title=title, xlabel="")
    _finish(load_axes, ylabel="load over an even load", title="", legend=False)
    load_axes.set_title("fullest expert (solid) and emptiest (dashed) of each layer", fontsize=9)
    return save_figure(figure, path)


def _plot_rewards(records: Records, path: Path, *, title: str) -> Path:
    figure = _figure(2)
    reward_axes, accuracy_axes = figure.subplots(2, 1, sharex=True)
    _line(reward_axes, records, "reward_chosen", color=_GREEN, label="chosen")
    _line(reward_axes, records, "reward_rejected", color=VERMILION, label="rejected", dashes="--")
    _finish(reward_axes, ylabel="implicit reward (nats)", title=title, xlabel="")
    _line(accuracy_axes, records, "reward_accuracy", color=BLUE, label="training")
    _line(
        accuracy_axes,
        records,
        "valid_reward_accuracy",
        color=VERMILION,
        label="held out",
        marker="o",
    )
    accuracy_axes.set_ylim(0, 1.02)
    _finish(accuracy_axes, ylabel="pairs with the chosen answer preferred", title="")
    return save_figure(figure, path)


def _figure(panels: int) -> Figure:
    return new_figure(width=8, height=4.5 if panels == 1 else 7)


def _line(
    axes: Axes,
    records: Records,
    name: str,
    *,
    color: str,
    label: str,
    marker: str = "",
    dashes: str = "-",
) -> None:
    measured = [record for record in records if record.get(name) is not None]
    axes.plot(
        [record["step"] + 1 for record in measured],
        [record[name] for record in measured],
        dashes,
        color=color,
        linewidth=1.2,
        marker=marker if marker or len(measured) > 1 else ".",
        markersize=4,
        label=label,
    )


def _finish(
    axes: Axes, *, ylabel: str, title: str, xlabel: str = "optimizer step", legend: bool = True
) -> None:
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    axes.set_title(title)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    if legend:
        axes.legend(frameon=False, fontsize=8)
