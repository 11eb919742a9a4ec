"""What the commands that measure a model share: options, progress, what is recorded, output."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from mixtral.cli.console import note, print_json, spinner, stderr_console
from mixtral.cli.options import ModelOptions
from mixtral.errors import ConfigError
from mixtral.model_source import is_hub_id

if TYPE_CHECKING:
    from mixtral.folder_lock import FolderLock
    from mixtral.llm import LLM
    from mixtral.reports.report import Report

OutOption = Annotated[
    Path | None,
    typer.Option(
        "--out", metavar="FOLDER", help="Write the report here: numbers, tables, pictures, a page."
    ),
]
JsonOption = Annotated[
    bool, typer.Option("--json", help="Print the results as one JSON object, not as a table.")
]
SeedOption = Annotated[int, typer.Option("--seed", help="Same seed, same measurement.")]


def check_out(out: Path | None, *, kind: str) -> None:
    """Check that a folder can take a report, before the work and not after it.

    Raises:
        ConfigError: It is a file, cannot be written, or holds something else.
    """
    if out is not None:
        from mixtral.reports.folder import check_folder

        check_folder(out, kind=kind)


def lock_out(out: Path | None) -> "FolderLock | None":
    """Return a lock on the folder of a report, for a run that keeps there what it has done.

    Raises:
        ConfigError: Another run has it.
    """
    from mixtral.folder_lock import FolderLock

    if out is None:
        return None
    lock = FolderLock(out)
    if not lock.is_held:
        raise ConfigError(f"another run writes to {out}; wait for it, or name another folder.")
    return lock


def describe(model: ModelOptions, *, adapter: str | None) -> dict[str, Any]:
    """Return which weights are measured and how they are held, as JSON values."""
    from mixtral.checkpoint import resolve_model_path
    from mixtral.reports.provenance import describe_model

    name = str(resolve_model_path(model.model)) if is_hub_id(model.model) else model.model
    is_random = model.model.startswith("random:")
    return describe_model(
        name,
        layers=model.layers,
        weights_seed=model.weights_seed if is_random else None,
        dtype=model.dtype,
        quantization=model.quantization,
        exact_activations=model.exact_activations or None,
        device=model.device,
        max_model_len=model.max_model_len,
        kv_cache_dtype=model.kv_cache_dtype,
        tokenizer=model.tokenizer,
        tokenizer_fingerprint=_fingerprint_of(model.tokenizer),
        adapter=adapter,
        # Of the whole folder: its config has the scale.
        adapter_fingerprint=_fingerprint_of(adapter),
    )


def _fingerprint_of(path: str | None) -> str | None:
    """Return what tells the files at a path from others; None for a name such as v3."""
    from mixtral.fingerprint import fingerprint

    return fingerprint(Path(path)) if path is not None and Path(path).exists() else None


def model_title(model: ModelOptions, *, adapter: str | None) -> str:
    """Return a short name of model and format for a picture."""
    name = Path(model.model).name or model.model
    parts = (name, model.quantization or model.dtype, Path(adapter).name if adapter else None)
    return " ".join(part for part in parts if part)


def record_cost(llm: "LLM", *, is_kept: bool) -> dict[str, Any]:
    """Return what stands beside a quality: parameters, bytes and speed, as JSON values.

    Args:
        llm: The model, when nobody else uses it; its first adapter is used, if it has one.
        is_kept: Whether the results are written or printed as numbers; otherwise nothing is timed.
    """
    from mixtral.eval.model_facts import describe_weights, measure_speed

    cost: dict[str, Any] = {"weights": describe_weights(llm), "speed": None}
    if is_kept:
        adapter = next(iter(llm.requests.adapters), None)
        with spinner("timing the model"):
            speed = measure_speed(llm, adapter=adapter)
        cost["speed"] = speed and speed.as_dict()
    return cost


@contextmanager
def progress_bar(text: str) -> Iterator[Callable[[int, int], None]]:
    """Give a function that shows how much is done of how much; silent where nobody looks."""
    console = stderr_console()
    if not console.is_terminal:
        yield lambda done, total: None
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        TextColumn("{task.completed:,.0f} of {task.total:,.0f}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(text, total=1)
        yield lambda done, total: progress.update(task, completed=done, total=total)


def give_report(report: "Report", *, out: Path | None, as_json: bool) -> None:
    """Write a report, if there is a folder for it, and print it: tables, or one JSON object.

    It is printed, too, if it cannot be written, so that a full disk loses no number.
    """
    from mixtral.reports.folder import write_report
    from mixtral.reports.markdown import markdown

    try:
        if out is not None:
            say_written(out, is_drawn=write_report(out, report))
    finally:
        if as_json:
            print_json(report.as_dict())
        else:
            typer.echo(markdown(report.blocks), nl=False)


def say_written(out: Path, *, is_drawn: bool) -> None:
    """Say where a report is, and whether pictures are missing."""
    from mixtral.reports.pictures import NO_PICTURES

    if not is_drawn:
        note(NO_PICTURES)
    note(f"wrote {out}; open {out / 'index.html'}")
