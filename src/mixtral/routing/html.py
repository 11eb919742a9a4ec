"""Pieces of the page: tables with coloured cells, and line charts as SVG. Nothing is loaded.

Colours are CSS variables of ``reports/page.html``, which has a light and a dark set, both after
Okabe and Ito, whose colours colour-blind people can tell apart. Lines also differ in their dashes,
and every chart has a table beside it, so nothing is said by colour alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from mixtral.reports.page import wrap_table

_WIDTH, _HEIGHT = 640, 280
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 12, 12, 44
_NUM_COLOURS = 6
_DASHES = ("", "7 3", "2 3", "9 3 2 3")


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """One line of a chart."""

    name: str
    """What it shows."""
    values: Sequence[float | None]
    """One value per place on the x axis; None leaves a gap."""
    is_reference: bool = False
    """Whether it is an expectation beside the measurements: thin and grey."""


def heat_table(
    caption: str,
    head: Sequence[str],
    rows: Sequence[tuple[str, Sequence[float | None]]],
    *,
    full: float,
    decimals: int = 1,
) -> str:
    """Return a table of shares in percent, each cell the darker the larger its value.

    Args:
        caption: What it shows.
        head: Names of all columns, that of the row names first.
        rows: Name and shares of each row; None leaves a cell empty.
        full: Share that gets the darkest colour; larger ones get it, too.
        decimals: Decimals of the percentages.
    """
    body = "".join(
        f'<tr><th scope="row">{escape(name)}</th>'
        + "".join(_heat_cell(value, full, decimals) for value in values)
        + "</tr>"
        for name, values in rows
    )
    names = "".join(f'<th scope="col">{escape(name)}</th>' for name in head)
    return wrap_table(caption, names, body, kind="heat")


def line_chart(title: str, *, ylabel: str, xlabel: str, lines: Sequence[Line]) -> str:
    """Return a chart with one place per layer on the x axis, and its legend.

    Args:
        title: For those who do not see it.
        ylabel: Name of the y axis with its unit.
        xlabel: Name of the x axis; its places are numbered from 0.
        lines: At least one, each with as many values.
    """
    places = len(lines[0].values)
    top = _nice_top(max(value for line in lines for value in line.values if value is not None))
    drawn = [_grid(top), _x_labels(places, xlabel), _y_name(ylabel)]
    drawn += [_polyline(line, index, top) for index, line in enumerate(lines)]
    return (
        f'<figure><svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(title)}">'
        f"{''.join(drawn)}</svg><figcaption>{_legend(lines)}</figcaption></figure>"
    )


def visible(text: str) -> str:
    r"""Return the text of a token with its spaces and line ends made visible.

    >>> visible(" the") == "\u2423the", visible(chr(10))
    (True, '\\n')
    """
    return repr(text)[1:-1].replace(" ", "\u2423")


def _heat_cell(value: float | None, full: float, decimals: int) -> str:
    if value is None:
        return "<td></td>"
    depth = min(1.0, value / full) if full else 0.0
    return f'<td style="--v:{depth:.2f}">{100 * value:.{decimals}f}</td>'


def _nice_top(highest: float) -> float:
    """Return a round number at or above the highest value.

    >>> [_nice_top(value) for value in (0.17, 1.9, 2.1, 46.0)]
    [0.2, 2.0, 2.4, 48.0]
    """
    if highest <= 0:
        return 1.0
    power = 1.0
    while power > highest:
        power /= 10
    while power * 10 <= highest:
        power *= 10
    # A quarter of each is a number to put beside a line.
    steps = (1, 1.2, 1.6, 2, 2.4, 3.2, 4, 4.8, 6, 8, 10)
    return round(next(step * power for step in steps if step * power >= highest), 10)


def _x(place: int, places: int) -> float:
    return _LEFT + (_WIDTH - _LEFT - _RIGHT) * (place + 0.5) / places


def _y(value: float, top: float) -> float:
    return _HEIGHT - _BOTTOM - (_HEIGHT - _BOTTOM - _TOP) * value / top


def _grid(top: float) -> str:
    parts = []
    for step in range(5):
        value = top * step / 4
        y = _y(value, top)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y}" y2="{y}"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{value:.4g}</text>')
    return "".join(parts)


def _x_labels(places: int, xlabel: str) -> str:
    every = -(-places // 16)
    labels = "".join(
        f'<text x="{_x(place, places):.1f}" y="{_HEIGHT - _BOTTOM + 16}" text-anchor="middle">'
        f"{place}</text>"
        for place in range(0, places, every)
    )
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    return (
        f'{labels}<text x="{middle}" y="{_HEIGHT - 8}" text-anchor="middle">{escape(xlabel)}</text>'
    )


def _y_name(ylabel: str) -> str:
    middle = (_TOP + _HEIGHT - _BOTTOM) / 2
    return (
        f'<text transform="translate(13 {middle}) rotate(-90)" text-anchor="middle">'
        f"{escape(ylabel)}</text>"
    )


def _style(line: Line, index: int) -> str:
    if line.is_reference:
        return 'class="reference" stroke-dasharray="4 4"'
    dashes = _DASHES[index // _NUM_COLOURS % len(_DASHES)]
    return f'class="line c{index % _NUM_COLOURS}" stroke-dasharray="{dashes or "none"}"'


def _polyline(line: Line, index: int, top: float) -> str:
    places = len(line.values)
    known = [(_x(i, places), _y(v, top)) for i, v in enumerate(line.values) if v is not None]
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in known)
    dots = (
        ""
        if line.is_reference
        else "".join(
            f'<circle class="dot c{index % _NUM_COLOURS}" cx="{x:.1f}" cy="{y:.1f}" r="3"/>'
            for x, y in known
        )
    )
    return f'<polyline {_style(line, index)} points="{points}"/>{dots}'


def _legend(lines: Sequence[Line]) -> str:
    return "".join(
        f'<span><svg class="key" viewBox="0 0 28 10" aria-hidden="true"><line {_style(line, index)}'
        f' x1="1" x2="27" y1="5" y2="5"/></svg>{escape(line.name)}</span>'
        for index, line in enumerate(lines)
    )
