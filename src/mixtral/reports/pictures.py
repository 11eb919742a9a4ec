"""Draws the pictures of a report, and gives them to its page.

matplotlib is imported when the first one is drawn; without it there are none, and the report says
the same in its tables.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mixtral.pictures import new_figure, save_picture
from mixtral.reports.report import Picture

NO_PICTURES = "no pictures were drawn, matplotlib is missing: pip install 'mixtral[train]'."
"""What to tell users when ``draw`` returned None."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DrawnPicture:
    """A picture as it goes into a page."""

    alt: str
    """What it shows, for those who do not see it."""
    svg: bytes
    """The picture, with letters as outlines, so that it looks the same everywhere."""


def draw(pictures: Sequence[Picture], folder: Path) -> list[DrawnPicture] | None:
    """Draw pictures as PNG and SVG into a folder.

    Returns:
        The pictures for a page; None where matplotlib is not installed.

    Raises:
        OSError: A file cannot be written.
    """
    try:
        return [_draw(picture, folder) for picture in pictures]
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != "matplotlib":
            raise
        return None


def _draw(picture: Picture, folder: Path) -> DrawnPicture:
    figure = new_figure(width=picture.width, height=picture.height)
    picture.draw(figure)
    _, svg = save_picture(figure, folder, picture.name)
    return DrawnPicture(alt=picture.alt, svg=svg.read_bytes())
