"""Benchmarks from a folder instead of the hub: one folder per benchmark, one JSON object per line.

``local_layouts.py`` says which files and fields there are; a file may end in ``.jsonl`` or
``.jsonl.gz``. A row that is malformed is an error that names file and line.
"""

import gzip
import json
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from mixtral.errors import ConfigError
from mixtral.eval.documents import is_unicode
from mixtral.eval.local_layouts import LAYOUTS, Problem, Row, no_problem

_KINDS = {
    str: "a text that is not empty",
    int: "a whole number",
    list: "a list of texts, none of them empty",
    dict: "an object",
}


def read_benchmark(folder: Path, name: str) -> dict[str | None, dict[str, list[Row]]]:
    """Return all rows of a benchmark, as the hub has them.

    Args:
        folder: Folder of all benchmarks.
        name: The benchmark.

    Returns:
        Subject (None where the benchmark has no subjects) -> split -> rows, none of them empty.

    Raises:
        ConfigError: The folder or a file is not there, a row is malformed, or there is none.
    """
    layout = LAYOUTS[name]
    names = (*layout.fields, *layout.more_fields)
    found: dict[str | None, dict[str, list[Row]]] = {}
    for split in layout.files:
        path = find_file(folder, name, split)
        for row in read_rows(path, layout.fields, layout.problem, adopt=layout.adopt):
            if layout.belongs(split, row):
                subject = None if layout.subject is None else layout.subject(row)
                rows = found.setdefault(subject, {}).setdefault(split, [])
                # A table of the harness has one type for each field, and a field of the user's own
                # may have several.
                rows.append(layout.convert({name: row[name] for name in names if name in row}))
        if not any(split in splits for splits in found.values()):
            raise ConfigError(f"{path} has no row for {name}; get the file anew.")
    return found


def find_file(folder: Path, name: str, split: str) -> Path:
    """Return the file of a split.

    Raises:
        ConfigError: There is none; the message says what to download and where to put it.
    """
    if not folder.is_dir():
        raise ConfigError(f"data is {folder}, which is no folder; name one, or leave it out.")
    layout = LAYOUTS[name]
    stem = folder / name / layout.files[split]
    for ending in (".jsonl", ".jsonl.gz"):
        path = stem.with_name(stem.name + ending)
        if path.is_file():
            return path
    files = " and ".join(
        f"{name}/{file}.jsonl ({', '.join(s for s in layout.files if layout.files[s] == file)})"
        for file in dict.fromkeys(layout.files.values())
    )
    raise ConfigError(
        f"{name} is not in {folder}: download {layout.hub} and put its splits there as {files}, "
        f"with {', '.join(layout.fields)} in each line, or the rows of the hub as they are."
    )


def read_rows(
    path: Path,
    fields: Mapping[str, type],
    problem: Problem = no_problem,
    *,
    adopt: Callable[[Row], Row] = lambda row: row,
) -> Iterator[Row]:
    """Yield the rows of a file, each checked.

    Args:
        path: The file, compressed if it ends in ``.gz``.
        fields: Fields that each row must have; lists are lists of texts.
        problem: Says what else is wrong with a row.
        adopt: Turns a row of another known form into one with these fields.

    Raises:
        ConfigError: A row is no JSON object, lacks a field or has another problem; or the file is
            damaged.
    """
    try:
        with (
            gzip.open(path, "rt", encoding="utf-8")
            if path.suffix == ".gz"
            else path.open(encoding="utf-8")
        ) as file:
            for number, line in enumerate(file, start=1):
                if not line.strip():
                    continue
                row = adopt(_parsed(path, number, line))
                if wrong := _wrong_field(row, fields) or problem(row):
                    raise ConfigError(f"{path}, line {number}: {wrong} Correct or remove the line.")
                yield row
    except (gzip.BadGzipFile, EOFError, zlib.error, UnicodeDecodeError):
        raise ConfigError(f"{path} is damaged; get the file anew.") from None


def _parsed(path: Path, number: int, line: str) -> Row:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        row = None
    if not isinstance(row, dict):
        raise ConfigError(f"{path}, line {number} is no JSON object; get the file anew.")
    return row


def _wrong_field(row: Row, fields: Mapping[str, type]) -> str | None:
    for name, kind in fields.items():
        value = row.get(name)
        # To Python, true is a number.
        is_kind = isinstance(value, kind) and not isinstance(value, bool)
        is_empty = value in ("", []) or (isinstance(value, list) and not all(map(_is_text, value)))
        if not is_kind or is_empty:
            return f"{name} is {value!r}; it must be {_KINDS[kind]}."
        texts = value if isinstance(value, list) else [value]
        if not all(is_unicode(text) for text in texts if isinstance(text, str)):
            return f"{name} is {value!r}, with half of a surrogate pair; it must be valid Unicode."
    return None


def _is_text(value: object) -> bool:
    return isinstance(value, str) and value != ""
