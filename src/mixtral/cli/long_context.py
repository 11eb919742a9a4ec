"""What ``mixtral passkey`` and ``mixtral perplexity`` share: progress, provenance, output."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from mixtral.cli.console import note, print_json, stderr_console, write_file
from mixtral.cli.options import ModelOptions
from mixtral.errors import ConfigError
from mixtral.model_source import is_hub_id

OutOption = Annotated[
    Path | None,
    typer.Option("--out", metavar="FOLDER", help="Write results, table and pictures here."),
]
JsonOption = Annotated[
    bool, typer.Option("--json", help="Print the results as one JSON object, not as a table.")
]
SeedOption = Annotated[int, typer.Option("--seed", help="Same seed, same measurement.")]


def check_out(out: Path | None) -> None:
    """Check that a folder for results can be one, before the work and not after it.

    Raises:
        ConfigError: It is a file.
    """
    if out is not None and out.exists() and not out.is_dir():
        raise ConfigError(f"out is {out}, which is a file; name a folder.")


def describe(model: ModelOptions, *, adapter: str | None) -> dict[str, Any]:
    """Return which weights are measured and how they are held, as JSON values."""
    from mixtral.checkpoint import resolve_model_path
    from mixtral.eval.provenance import describe_model, hash_file

    name = str(resolve_model_path(model.model)) if is_hub_id(model.model) else model.model
    is_random = model.model.startswith("random:")
    weights = Path(adapter or "") / "adapter_model.safetensors"
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
        adapter=adapter,
        adapter_sha256=hash_file(weights) if adapter and weights.is_file() else None,
    )


def model_title(model: ModelOptions, *, adapter: str | None) -> str:
    """Return a short name of model and format for a picture."""
    name = Path(model.model).name or model.model
    parts = (name, model.quantization or model.dtype, Path(adapter).name if adapter else None)
    return " ".join(part for part in parts if part)


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


def write_results(
    out: Path, values: dict[str, Any], *, table: str, draw: Callable[[], object] | None
) -> None:
    """Write ``results.json``, ``table.md`` and the pictures into a folder.

    Args:
        out: The folder; made if it is not there.
        values: The results as JSON values.
        table: The same for people, Markdown.
        draw: Writes the pictures; None draws nothing.

    Raises:
        OSError: A file cannot be written.
    """
    out.mkdir(parents=True, exist_ok=True)
    write_file(out / "results.json", json.dumps(values, indent=1, ensure_ascii=False) + "\n")
    write_file(out / "table.md", table)
    if draw is None:
        return
    try:
        draw()
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != "matplotlib":
            raise
        note("no pictures were drawn, matplotlib is missing: pip install 'mixtral[train]'.")


def print_results(values: dict[str, Any], *, table: str, as_json: bool) -> None:
    """Print the results: one JSON object, or the table."""
    if as_json:
        print_json(values)
    else:
        typer.echo(table, nl=False)
