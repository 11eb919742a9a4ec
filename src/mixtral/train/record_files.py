"""Files of records: read line by line, every bad record found before training begins.

A reader takes one line at a time, so the size of a file does not matter, and goes on after a bad
record: the error at the end names the first ``MAX_SHOWN`` by file and line and counts the rest.
Who wants to see each of them gives ``on_bad``.
What is in a line is the business of ``records``; whether a template can write it and whether it
is short enough, ``chat_data`` finds out, and notes it with ``RecordReader.refuse``.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any, Generic, NoReturn, TypeVar

from mixtral.errors import ConfigError, InvalidRequest
from mixtral.train.records import Record

MAX_LINE_BYTES = 16 * 2**20
"""Longest line; a million tokens of text have some 4 MiB."""
MAX_SHOWN = 5
"""How many bad records an error names."""
LIST_CONVERSATIONS = "mixtral train show FILE --all-errors --max-seq-len N"
"""Command that lists all bad conversations of a file."""
_BEGINNINGS = {
    b"\x1f\x8b": "compressed by gzip; unpack it first",
    b"BZh": "compressed by bzip2; unpack it first",
    b"\xfd7zXZ": "compressed by xz; unpack it first",
    b"\x28\xb5\x2f\xfd": "compressed by zstd; unpack it first",
    b"PK\x03\x04": "a zip archive; unpack it first",
    b"PAR1": "a Parquet file; write its rows as JSON lines",
    b"\xff\xfe": "written in UTF-16; write it in UTF-8",
    b"\xfe\xff": "written in UTF-16; write it in UTF-8",
}

R = TypeVar("R", bound=Record)


@dataclass(frozen=True, kw_only=True, slots=True)
class Line(Generic[R]):
    """A record and where it stands."""

    place: str
    """``file:line``, for messages."""
    record: R
    """What the line holds."""


class RecordReader(Generic[R]):
    """Reads the records of files in their order, and remembers what is wrong with any of them.

    Iterate once, then call ``check``.

    Args:
        paths: Files of JSON lines, UTF-8.
        parse: ``parse_conversation``, ``parse_preference`` or ``parse_document``.
        on_bad: Called with place and reason of each bad record as it is met.
        listed_by: Command that lists all bad records, for an error that cannot name them all.

    Attributes:
        num_records: Lines that hold a record, good or bad, so far.
        num_skipped: Records that the caller left out on purpose; the caller counts them.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        parse: Callable[[Mapping[str, Any]], R],
        *,
        on_bad: Callable[[str, str], None] | None = None,
        listed_by: str | None = None,
    ) -> None:
        self._paths = paths
        self._parse = parse
        self._on_bad = on_bad
        self._listed_by = listed_by
        self._shown: list[str] = []
        self._num_bad = 0
        self.num_records = 0
        self.num_skipped = 0

    def __iter__(self) -> Iterator[Line[R]]:
        """Yield the good records.

        Raises:
            ConfigError: A file is missing, a folder, compressed or otherwise no text in UTF-8,
                cannot be read, or holds no record.
        """
        if not self._paths:
            raise ConfigError("no data file is named; name at least one file of JSON lines.")
        for path in self._paths:
            before = self.num_records
            try:
                with path.open("rb") as file:
                    _check_beginning(path, file)
                    yield from self._read(path, file)
            except FileNotFoundError:
                raise ConfigError(f"{path} does not exist; name a file of JSON lines.") from None
            except IsADirectoryError:
                raise ConfigError(f"{path} is a folder; name the files in it.") from None
            except OSError as error:
                raise ConfigError(f"{path} cannot be read: {error.strerror or error}.") from error
            if self.num_records == before:
                raise ConfigError(f"{path} is empty; it must hold one JSON object per line.")

    def refuse(self, line: Line[R], reason: str) -> None:
        """Note that a record cannot be used."""
        self._note(line.place, reason)

    def check(self) -> None:
        """Do nothing if all records were good.

        Raises:
            ConfigError: With the places and reasons of the first bad ones, and their number.
        """
        if not self._num_bad:
            return
        rest = self._num_bad - len(self._shown)
        more = f"; and {rest} more" if rest else ""
        if rest and self._listed_by is not None:
            more += f" ({self._listed_by} lists all of them)"
        raise ConfigError(
            f"{self._num_bad} of {self.num_records} records cannot be used: "
            f"{'; '.join(self._shown)}{more}."
        )

    def _read(self, path: Path, file: BufferedReader) -> Iterator[Line[R]]:
        for number, raw in _lines(file):
            self.num_records += 1
            place = f"{path}:{number}"
            try:
                record = self._parse(_json_object(raw))
            except (InvalidRequest, RecursionError) as error:
                self._note(place, reason_of(error))
                continue
            yield Line(place=place, record=record)

    def _note(self, place: str, reason: str) -> None:
        self._num_bad += 1
        if self._on_bad is not None:
            self._on_bad(place, reason)
        if len(self._shown) < MAX_SHOWN:
            self._shown.append(f"{place}: {reason.rstrip('.')}")


def reason_of(error: InvalidRequest | RecursionError) -> str:
    """Return why a record cannot be used; Python's stack limits how deep its JSON may be."""
    return str(error) if isinstance(error, InvalidRequest) else "it is nested too deeply"


def _check_beginning(path: Path, file: BufferedReader) -> None:
    """Tell of a file of another kind at once, not of each of its lines."""
    beginning = file.peek(8)[:8]
    for magic, what in _BEGINNINGS.items():
        if beginning.startswith(magic):
            raise ConfigError(f"{path} is {what}.")


def _lines(file: BufferedReader) -> Iterator[tuple[int, bytes]]:
    """Yield number and content of each line that is not blank, never more than the limit."""
    number = 0
    while raw := file.readline(MAX_LINE_BYTES + 1):
        number += 1
        piece = raw
        while not piece.endswith(b"\n") and (piece := file.readline(MAX_LINE_BYTES)):
            pass  # The rest of a line that is too long is passed over.
        raw = raw.removeprefix(b"\xef\xbb\xbf") if number == 1 else raw
        if raw.strip():
            yield number, raw


def _json_object(raw: bytes) -> dict[str, Any]:
    if len(raw) > MAX_LINE_BYTES:
        _refuse(f"the line is longer than {MAX_LINE_BYTES // 2**20} MiB; split the record")
    try:
        value = json.loads(
            raw.decode("utf-8"), parse_constant=_refuse_constant, object_pairs_hook=_unique
        )
    except UnicodeDecodeError as error:
        _refuse(f"not UTF-8: byte 0x{raw[error.start]:02x} at {error.start} of the line")
    except json.JSONDecodeError as error:
        hint = ""
        if raw.lstrip().startswith(b"["):
            hint = "; the file looks like one JSON list, write one object per line instead"
        _refuse(f"not JSON: {error.msg} at character {error.pos}{hint}")
    except InvalidRequest:
        raise
    except ValueError:  # Python reads no whole number of more than 4,300 digits.
        _refuse("not JSON that can be read: a number has too many digits")
    if not isinstance(value, dict):
        _refuse(f"the line holds a JSON {type(value).__name__}; it must be an object")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object; of two values of one key JSON would keep the last without a word."""
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        _refuse(f"the key {twice[:40]!r} stands twice in one object")
    return found


def _refuse_constant(name: str) -> NoReturn:
    _refuse(f"not JSON: {name} is no number there")


def _refuse(reason: str) -> NoReturn:
    raise InvalidRequest(reason)
