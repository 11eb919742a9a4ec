"""``mixtral convert``: the same weights in another layout, another precision, or fewer bits.

Tensors stream from the source to the target one at a time, so memory holds one of them.
"""

import dataclasses
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, cast, get_args

import typer
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from mixtral.cli.calibration import run_calibration
from mixtral.cli.console import format_bytes, print_json, spinner, stderr_console, stdout_console
from mixtral.cli.options import LayersOption
from mixtral.errors import ConfigError
from mixtral.model_source import is_hub_id
from mixtral.quantization import RECIPES

if TYPE_CHECKING:
    import torch

    from mixtral.config import ModelConfig
    from mixtral.model_source import ModelSource

app = typer.Typer(add_completion=False)
logger = logging.getLogger(__name__)

_Layout = Literal["hf", "consolidated"]
_Gguf = Literal["f16", "bf16", "q8_0", "q4_0"]
_FORMATS = (*get_args(_Layout), "gguf")
_EXAMPLES = """Examples:
  mixtral convert ./Mixtral-8x7B-v0.1 ./mixtral-int4 --quantization int4
  mixtral convert nano ./nano-int3 --quantization int3 --calibrate text.txt
  mixtral convert ./Mixtral-8x7B-v0.1 ./mistral-layout --format consolidated
  mixtral convert nano ./nano-q8_0.gguf --format gguf --quantization q8_0
  mixtral convert nano ./nano-float16 --format hf --dtype float16"""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Wish:
    """What is to be written."""

    format: str
    """hf, consolidated or gguf."""
    quantization: str | None
    """Name of a recipe, or of one of GGUF's formats."""
    dtype: str | None
    """Precision of unquantised weights; None keeps it."""


