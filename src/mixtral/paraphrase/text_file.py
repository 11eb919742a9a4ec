"""Texts of a file: its lines, a column of CSV, or a key of JSON lines.

    .csv .tsv          rows below a header; ``column`` names one of its columns
    .jsonl .ndjson     one object per line, ``column`` names a key; or one text per line, in quotes
    anything else      one text per line

Every text keeps the number of its line, so that what is found can be found again. Lines and cells
without words are left out.
"""

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from mixtral.errors import InvalidRequest
from mixtral.tokenizer.chat import check_unicode

DEFAULT_COLUMN = "text"
"""Column of CSV, or key of JSON lines, that is read where none is named."""
_CSV = {".csv": ",", ".tsv": "\t"}
_JSON_LINES = frozenset({".jsonl", ".ndjson"})
# csv stops at 131,072 characters of a cell by itself.
_MAX_CELL = 10_000_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """A text and where it stands."""

    number: int
    """Line of the file, from 1; of a row of CSV with several lines, the last."""
    text: str
    """The text, without white space around it."""


def read_texts(path: Path, *, column: str | None = None) -> list[Line]:
    """Read the texts of a file.

    Args:
        path: The file; its ending says how it is read.
        column: Column or key of the texts; None is "text". Files of lines have none.

    Raises:
        OSError: The file cannot be read.
        InvalidRequest: It is not UTF-8, not of its format, or has no such column.
    """
    suffix = path.suffix.lower()
    if not path.is_file():
        raise InvalidRequest(f"{path} is not a file; name a text, CSV or JSON lines file.")
    try:
        # utf-8-sig: spreadsheets put a mark at the beginning. newline: csv ends lines by itself.
        with path.open(encoding="utf-8-sig", newline="") as file:
            return read_stream(file, suffix=suffix, column=column, name=str(path))
    except UnicodeDecodeError as error:
        raise InvalidRequest(
            f"{path} is not UTF-8 text: byte 0x{error.object[error.start]:02x}; convert it first."
        ) from error


def read_stream(file: TextIO, *, suffix: str, column: str | None, name: str) -> list[Line]:
    """Read the texts of an open file.

    Args:
        file: What to read.
        suffix: Ending of its name, which says how it is read; an empty one means lines.
        column: As for ``read_texts``.
        name: What to call it in messages.

    Raises:
        InvalidRequest: As ``read_texts``.
    """
    if suffix in _CSV:
        found = _csv_texts(file, _CSV[suffix], column or DEFAULT_COLUMN, name)
    elif suffix in _JSON_LINES:
        found = _json_texts(file, column or DEFAULT_COLUMN, name)
    elif column is not None:
        raise InvalidRequest(
            f"{name} is read line by line and has no column {column!r}; columns are in .csv, .tsv "
            "and .jsonl files."
        )
    else:
        found = enumerate(file, start=1)
    stripped = ((number, text.strip()) for number, text in found)
    return [Line(number=number, text=text) for number, text in stripped if text]


def _csv_texts(file: TextIO, delimiter: str, column: str, name: str) -> Iterator[tuple[int, str]]:
    csv.field_size_limit(_MAX_CELL)
    reader = csv.DictReader(file, delimiter=delimiter, strict=True)
    try:
        names = reader.fieldnames or []
        if column not in names:
            raise InvalidRequest(
                f"{name} has no column {column!r}; its columns are: {', '.join(names) or 'none'}."
            )
        for row in reader:
            yield reader.line_num, row[column] or ""
    except csv.Error as error:
        # The reader inside: DictReader's own number is that of the last row that was right.
        number = reader.reader.line_num
        raise InvalidRequest(f"{name}: line {number} is not CSV: {error}.") from error


def _json_texts(file: TextIO, key: str, name: str) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(file, start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InvalidRequest(f"{name}: line {number} is not JSON: {error}.") from error
        text = value.get(key) if isinstance(value, dict) else value
        if not isinstance(text, str):
            kind = type(value).__name__
            what = f"no text under {key!r}" if isinstance(value, dict) else f"a {kind}"
            raise InvalidRequest(
                f"{name}: line {number} has {what}; each line is an object with it, or a text."
            )
        check_unicode(text, name=f"{name}: line {number}")
        yield number, text
