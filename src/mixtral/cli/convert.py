"""``mixtral convert``: the same weights in another layout or precision.

Tensors stream from the source to the target one at a time, so memory holds one of them.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from mixtral.cli.console import format_bytes, print_json, spinner, stderr_console, stdout_console
from mixtral.cli.options import LayersOption
from mixtral.errors import ConfigError

if TYPE_CHECKING:
    import torch

    from mixtral.config import ModelConfig
    from mixtral.model_source import ModelSource

app = typer.Typer(add_completion=False)

_LAYOUTS = ("hf", "consolidated")
_Layout = Literal["hf", "consolidated"]
_EXAMPLES = """Examples:
  mixtral convert ./Mixtral-8x7B-v0.1 ./mistral-layout --format consolidated
  mixtral convert nano ./nano-float16 --format hf --dtype float16"""


@app.command(epilog=_EXAMPLES)
def convert(
    source: Annotated[str, typer.Argument(help="nano, a folder, a hub id, or random:PRESET.")],
    target: Annotated[Path, typer.Argument(help="Folder to write; it must not exist yet.")],
    layout: Annotated[
        str,
        typer.Option(
            "--format",
            help="hf: config.json and safetensors shards; consolidated: params.json and one file.",
        ),
    ],
    dtype: Annotated[
        str | None,
        typer.Option("--dtype", help="float32, bfloat16 or float16; without it, what is stored."),
    ] = None,
    layers: LayersOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Write a checkpoint in another layout or precision."""
    if layout not in _LAYOUTS:
        raise ConfigError(f"format is {layout!r}; it must be one of {', '.join(_LAYOUTS)}.")
    with spinner("starting"):
        from mixtral.loading import find_or_download, torch_dtype
    wanted = None if dtype is None else torch_dtype(dtype)
    found = find_or_download(source, layers=layers)
    begin = time.perf_counter()
    _write(found, target, "hf" if layout == "hf" else "consolidated", wanted)
    files = [file for file in target.iterdir() if file.is_file()]
    size = sum(file.stat().st_size for file in files)
    if as_json:
        seconds = round(time.perf_counter() - begin, 3)
        result = {"source": source, "target": str(target), "format": layout, "dtype": dtype}
        print_json(result | {"bytes": size, "files": len(files), "seconds": seconds})
    else:
        line = f"wrote {target}: {layout} layout, {len(files)} files, {format_bytes(size)}"
        stdout_console().print(line, markup=False, soft_wrap=True)


def _write(
    source: "ModelSource", target: Path, layout: _Layout, dtype: "torch.dtype | None"
) -> None:
    from mixtral import checkpoint
    from mixtral.loading import random_tensors, torch_dtype

    if source.folder is None:
        dtype = dtype or torch_dtype(source.config.dtype)
        with _progress(_total_bytes(source.config, layout, dtype)) as on_bytes:
            tensors = random_tensors(source.config, dtype=dtype)
            checkpoint.write_checkpoint(
                target, source.config, tensors, layout=layout, on_bytes=on_bytes
            )
        return
    config = checkpoint.open_checkpoint(source.folder).config
    with _progress(_total_bytes(config, layout, dtype)) as on_bytes:
        checkpoint.convert(source.folder, target, layout=layout, dtype=dtype, on_bytes=on_bytes)


def _total_bytes(config: "ModelConfig", layout: _Layout, dtype: "torch.dtype | None") -> int:
    if layout == "consolidated":
        # This layout has no word for a tied head and stores a copy of it.
        config = config.replace(tie_word_embeddings=False)
    element = config.weight_bytes() // config.num_parameters
    return config.num_parameters * (element if dtype is None else dtype.itemsize)


@contextmanager
def _progress(total: int) -> Iterator[Callable[[int], None]]:
    console = stderr_console()
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("writing", total=total)
        yield lambda count: progress.advance(task, count)
