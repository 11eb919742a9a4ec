"""What a report is made of: sentences, tables and pictures, and how everything was measured.

Each command that measures fills one ``Report``. The same blocks become the Markdown that is printed
and the page in the folder, so that the two cannot differ.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from mixtral.reports.provenance import describe_versions

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, slots=True)
class Heading:
    """A heading between blocks."""

    text: str
    """What it says, in one line."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """Cells as they are shown."""

    caption: str
    """What it shows; read out on the page, left out in Markdown."""
    head: Sequence[str]
    """Names of all columns."""
    rows: Sequence[Sequence[str]]
    """As many cells each; the first one names the row."""
    text_columns: tuple[int, ...] = (0,)
    """Columns that hold words and begin on the left; the others hold numbers."""


Block = str | Heading | Table
"""A sentence or a few, a heading, a table."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Picture:
    """A picture that matplotlib draws when the report is written."""

    name: str
    """Of its files, without the ending."""
    alt: str
    """What it shows, for those who do not see it."""
    draw: Callable[["Figure"], None]
    """Draws into an empty figure."""
    width: float
    """Inches."""
    height: float
    """Inches."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """Everything about one measurement."""

    head: Mapping[str, Any]
    """What, when and how, see ``new_head``."""
    title: str
    """Heading of the page."""
    results: Mapping[str, Any]
    """Every number, JSON values by name."""
    blocks: Sequence[Block]
    """The numbers for people."""
    pictures: Sequence[Picture] = ()
    """The same to look at."""

    def as_dict(self) -> dict[str, Any]:
        """Return it as one JSON object: what, when, with which versions, how, and the results."""
        return {**self.head, **self.results}


def new_head(kind: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return what every report begins with, whatever it measures: JSON values.

    Args:
        kind: What was measured, in one word: benchmarks, passkey, ...
        settings: How, JSON values: model, seeds, hashes of the data.
    """
    return {
        "kind": kind,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": describe_versions(),
        "settings": dict(settings),
    }
