"""``mixtral adapter``: look at a LoRA adapter, or merge it into its model."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from mixtral.cli.console import (
    format_bytes,
    format_count,
    print_json,
    spinner,
    stderr_console,
    stdout_console,
)
from mixtral.errors import CheckpointError, ConfigError
from mixtral.model_source import ModelSource, find_model, is_hub_id

if TYPE_CHECKING:
    from mixtral.config import ModelConfig
    from mixtral.model.adapter import Adapter

_EXAMPLES = """Examples:
  mixtral adapter info ./my-adapter
  mixtral adapter merge nano ./my-adapter ./my-model"""
_GROUPS = ("attention", "router", "experts")

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    help="Look at a LoRA adapter, or merge it into its model.",
    epilog=_EXAMPLES,
)

_Adapter = Annotated[
    Path, typer.Argument(help="Folder with adapter_config.json, as PEFT or mixtral train wrote it.")
]
_Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


@app.command(epilog=_EXAMPLES)
def merge(
    base: Annotated[str, typer.Argument(help="Unquantised model: nano, a folder or a hub id.")],
    adapter: _Adapter,
    target: Annotated[Path, typer.Argument(help="Folder to write; it must not exist yet.")],
    as_json: _Json = False,
) -> None:
    """Write a model with an adapter merged into its weights, in the layout of the model.

    To quantise it, merge first, then run mixtral convert --quantization on the result.
    """
    with spinner("starting"):
        from mixtral.checkpoint.merge import merge_adapter
        from mixtral.loading import find_or_download
    source = find_or_download(base)
    if source.folder is None:
        raise ConfigError(
            f"base is {base!r}; an adapter is merged into a checkpoint folder, nano or a hub id. "
            "Convert a GGUF file with mixtral convert --format hf first."
        )
    begin = time.perf_counter()
    with _progress(source.config.weight_bytes()) as on_bytes:
        merge_adapter(source.folder, adapter, target, on_bytes=on_bytes)
    size = sum(file.stat().st_size for file in target.iterdir())
    if as_json:
        seconds = round(time.perf_counter() - begin, 3)
        values = {"base": base, "adapter": str(adapter), "target": str(target)}
        print_json(values | {"bytes": size, "seconds": seconds})
        return
    line = f"wrote {target}: {base} with {adapter} merged into it, {format_bytes(size)}"
    stdout_console().print(line, markup=False, soft_wrap=True)


@app.command(epilog=_EXAMPLES)
def info(
    adapter: _Adapter,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            help="Its base model: nano, 8x7b, 8x22b, 7b, or a folder; only the geometry matters. "
            "Without it, the one that the adapter names.",
        ),
    ] = None,
    as_json: _Json = False,
) -> None:
    """Show what an adapter adapts, and whether it fits its base model."""
    with spinner("starting"):
        from mixtral.checkpoint.peft import read_adapter
        from mixtral.checkpoint.peft_config import CONFIG_FILE, PeftConfig
    named = PeftConfig.read(adapter / CONFIG_FILE).base_model
    source = _find_base(model, named, adapter)
    loaded = read_adapter(adapter, source.config)
    size = sum(file.stat().st_size for file in adapter.iterdir() if file.is_file())
    values: dict[str, Any] = {
        "adapter": str(adapter),
        "base_model": named,
        "read_for": source.name,
        "parameters": loaded.num_parameters,
        "bytes": size,
        "targets": {group: _describe_group(loaded, source.config, group) for group in _GROUPS},
    }
    if as_json:
        print_json(values)
    else:
        _print(values)


def _find_base(model: str | None, named: str | None, adapter: Path) -> ModelSource:
    """Return the model that an adapter is for; only its geometry matters here."""
    name = model or named
    if not name:
        raise CheckpointError(f"{adapter} does not say what its base model is; name it by --model.")
    try:
        if is_hub_id(name):  # Not downloaded for a few numbers.
            raise ConfigError(f"model is {name!r}; give a folder, or its size: 8x7b, 8x22b, 7b.")
        return find_model(name, allow_preset=True)
    except ConfigError as error:
        if model is not None:
            raise
        raise CheckpointError(
            f"{adapter} names the base model {name!r}, which is not here; name a folder or a size "
            "(8x7b, 8x22b, 7b) by --model."
        ) from error


def _describe_group(adapter: "Adapter", config: "ModelConfig", group: str) -> dict[str, Any]:
    from mixtral.model.adapter import adaptable_linears

    parts = {"attention": ".self_attn.", "router": ".gate", "experts": ".experts."}
    names = [name for name in adaptable_linears(config) if parts[group] in name]
    found = [adapter.matrices[name] for name in names if name in adapter.matrices]
    return {
        "adapted": len(found),
        "linears": len(names),
        "ranks": sorted({matrices.rank for matrices in found}),
        "scales": sorted({matrices.scale for matrices in found}),
        "parameters": sum(matrices.num_parameters for matrices in found),
    }


def _print(values: dict[str, Any]) -> None:
    console = stdout_console()
    size = f"{format_count(values['parameters'])} parameters, {format_bytes(values['bytes'])}"
    base = values["base_model"] or f"not named; read for {values['read_for']}"
    for line in (f"{values['adapter']}: {size}", f"base model: {base}"):
        console.print(line, markup=False, soft_wrap=True)
    table = Table("target", "linears", "rank", "scale", "parameters", box=None)
    for group, found in values["targets"].items():
        if found["linears"]:
            table.add_row(
                group,
                f"{found['adapted']} of {found['linears']}",
                ", ".join(map(str, found["ranks"])) or "-",
                ", ".join(f"{scale:.4g}" for scale in found["scales"]) or "-",
                format_count(found["parameters"]),
            )
    console.print(table)


@contextmanager
def _progress(total: int) -> Iterator[Callable[[int], None]]:
    console = stderr_console()
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    with Progress(
        *columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal
    ) as progress:
        task = progress.add_task("merging", total=total)
        yield lambda count: progress.advance(task, count)
