"""A report as one HTML page that needs nothing else: no network, no other file, no script.

Pictures are inside the page. Colours follow the light or dark form that the reader's system asks
for; pictures keep their white paper in both. Its content policy lets the page load nothing, so a
name of a model or a text in it can do no harm even if it were not escaped.
"""

from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib.resources import files
from string import Template
from typing import Any

from mixtral.reports.pictures import DrawnPicture
from mixtral.reports.report import Block, Heading, Report, Table


def report_page(report: Report, pictures: Sequence[DrawnPicture]) -> str:
    """Return the page of a report: tables, pictures, and how it was measured."""
    parts = [
        f"<h1>{escape(report.title)}</h1>",
        *map(_block, report.blocks),
        *map(_picture, pictures),
        measured_html(report.head),
        "<footer>All numbers are in results.json.</footer>",
    ]
    return fill_page(report.title, "\n".join(parts))


def measured_html(head: Mapping[str, Any]) -> str:
    """Return the head of a report, nested JSON values, under a heading of its own."""
    rows = list(_flat("", {name: value for name, value in head.items() if name != "settings"}))
    return "<h2>How it was measured</h2>" + html_table(
        "Settings, versions and hashes",
        ("what", "value"),
        [*_flat("", head.get("settings", {})), *rows],
        text_columns=(0, 1),
    )


def fill_page(title: str, body: str, *, script: str = "") -> str:
    """Return a whole page.

    Args:
        title: Text.
        body: HTML.
        script: JavaScript of our own, without which the page shows everything, too.
    """
    template = files("mixtral.reports").joinpath("page.html").read_text(encoding="utf-8")
    return Template(template).substitute(
        title=escape(title),
        body=body,
        policy="; script-src 'unsafe-inline'" if script else "",
        script=f"<script>\n{script.strip()}\n</script>\n" if script else "",
    )


def html_table(
    caption: str,
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    text_columns: Sequence[int] = (0,),
) -> str:
    """Return a table whose first column names the rows."""
    body = "".join(
        f'<tr><th scope="row">{escape(row[0])}</th>'
        + "".join(_cell("td", cell, place in text_columns) for place, cell in enumerate(row[1:], 1))
        + "</tr>"
        for row in rows
    )
    names = "".join(
        _cell("th", name, place in text_columns, ' scope="col"') for place, name in enumerate(head)
    )
    return wrap_table(caption, names, body, kind="plain")


def wrap_table(caption: str, names: str, body: str, *, kind: str) -> str:
    """Return a table made of the cells of its head and the rows of its body, both HTML.

    A wide one scrolls by itself, by touch and by keys.
    """
    return (
        f'<div class="scroll" role="region" aria-label="{escape(caption)}" tabindex="0">'
        f'<table class="{kind}"><caption>{escape(caption)}</caption>'
        f"<thead><tr>{names}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _block(block: Block) -> str:
    if isinstance(block, Heading):
        return f"<h2>{escape(block.text)}</h2>"
    if isinstance(block, Table):
        return html_table(block.caption, block.head, block.rows, text_columns=block.text_columns)
    return f"<p>{escape(block)}</p>"


def _picture(picture: DrawnPicture) -> str:
    data = b64encode(picture.svg).decode("ascii")
    alt = escape(picture.alt)
    return f'<figure><img alt="{alt}" src="data:image/svg+xml;base64,{data}"></figure>'


def _cell(tag: str, text: str, is_text: bool, more: str = "") -> str:
    kind = ' class="text"' if is_text else ""
    return f"<{tag}{more}{kind}>{escape(text)}</{tag}>"


def _flat(name: str, value: Any) -> Iterable[tuple[str, str]]:
    if isinstance(value, Mapping):
        for key, part in value.items():
            yield from _flat(f"{name} {key}".strip().replace("_", " "), part)
    else:
        yield name, _shown(value)


def _shown(value: Any) -> str:
    match value:
        case None:
            return "-"
        case bool():
            return "yes" if value else "no"
        case int():
            return f"{value:,}"
        case float():
            return f"{value:,.4g}"
        case list() | tuple():
            return ", ".join(map(_shown, value))
    return str(value)
