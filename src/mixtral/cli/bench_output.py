"""What the benchmarks write and print: targets are checked before the work, numbers never lost."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import typer

CUT_REMARK = "stopped with Ctrl-C; these are the numbers until then"
"""What a person is told beside the table of a report that is not whole."""
CUT_STATUS = 130
"""Exit status after Ctrl-C, as shells have it."""


def check_targets(json_file: Path | None, plot: Path | None = None) -> None:
    """Check that a report can be written, before the minutes of work and not after them.

    Raises:
        ConfigError: A place is of the wrong kind or cannot be written.
    """
    from mixtral.errors import ConfigError
    from mixtral.reports.folder import check_file, check_writable

    if json_file is not None:
        check_file("--json", json_file)
    if plot is not None:
        if plot.exists() and not plot.is_dir():
            raise ConfigError(f"--plot is {plot}, which is a file; name a folder.")
        check_writable(plot)


def give_values(
    values: dict[str, Any], json_file: Path | None, *, draw: Callable[[], None] = lambda: None
) -> None:
    """Write a report to its file, if there is one, draw it, and print it as one line of JSON.

    It is printed, too, if it cannot be written, so that a full disk loses no number.

    Raises:
        OSError: A file cannot be written.
    """
    from mixtral.bench.results import write_json

    try:
        if json_file is not None:
            write_json(json_file, values)
        draw()
    finally:
        typer.echo(json.dumps(values))
