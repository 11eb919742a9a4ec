"""``mixtral info``: how large a model is, and whether this machine can hold it.

Everything follows from the config by arithmetic, so neither weights nor torch are touched; of a
hub id only the config is downloaded.
"""

import dataclasses
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from mixtral.cli.console import format_bytes, format_count, print_json, stdout_console
from mixtral.cli.options import LayersOption
from mixtral.config import DType, ModelConfig, read_recipe_file
from mixtral.errors import CheckpointError, ConfigError, TokenizerError
from mixtral.machine import available_memory_bytes
from mixtral.memory_plan import CACHE_SHARE, cache_dtype, peak_bytes
from mixtral.model_source import ModelSource, find_model, is_hub_id, read_config
from mixtral.quantization import RECIPES, QuantizationRecipe
from mixtral.tokenizer import load_tokenizer

app = typer.Typer(add_completion=False)

_DTYPES: tuple[DType, ...] = ("float32", "bfloat16", "float16")
# Long enough for a conversation.
_CONTEXT = 4096
_CONFIG_FILES = ("config.json", "params.json")
_WEIGHT_FILES = (
    ("Hugging Face", re.compile(r"model(-\d+-of-\d+)?\.safetensors")),
    ("Mistral consolidated", re.compile(r"consolidated([.-].+)?\.(safetensors|pth|pt)")),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Fit:
    """Whether a model fits into memory in one format."""

    weight_bytes: int
    """Bytes of the weights."""
    kv_bytes: int
    """Bytes of the KV cache of one full context."""
    available_bytes: int
    """Bytes that are free."""
    max_context: int
    """Tokens of context that fit beside the weights; 0 where not even the weights fit."""
    default_context: int
    """Tokens of context that a run gives where the size of its KV cache is not named."""
    peak_bytes: int
    """Peak memory of a process that runs it with the context asked about."""

    @property
    def fits(self) -> bool:
        """Whether the weights and one full context fit."""
        return self.weight_bytes + self.kv_bytes <= self.available_bytes

    @property
    def reason(self) -> str:
        """The numbers behind it."""
        needs = f"needs {format_bytes(self.weight_bytes)} + {format_bytes(self.kv_bytes)}"
        numbers = f"{needs} for a full context, {format_bytes(self.available_bytes)} are free"
        if not self.fits and self.max_context:
            numbers += f"; room for a context of {self.max_context:,} tokens"
        if self.default_context == self.max_context:
            return numbers
        return f"{numbers}; {self.default_context:,} tokens without --kv-cache-gb"


@app.command(epilog="Examples:\n  mixtral info 8x22b\n  mixtral info random:8x7b --layers 2 --json")
def info(
    model: Annotated[
        str,
        typer.Argument(help="8x7b, 8x22b, 7b, nano, random:PRESET, a folder, or a hub id."),
    ],
    layers: LayersOption = None,
    context: Annotated[
        int | None,
        typer.Option(
            "--context",
            help="Tokens of context for the peak memory.",
            min=1,
            show_default="4096, or all that the model has",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show the size of a model, and whether it fits into this machine."""
    # With layers, find_model says that the option goes with random weights.
    if is_hub_id(model) and layers is None:
        config_folder = _hub_folder(model)
        source = ModelSource(name=model, config=read_config(config_folder), folder=None)
        recipe = _recipe(config_folder)
    else:
        source = find_model(model, layers=layers, allow_preset=True)
        recipe = None if source.folder is None else _recipe(source.folder)
    tokens = _checked_context(context, source.config)
    available = available_memory_bytes()
    fits = {
        name: _fit(source.config, name, num_bytes, available, context=tokens)
        for name, num_bytes in _bytes_by_format(source.config).items()
    }
    files = None if source.folder is None else _weight_files(source.folder)
    tokenizer = None if source.folder is None else _tokenizer(source.folder, source.config)
    if as_json:
        values = _as_json(source, fits, available, files, tokenizer)
        print_json(values | {"quantization": None if recipe is None else recipe.to_json()})
    else:
        _print_table(source, fits, files, tokenizer, recipe, context=tokens)


def _bytes_by_format(config: ModelConfig) -> dict[str, int]:
    sizes = {str(dtype): config.weight_bytes(dtype) for dtype in _DTYPES}
    return sizes | {name: recipe.packed_bytes(config) for name, recipe in RECIPES.items()}


def _recipe(folder: Path) -> QuantizationRecipe | None:
    file = folder / "config.json"
    return read_recipe_file(file) if file.is_file() else None


def _checked_context(context: int | None, config: ModelConfig) -> int:
    longest = config.max_position_embeddings
    if context is not None and context > longest:
        raise ConfigError(
            f"context is {context}; it must be from 1 to {longest}, the context of this model."
        )
    return context or min(_CONTEXT, longest)


def _fit(config: ModelConfig, name: str, weights: int, available: int, *, context: int) -> Fit:
    kv_dtype = cache_dtype(name)
    per_token = config.kv_bytes_per_token(kv_dtype)
    longest, free = config.max_position_embeddings, max(0, available - weights)
    return Fit(
        weight_bytes=weights,
        kv_bytes=per_token * longest,
        available_bytes=available,
        max_context=min(longest, free // per_token),
        default_context=min(longest, int(CACHE_SHARE * free / per_token)),
        peak_bytes=peak_bytes(config, weight_bytes=weights, context=context, kv_dtype=kv_dtype),
    )


def _as_json(
    source: ModelSource,
    fits: dict[str, Fit],
    available: int,
    files: dict[str, Any] | None,
    tokenizer: dict[str, str] | None,
) -> dict[str, Any]:
    config = source.config
    return {
        "model": source.name,
        "num_parameters": config.num_parameters,
        "num_active_parameters": config.num_active_parameters,
        "max_position_embeddings": config.max_position_embeddings,
        "kv_bytes_per_token": config.kv_bytes_per_token(config.dtype),
        "kv_bytes_full_context": fits[config.dtype].kv_bytes,
        "bytes": {name: fit.weight_bytes for name, fit in fits.items()},
        "fits": {name: fit.fits for name, fit in fits.items()},
        "peak_bytes": {name: fit.peak_bytes for name, fit in fits.items()},
        "max_context_that_fits": {name: fit.max_context for name, fit in fits.items()},
        "default_context": {name: fit.default_context for name, fit in fits.items()},
        "available_memory_bytes": available,
        "files": files,
        "tokenizer": tokenizer,
        "config": dataclasses.asdict(config),
    }


def _print_table(
    source: ModelSource,
    fits: dict[str, Fit],
    files: dict[str, Any] | None,
    tokenizer: dict[str, str] | None,
    recipe: QuantizationRecipe | None,
    *,
    context: int,
) -> None:
    console = stdout_console()
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for label, value in _rows(source.config):
        table.add_row(label, value)
    if files is not None:
        size = format_bytes(files["bytes"])
        table.add_row("files", f"{files['layout']}, {files['count']} of weights, {size}")
    if recipe is not None:
        table.add_row("quantization", escape(_describe_recipe(recipe, source.config)))
    if tokenizer is not None:
        table.add_row("tokenizer", escape(_describe(tokenizer)))
    console.print(f"[bold]{escape(source.name)}[/]")
    console.print(table)
    memory = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    memory.add_column("format", style="bold", no_wrap=True)
    memory.add_column("weights", justify="right", no_wrap=True)
    memory.add_column("peak", justify="right", no_wrap=True)
    memory.add_column("fits here", no_wrap=True)
    memory.add_column("because", ratio=1)
    for name, fit in fits.items():
        answer = "[green]yes[/]" if fit.fits else "[red]no[/]"
        sizes = (format_bytes(fit.weight_bytes), format_bytes(fit.peak_bytes))
        memory.add_row(name, *sizes, answer, fit.reason)
    console.print()
    console.print(memory)
    console.print(f"peak: the whole process with a context of {context:,} tokens (--context)")


def _rows(config: ModelConfig) -> list[tuple[str, str]]:
    total, active = config.num_parameters, config.num_active_parameters
    experts = f"{config.num_local_experts} per layer, {config.num_experts_per_tok} at work"
    per_token = config.kv_bytes_per_token(config.dtype)
    full = per_token * config.max_position_embeddings
    window = config.sliding_window
    return [
        ("parameters", f"{format_count(total)} ({total:,})"),
        ("at work per token", f"{format_count(active)} ({active:,})"),
        ("layers", str(config.num_hidden_layers)),
        ("hidden size", f"{config.hidden_size:,}"),
        ("expert size" if not config.is_dense else "feed-forward", f"{config.intermediate_size:,}"),
        ("experts", "none (dense)" if config.is_dense else experts),
        (
            "attention heads",
            f"{config.num_attention_heads} of {config.head_dim}, "
            f"{config.num_key_value_heads} for keys and values",
        ),
        (
            "context",
            f"{config.max_position_embeddings:,} tokens"
            + (f", each sees {window:,}" if window else ""),
        ),
        ("vocabulary", f"{config.vocab_size:,}" + (", tied" if config.tie_word_embeddings else "")),
        ("rope theta", f"{config.rope_theta:,.0f}"),
        (
            "KV cache",
            f"{format_bytes(per_token)} per token, {format_bytes(full)} for a full context "
            f"({config.dtype})",
        ),
    ]


def _weight_files(folder: Path) -> dict[str, Any] | None:
    """Tell the layout by the names of the files; what is in them is for loading to check."""
    for layout, pattern in _WEIGHT_FILES:
        found = sorted(file for file in folder.iterdir() if pattern.fullmatch(file.name))
        if found:
            size = sum(file.stat().st_size for file in found)
            return {"layout": layout, "count": len(found), "bytes": size}
    return None


def _tokenizer(folder: Path, config: ModelConfig) -> dict[str, str]:
    try:
        tokenizer = load_tokenizer(folder, vocab_size=config.vocab_size)
    except TokenizerError as error:
        return {"error": str(error)}
    return {"version": tokenizer.version, "source": tokenizer.source}


def _describe(tokenizer: dict[str, str]) -> str:
    if "error" in tokenizer:
        return f"none: {tokenizer['error']}"
    return f"{tokenizer['version']}, {tokenizer['source']}"


def _describe_recipe(recipe: QuantizationRecipe, config: ModelConfig) -> str:
    bits = recipe.bits_per_weight(config)
    parts = f"experts {recipe.experts}, attention {recipe.attention}, head {recipe.lm_head}"
    text = f"{recipe.name}: {parts}; {bits:.2f} bits per weight, embedding included"
    if recipe.origin is None:
        return text
    how = f"calibrated on {recipe.origin.calibration}" if recipe.origin.calibration else "plain"
    return f"{text}; {how}, from {recipe.origin.source} by {recipe.origin.tool}"


def _hub_folder(name: str) -> Path:
    """Return a folder with the config of a hub id, cached or by a download of that one file.

    Raises:
        CheckpointError: There is no such repository or no config in it, or it cannot be reached.
    """
    from huggingface_hub import HfApi, hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    repo, _, revision = name.partition("@")
    # The HTTP library's own base class, whichever this version of huggingface_hub is built on.
    http_error: type[Exception] = HfHubHTTPError.__bases__[0]
    try:
        for file in _CONFIG_FILES:
            path = try_to_load_from_cache(repo, file, revision=revision or None)
            if isinstance(path, str):
                return Path(path).parent
        # Asked before the download, which would try again and again where there is no network.
        siblings = HfApi().model_info(repo, revision=revision or None).siblings or []
        names = {sibling.rfilename for sibling in siblings}
        for file in _CONFIG_FILES:
            if file in names:
                path = hf_hub_download(repo, file, revision=revision or None)
                return Path(path).parent
    except (http_error, HFValidationError, OSError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise CheckpointError(
            f"{name} is neither a folder here nor a hub model that can be read: {first}. "
            "Check the spelling and the network, or give a local folder."
        ) from error
    raise CheckpointError(f"{name} has neither config.json nor params.json; is it a model?")
