"""What the commands share for output: consoles, numbers for people, JSON, a spinner.

Results go to standard output, everything else to standard error, so that a pipe carries results
alone. Colours, spinners and bars are for terminals; rich leaves them out elsewhere.
"""

import json
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from mixtral.errors import InvalidRequest

_LONGEST_ERROR = 1000
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def stdout_console() -> Console:
    """Return a console for results."""
    return Console(highlight=False)


def stderr_console() -> Console:
    """Return a console for everything that is not a result."""
    return Console(stderr=True, highlight=False)


def note(text: str) -> None:
    """Say something beside the results: one dim line on standard error, never wrapped."""
    stderr_console().print(text, style="dim", markup=False, soft_wrap=True)


def error_line(message: str) -> str:
    r"""Return a message as one line; of a very long one, such as a value given, the ends.

    >>> error_line("n is 0;\nit must be above 0.")
    'error: n is 0; it must be above 0.'
    """
    text = " ".join(message.split())
    if len(text) > _LONGEST_ERROR:
        text = f"{text[: _LONGEST_ERROR // 2]} [...] {text[-_LONGEST_ERROR // 2 :]}"
    return f"error: {text}"


def print_json(value: Any) -> None:
    """Print one JSON object, the only thing on standard output."""
    text = json.dumps(value, indent=2, ensure_ascii=False)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        text = json.dumps(value, indent=2)
    sys.stdout.write(text + "\n")


def require_text(name: str, text: str) -> None:
    """Check that bytes from outside were UTF-8; Python hands on others as lone surrogates.

    Raises:
        InvalidRequest: They were not.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidRequest(
            f"{name} is not UTF-8 text, from character {error.start + 1} on; convert it first."
        ) from error


def write_text(text: str) -> None:
    """Print generated text at once; a terminal sees its control characters spelled out.

    A model can write any character, and an escape sequence would be carried out by the terminal.
    """
    if sys.stdout.isatty():
        text = _CONTROL.sub(lambda match: f"\\x{ord(match[0]):02x}", text)
    sys.stdout.write(text)
    sys.stdout.flush()


@contextmanager
def spinner(text: str) -> Iterator[None]:
    """Show that something is going on, and for how long, while the body runs."""
    console = stderr_console()
    if not console.is_terminal:
        yield
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        progress.add_task(text, total=None)
        yield


def format_count(number: float) -> str:
    """Write a large number as people say it.

    >>> format_count(46_702_792_704), format_count(21_234_567), format_count(812)
    ('46.7B', '21.2M', '812')
    """
    for size, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "K")):
        if number >= size:
            return f"{number / size:.1f}{letter}"
    return str(int(number))


def format_bytes(number: float) -> str:
    """Write a number of bytes in decimal units.

    >>> format_bytes(93_405_585_408), format_bytes(131_072), format_bytes(64)
    ('93.4 GB', '131.1 kB', '64 B')
    """
    for size, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if number >= size:
            return f"{number / size:.1f} {unit}"
    return f"{int(number)} B"
