"""Figures without a display, and how they are written: PNG and SVG, whole or not at all.

matplotlib is imported when a figure is made; it comes with the extra ``train``. Figures are made
without pyplot, so no display is looked for and no state of matplotlib changes.
"""

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from mixtral.errors import UnsupportedError
from mixtral.whole_file import whole_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BLUE = "#0072B2"
"""Like the next, of Okabe and Ito's set, whose colours colour-blind people can tell apart."""
VERMILION = "#D55E00"
"""Stands beside ``BLUE``."""


def require_matplotlib(option: str) -> None:
    """Do nothing where figures can be made; for a check before minutes of work.

    Raises:
        UnsupportedError: matplotlib is not installed; the message names the option that needs it.
    """
    if find_spec("matplotlib") is None:
        raise UnsupportedError(f"{option} needs matplotlib; run pip install 'mixtral[train]'.")


def new_figure(*, width: float, height: float) -> "Figure":
    """Return an empty figure, sizes in inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save_picture(figure: "Figure", folder: Path, name: str) -> list[Path]:
    """Write a figure as ``name.png`` and ``name.svg``; the same figure gives the same bytes.

    Raises:
        OSError: A file cannot be written.
    """
    return [save_figure(figure, folder / f"{name}.{form}") for form in ("png", "svg")]


def save_figure(figure: "Figure", path: Path) -> Path:
    """Write a figure in the format that its file's name ends with, .png or .svg.

    Raises:
        OSError: The file cannot be written; what was there before is still there.
    """
    import matplotlib

    form = path.suffix.removeprefix(".")
    metadata = {"Date": None} if form == "svg" else {}
    # The salt names the parts of an SVG; without it each writing gives other names.
    with matplotlib.rc_context({"svg.hashsalt": "mixtral"}), whole_file(path) as file:
        figure.savefig(file, format=form, metadata=metadata)
    return path
