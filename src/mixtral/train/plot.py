"""The loss of a run as a picture, drawn from its log.

Importing this file imports matplotlib, which comes with the extra ``train``; nothing else in the
package needs it. The figure is made without pyplot, so no display is looked for and no state of
matplotlib changes.
"""

import json
import os
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

# Two colours of Okabe and Ito's set, which colour-blind people can tell apart; the markers of
# the held-out loss tell the lines apart in grey, too.
_BLUE = "#0072B2"
_VERMILLION = "#D55E00"


def plot_log(log_path: Path, png_path: Path) -> None:
    """Draw training and held-out loss against the step.

    Args:
        log_path: ``log.jsonl`` of a run; a last line that a crash cut is left out.
        png_path: Picture to write, whole or not at all.

    Raises:
        OSError: A file cannot be read or written.
    """
    records = _read_log(log_path)
    figure = Figure(figsize=(8, 4.5), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.plot(
        [record["step"] + 1 for record in records],
        [record["loss"] for record in records],
        color=_BLUE,
        linewidth=1,
        marker="" if len(records) > 1 else ".",
        label="training",
    )
    measured = [record for record in records if record["valid_loss"] is not None]
    axes.plot(
        [record["step"] + 1 for record in measured],
        [record["valid_loss"] for record in measured],
        color=_VERMILLION,
        linewidth=1.5,
        marker="o",
        markersize=4,
        label="held out",
    )
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("optimizer step")
    axes.set_ylabel("next-token loss (nats per token)")
    axes.set_title(log_path.absolute().parent.name)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    temporary = png_path.with_suffix(".tmp")
    with temporary.open("wb") as file:
        figure.savefig(file, format="png")
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(png_path)


def _read_log(path: Path) -> list[dict[str, Any]]:
    records = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            records.append(json.loads(line))
        except ValueError:
            break
    return records