@app.command(epilog=_EXAMPLES)
def convert(
    source: Annotated[
        str, typer.Argument(help="nano, a folder, a GGUF file, a hub id, or random:PRESET.")
    ],
    target: Annotated[
        Path, typer.Argument(help="Folder to write, or GGUF file; it must not exist yet.")
    ],
    target_format: Annotated[
        str | None,
        typer.Option(
            "--format",
            help="hf: config.json, safetensors shards and a tokenizer that transformers reads; "
            "consolidated: params.json and one file; "
            "gguf: one file for llama.cpp. With --quantization alone it is hf.",
        ),
    ] = None,
    quantization: Annotated[
        str | None,
        typer.Option(
            "--quantization",
            help="int8, int4 or int3: pack the matrices in a low-bit format; a conversion without "
            "--calibrate that was stopped goes on where it was when the same command runs again. "
            "With --format gguf: q8_0, q4_0, f16 or bf16.",
        ),
    ] = None,
    calibrate: Annotated[
        Path | None,
        typer.Option(
            "--calibrate",
            help="Text (.txt, or .jsonl with texts or conversations) on which the low-bit rounding "
            "is calibrated; a tenth of it is held out and measures the result. If it is stopped, "
            "it starts over.",
        ),
    ] = None,
    dtype: Annotated[
        str | None,
        typer.Option("--dtype", help="float32, bfloat16 or float16; without it, what is stored."),
    ] = None,
    layers: LayersOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Write a checkpoint in another layout, another precision or a low-bit format."""
    wish = _check_wish(target_format, quantization, dtype)
    if calibrate is not None and quantization not in RECIPES:
        raise ConfigError(
            f"calibrate goes with --quantization {', '.join(RECIPES)}, and quantization is "
            f"{quantization!r}; leave out one of them."
        )
    with spinner("starting"):
        from mixtral.loading import find_or_download, torch_dtype
    wanted = None if dtype is None else torch_dtype(dtype)
    found = find_or_download(source, layers=layers)
    begin = time.perf_counter()
    if wish.format == "gguf":
        _write_gguf(found, target, _gguf_quantization(wish, found))
    elif wish.quantization is not None and calibrate is not None:
        run_calibration(found, target, wish.quantization, calibrate, as_json=as_json)
    elif wish.quantization is not None:
        _quantize(found, target, wish.quantization, name=source)
    else:
        _write(found, target, cast(_Layout, wish.format), wanted)
    _report(source, target, wish, seconds=time.perf_counter() - begin, as_json=as_json)


def _report(source: str, target: Path, wish: _Wish, *, seconds: float, as_json: bool) -> None:
    files = [target] if target.is_file() else [f for f in target.iterdir() if f.is_file()]
    size = sum(file.stat().st_size for file in files)
    if as_json:
        result = {"source": source, "target": str(target), **dataclasses.asdict(wish)}
        print_json(result | {"bytes": size, "files": len(files), "seconds": round(seconds, 3)})
        return
    what = wish.quantization or f"{wish.format} layout"
    count = f"{len(files)} file{'s'[: len(files) > 1]}"
    line = f"wrote {target}: {what}, {count}, {format_bytes(size)}"
    stdout_console().print(line, markup=False, soft_wrap=True)


def _check_wish(target_format: str | None, quantization: str | None, dtype: str | None) -> _Wish:
    if target_format is None and quantization is None:
        raise ConfigError(
            f"neither --format ({', '.join(_FORMATS)}) nor --quantization ({', '.join(RECIPES)}) "
            "is given; one of them says what to write."
        )
    chosen = target_format or "hf"
    if chosen not in _FORMATS:
        raise ConfigError(f"format is {chosen!r}; it must be one of {', '.join(_FORMATS)}.")
    if quantization is not None:
        allowed = {"hf": tuple(RECIPES), "gguf": get_args(_Gguf)}.get(chosen, ())
        if not allowed:
            raise ConfigError(
                f"format is {chosen!r}, which has no low-bit weights; leave out --format or "
                "--quantization."
            )
        if quantization not in allowed:
            raise ConfigError(
                f"quantization is {quantization!r}; with format {chosen} it must be one of "
                f"{', '.join(allowed)}."
            )
        if dtype is not None:
            raise ConfigError(
                f"dtype is {dtype!r} and quantization is {quantization!r}; give one of them."
            )
    if chosen == "gguf" and dtype == "float32":
        raise ConfigError("dtype is 'float32'; with format gguf it must be bfloat16 or float16.")
    return _Wish(format=chosen, quantization=quantization, dtype=dtype)


def _gguf_quantization(wish: _Wish, source: "ModelSource") -> _Gguf:
    if wish.quantization is not None:
        return cast(_Gguf, wish.quantization)
    stored = _stored_dtype(source)
    if wish.dtype is None and stored == "float32":
        logger.warning(
            "%s is stored in float32 and its matrices become bfloat16; --dtype float16 keeps more "
            "digits",
            source.name,
        )
    return "f16" if (wish.dtype or stored) == "float16" else "bf16"


def _stored_dtype(source: "ModelSource") -> str:
    """Return the dtype of the weights themselves; the config may say another one, or none."""
    from mixtral.checkpoint import open_checkpoint

    if source.folder is None:
        return source.config.dtype
    return open_checkpoint(source.folder).dtype


def _write(
    source: "ModelSource", target: Path, layout: _Layout, dtype: "torch.dtype | None"
) -> None:
    from mixtral import checkpoint
    from mixtral.checkpoint.gguf import convert_from_gguf
    from mixtral.loading import torch_dtype
    from mixtral.random_weights import random_tensors

    if source.is_random:
        dtype = dtype or torch_dtype(source.config.dtype)
        with _progress(_total_bytes(source.config, layout, dtype)) as on_bytes:
            tensors = random_tensors(source.config, dtype=dtype)
            checkpoint.write_checkpoint(
                target, source.config, tensors, layout=layout, on_bytes=on_bytes
            )
    elif source.gguf is not None:
        with _progress(_total_bytes(source.config, layout, dtype)) as on_bytes:
            convert_from_gguf(source.gguf, target, layout=layout, dtype=dtype, on_bytes=on_bytes)
    elif source.folder is not None:
        config = checkpoint.open_checkpoint(source.folder).config
        with _progress(_total_bytes(config, layout, dtype)) as on_bytes:
            checkpoint.convert(source.folder, target, layout=layout, dtype=dtype, on_bytes=on_bytes)


def _quantize(source: "ModelSource", target: Path, quantization: str, *, name: str) -> None:
    from mixtral import checkpoint
    from mixtral.loading import torch_dtype
    from mixtral.random_weights import random_tensors

    config, recipe = source.config, RECIPES[quantization]
    where = source.folder or source.gguf
    with _progress(recipe.packed_bytes(config)) as on_bytes:
        if where is None:
            tensors = random_tensors(config, dtype=torch_dtype(config.dtype))
            recipe = recipe.made_from(name, tool=checkpoint.TOOL)
            checkpoint.write_packed(
                target, config, tensors, recipe, kept=config.dtype, on_bytes=on_bytes
            )
        else:
            known = name if name == "nano" or is_hub_id(name) else None
            checkpoint.quantize_checkpoint(where, target, recipe, name=known, on_bytes=on_bytes)


def _write_gguf(source: "ModelSource", target: Path, quantization: _Gguf) -> None:
    from mixtral.checkpoint.gguf import convert_to_gguf, gguf_bytes, write_gguf
    from mixtral.loading import torch_dtype
    from mixtral.random_weights import random_tensors

    config = source.config
    where = source.folder or source.gguf
    with _progress(gguf_bytes(config, quantization, None)) as on_bytes:
        if where is None:
            write_gguf(
                target,
                config,
                random_tensors(config, dtype=torch_dtype(config.dtype)),
                quantization=quantization,
                tokenizer_version=None,
                on_bytes=on_bytes,
            )
        else:
            convert_to_gguf(where, target, quantization=quantization, on_bytes=on_bytes)


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
