"""A figure of what is learned of conversations: all their text, with the learned part marked."""

import textwrap
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from mixtral.pictures import BLUE, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Pieces = Sequence[tuple[str, bool]]
"""Text that is learned or not, as ``chat_data.picture`` returns it."""

_COLUMNS = 110
_FONT_SIZE = 9.0  # points
_COLUMN = 0.602 * _FONT_SIZE / 72  # inches; DejaVu Sans Mono, which comes with matplotlib
_LINE = 1.5 * _FONT_SIZE / 72  # inches
_MOST_LINES = 400  # some thousand tokens; a figure of more is too large for most viewers


def draw_learned(examples: Sequence[tuple[str, Pieces]]) -> "Figure":
    """Draw examples below each other, what the loss counts on a coloured ground.

    Args:
        examples: A title, such as a file and its line, and the pieces of each example. Beyond 400
            lines the rest is left out, and a line says so.

    Returns:
        A figure for ``pictures.save_figure``.
    """
    lines = [line for title, pieces in examples for line in _lines_of(title, pieces)]
    if len(lines) > _MOST_LINES:
        lines = [*lines[:_MOST_LINES], [(f"... {len(lines) - _MOST_LINES} more lines", False)]]
    figure = new_figure(width=_COLUMNS * _COLUMN, height=max(1, len(lines)) * _LINE)
    figure.set_layout_engine("none")  # the axes are the whole figure
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, _COLUMNS), ylim=(len(lines), 0))
    axes.axis("off")
    for row, line in enumerate(lines):
        _draw_line(axes, row, line)
    return figure


def wrap_pieces(pieces: Pieces, columns: int) -> Iterator[list[tuple[str, bool]]]:
    r"""Cut pieces into lines at their line feeds and at a number of columns.

    >>> list(wrap_pieces([("ab\ncd", False), ("efg", True)], 3))
    [[('ab', False)], [('cd', False), ('e', True)], [('fg', True)]]
    """
    line: list[tuple[str, bool]] = []
    room = columns
    for text, is_learned in pieces:
        for index, part in enumerate(text.split("\n")):
            if index:
                yield line
                line, room = [], columns
            while part:
                if not room:
                    yield line
                    line, room = [], columns
                line.append((part[:room], is_learned))
                part, room = part[room:], room - len(part[:room])
    yield line


def _lines_of(title: str, pieces: Pieces) -> Iterator[list[tuple[str, bool]]]:
    yield [(textwrap.shorten(title, _COLUMNS - 2, placeholder="..."), False)]
    for line in wrap_pieces(pieces, _COLUMNS - 4):
        yield [("  ", False), *line]
    yield []


def _draw_line(axes: "Axes", row: int, line: Sequence[tuple[str, bool]]) -> None:
    column = 1.0
    for text, is_learned in line:
        if is_learned:
            axes.barh(row + 0.5, len(text), left=column, height=1, color=BLUE, alpha=0.25, lw=0)
        axes.text(
            column,
            row + 0.5,
            text.replace("\t", " "),
            family="DejaVu Sans Mono",
            fontsize=_FONT_SIZE,
            va="center",
            parse_math=False,  # a dollar is a dollar
        )
        column += len(text)
