"""``mixtral train plan``: memory and time of a training run, worked out before it starts.

From a recipe, from options, or from a recipe that options change. No weights are touched; data
are read to count their steps, unless that would take long. The arithmetic is in ``train/plan.py``.
"""

import dataclasses
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from mixtral.cli.console import note, print_json, spinner
from mixtral.cli.options import grouped_options
from mixtral.cli.train_plan_page import plan_as_json, print_plan
from mixtral.config import ModelConfig, read_recipe_file
from mixtral.errors import ConfigError, Error
from mixtral.machine import available_memory_bytes
from mixtral.model_source import ModelSource, find_model

if TYPE_CHECKING:
    from mixtral.train.lora_settings import LoraSettings
    from mixtral.train.plan import PlanInput
    from mixtral.train.recipe import TrainRecipe

EPILOG = """Examples:
  mixtral train plan recipes/nano/pretrain.toml --gpus 0
  mixtral train plan --model 8x7b --lora-rank 16 --quantization int4
  mixtral train plan --model 8x7b --gpus 8 --checkpointing"""
"""What ``--help`` ends with."""

# Their geometry is published, so that no download is needed to plan with it.
_PRESET_OF = {
    f"mistralai/Mixtral-{size}{kind}-v0.1": size.lower()
    for size in ("8x7B", "8x22B")
    for kind in ("", "-Instruct")
}
MOST_COUNTED_BYTES = 20_000_000
"""Records in larger files are not counted: a second of a core encodes about half a megabyte."""
_PROBE_SIZE = 1024
_PROBE_SECONDS = 0.3


# Fields of ``PlanInput`` that their options call otherwise.
_OPTION_OF = {
    "num_devices": "--gpus",
    "num_steps": "--steps",
    "device_memory_gb": "--gpu-memory-gb",
}


def _option(*names: str, panel: str, help: str) -> Any:
    # Escaped: rich would take what stands in square brackets for markup.
    return typer.Option(*names, help=escape(help), rich_help_panel=panel, show_default=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class RunOptions:
    """What is trained; None takes the recipe's value, or the default."""

    model: Annotated[
        str | None,
        _option("--model", panel="Run", help="8x7b, 8x22b, 7b, nano, or a checkpoint folder."),
    ] = None
    lora_rank: Annotated[
        int | None, _option("--lora-rank", panel="Run", help="Train an adapter; 0 trains all.")
    ] = None
    lora_targets: Annotated[
        str | None,
        _option("--lora-targets", panel="Run", help="attention, router, experts, with commas."),
    ] = None
    quantization: Annotated[
        str | None,
        _option("--quantization", "-q", panel="Run", help="Base as int8, int4 or int3; or none."),
    ] = None
    dtype: Annotated[
        str | None, _option("--dtype", panel="Run", help="bfloat16 or float32. [bfloat16]")
    ] = None
    tokens_per_step: Annotated[
        int | None,
        _option("--tokens-per-step", panel="Run", help="Tokens of an optimizer step. [65,536]"),
    ] = None
    micro_batch_tokens: Annotated[
        int | None,
        _option("--micro-batch-tokens", panel="Run", help="Tokens of one pass. [4,096]"),
    ] = None
    max_seq_len: Annotated[
        int | None, _option("--max-seq-len", panel="Run", help="Tokens of a sequence. [4,096]")
    ] = None
    num_steps: Annotated[
        int | None, _option("--steps", panel="Run", help="Optimizer steps. [1,000]")
    ] = None
    activation_checkpointing: Annotated[
        bool | None,
        typer.Option(
            "--checkpointing/--no-checkpointing",
            help="Run layers again in the backward pass.",
            rich_help_panel="Run",
            show_default=False,
        ),
    ] = None


@dataclass(frozen=True, kw_only=True, slots=True)
class MachineOptions:
    """Where it is to run."""

    gpus: Annotated[
        int | None,
        _option("--gpus", panel="Machine", help="Number of GPUs; 0 is this CPU. [1]"),
    ] = None
    gpu_memory_gb: Annotated[
        float | None,
        _option("--gpu-memory-gb", panel="Machine", help="Memory of one, 10^9 bytes. [80]"),
    ] = None
    tflops: Annotated[
        float | None,
        _option("--tflops", panel="Machine", help="Its peak; on this CPU measured. [990, H100]"),
    ] = None
    mfu: Annotated[
        float | None,
        _option("--mfu", panel="Machine", help="Share of the peak that is reached. [0.4]"),
    ] = None
    reserve_gb: Annotated[
        float | None,
        _option("--reserve-gb", panel="Machine", help="Memory for all else. [3; 0.4 on a CPU]"),
    ] = None
    expert_parallel: Annotated[
        int | None,
        _option("--expert-parallel", panel="Machine", help="GPUs that share the experts. [1]"),
    ] = None

    def fields(self, config: ModelConfig, *, is_cpu: bool) -> dict[str, Any]:
        """Return these as fields of ``PlanInput``; what was not given and has no value is left out.

        Args:
            config: The model.
            is_cpu: Whether the recipe trains on a CPU, where ``--gpus`` says nothing else.
        """
        if self.gpus is not None and self.gpus < 0:
            raise ConfigError(f"--gpus is {self.gpus}; it must be at least 0, which is this CPU.")
        on_cpu = self.gpus == 0 or (self.gpus is None and is_cpu)
        values: dict[str, Any] = {
            "num_devices": self.gpus or 1,
            "device_memory_gb": self.gpu_memory_gb,
            "tflops": self.tflops,
            "mfu": self.mfu,
            "reserve_gb": self.reserve_gb,
            "expert_parallel": self.expert_parallel,
        }
        if on_cpu:
            values["is_cpu"] = True
            if self.gpu_memory_gb is None:
                values["device_memory_gb"] = available_memory_bytes() / 1e9
            if self.tflops is None:
                values["tflops"] = _measure_tflops()
            # Measured: a process of ours that has run a step, less the model.
            values["reserve_gb"] = 0.4 if self.reserve_gb is None else self.reserve_gb
        return {name: value for name, value in values.items() if value is not None}


@grouped_options
def plan(
    run: RunOptions,
    machine: MachineOptions,
    recipe: Annotated[
        Path | None, typer.Argument(metavar="[RECIPE.toml]", help="TOML file of a run.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Work out memory per device and time of a training run, and whether it fits."""
    with spinner("starting"):
        from mixtral.train.plan import make_plan
    given = _plan_input(recipe, run, machine)
    made = make_plan(given)
    if as_json:
        print_json(plan_as_json(given, made))
    else:
        print_plan(given, made)


def _plan_input(path: Path | None, run: RunOptions, machine: MachineOptions) -> "PlanInput":
    from mixtral.train.plan import PlanInput

    if path is None and run.model is None:
        raise ConfigError("neither a recipe nor --model is given; plan needs one of them.")
    recipe = None if path is None else _read(path)
    source = _source(recipe, run.model)
    config = source.config
    values = {} if recipe is None else _recipe_fields(recipe)
    is_cpu = recipe is not None and recipe.device == "cpu"
    values |= machine.fields(config, is_cpu=is_cpu)
    for name in ("dtype", "tokens_per_step", "micro_batch_tokens", "max_seq_len", "num_steps"):
        if (value := getattr(run, name)) is not None:
            values[name] = value
    if run.activation_checkpointing is not None:
        values["activation_checkpointing"] = run.activation_checkpointing
    if packed := _packed_as(recipe):
        values["quantization"] = packed
    if run.quantization is not None:
        values["quantization"] = "" if run.quantization == "none" else run.quantization
    if (lora := _lora(recipe, run)) is not None:
        values["adapter_parameters"] = _count(lora, config)
    elif recipe is not None and recipe.init_adapter and run.lora_rank is None:
        values["adapter_parameters"] = _count_in(Path(recipe.init_adapter), config)
    if values.get("dtype") == "auto":
        values["dtype"] = "float32" if machine.gpus == 0 or is_cpu else "bfloat16"
    if not values.get("micro_batch_tokens", 1):
        defaults = {field.name: field.default for field in dataclasses.fields(PlanInput)}
        tokens = values.get("tokens_per_step", defaults["tokens_per_step"])
        values["micro_batch_tokens"] = max(1, tokens // values["num_devices"])
    try:
        given = PlanInput(config=config, **values)
    except ConfigError as error:
        name, _, rest = str(error).partition(" ")
        raise ConfigError(f"{_OPTION_OF.get(name, name)} {rest}") from error
    if recipe is not None:
        return dataclasses.replace(given, **_measured(recipe, given, source, run.num_steps))
    return given


def _read(path: Path) -> "TrainRecipe":
    with spinner("starting"):
        from mixtral.train.recipe_file import read_recipe
    return read_recipe(path)


def _measured(
    recipe: "TrainRecipe", given: "PlanInput", source: ModelSource, asked_steps: int | None
) -> dict[str, Any]:
    """Return what the data of a recipe say about its steps, as fields of ``PlanInput``.

    Raises:
        ConfigError: The data cannot be learned from.
        TokenizerError: There are records to count, and the model has no tokenizer.
    """
    path = Path(recipe.train_tokens or recipe.train_records)
    max_steps = asked_steps or recipe.max_steps
    if max_steps and recipe.train_tokens:
        return {}
    if not path.is_file():
        why = "which is not here yet"
    elif recipe.train_tokens:
        return {"num_steps": recipe.num_steps(_steps_of_tokens(path, given))}
    elif path.stat().st_size > MOST_COUNTED_BYTES:
        why = f"which is larger than {MOST_COUNTED_BYTES / 1e6:g} MB and not counted"
    else:
        return _fields_of_records(recipe, given, source, max_steps)
    if not max_steps:
        note(
            f"num_epochs = {recipe.num_epochs:g} is as many steps as {path} makes, {why}: the "
            f"time is that of {given.num_steps:,} steps; say another number with --steps."
        )
    return {}


def _steps_of_tokens(path: Path, given: "PlanInput") -> int:
    from mixtral.train.data import TokenStream

    stream = TokenStream(
        path,
        tokens_per_step=given.tokens_per_step,
        max_seq_len=given.max_seq_len,
        vocab_size=2**16,  # all ids of the file: it is only counted here
    )
    return stream.num_steps


def _fields_of_records(
    recipe: "TrainRecipe", given: "PlanInput", source: ModelSource, max_steps: int
) -> dict[str, Any]:
    with spinner("counting"):
        from mixtral.train.epoch import measure_epoch, stage_of_records

        if max_steps and stage_of_records(Path(recipe.train_records)) != "dpo":
            return {}
        changed = dataclasses.replace(
            recipe,
            tokens_per_step=given.tokens_per_step,
            max_seq_len=given.max_seq_len,
            micro_batch_tokens=0,
        )
        epoch = measure_epoch(changed, source, micro_batch_tokens=given.micro_batch_tokens)
    num_steps = max_steps or recipe.num_steps(epoch.num_steps)
    return {
        "num_steps": num_steps,
        "tokens_per_step": epoch.tokens_per_step,
        "reference_passes": epoch.reference_passes(num_steps),
    }


def _source(recipe: "TrainRecipe | None", model: str | None) -> ModelSource:
    if model is not None:
        return _geometry(model, allow_preset=True)
    assert recipe is not None
    if not recipe.init_from:
        random = find_model(f"random:{recipe.model}")
        return dataclasses.replace(random, config=recipe.first_config())
    try:
        return _geometry(recipe.init_from, allow_preset=False)
    except Error as error:
        raise ConfigError(
            f"init_from is {recipe.init_from}, which is not here yet; say what it is like with "
            "--model, for one --model 8x7b."
        ) from error


def _geometry(model: str, *, allow_preset: bool) -> ModelSource:
    try:
        return find_model(model, allow_preset=allow_preset)
    except Error:
        if model not in _PRESET_OF:
            raise
        note(f"the plan takes the published geometry of {model}, {_PRESET_OF[model]}.")
        return find_model(_PRESET_OF[model], allow_preset=True)


def _packed_as(recipe: "TrainRecipe | None") -> str:
    """Return the low-bit format of the checkpoint that a recipe starts from; empty: none."""
    if recipe is None or not recipe.init_from or not (recipe.lora or recipe.init_adapter):
        return ""
    file = Path(recipe.init_from) / "config.json"
    packed = read_recipe_file(file) if file.is_file() else None
    return "" if packed is None else packed.name


def _recipe_fields(recipe: "TrainRecipe") -> dict[str, Any]:
    """Return what a recipe says, as fields of ``PlanInput``."""
    values: dict[str, Any] = {
        name: getattr(recipe, name)
        for name in (
            "quantization",
            "dtype",
            "tokens_per_step",
            "micro_batch_tokens",
            "activation_checkpointing",
        )
    }
    values["max_seq_len"] = max(recipe.max_seq_len, recipe.long_seq_len)
    if recipe.max_steps:
        values["num_steps"] = recipe.max_steps
    return values | {"expert_parallel": recipe.parallel.expert_parallel}


def _lora(recipe: "TrainRecipe | None", run: RunOptions) -> "LoraSettings | None":
    """Return what is adapted: as the options say, else as the recipe does."""
    from mixtral.train.lora_settings import LoraSettings

    given = None if recipe is None else recipe.lora
    if run.lora_rank == 0:
        return None
    if run.lora_rank is None and (run.lora_targets is None or given is None):
        if run.lora_targets is not None:
            raise ConfigError("--lora-targets is given without --lora-rank; give both.")
        return given
    changes: dict[str, Any] = {} if run.lora_rank is None else {"rank": run.lora_rank}
    if run.lora_targets is not None:
        changes["targets"] = [name.strip() for name in run.lora_targets.split(",")]
    return dataclasses.replace(given or LoraSettings(), **changes)


def _count(lora: "LoraSettings", config: ModelConfig) -> int:
    """Return the weights of an adapter: r (in + out) for each linear."""
    from mixtral.model.adapter import adaptable_linears

    shapes = adaptable_linears(config)
    return sum(spec.rank * sum(shapes[name]) for name, spec in lora.specs(config).items())


def _count_in(folder: Path, config: ModelConfig) -> int:
    """Return the weights of an adapter that is there already."""
    from mixtral.checkpoint.peft import read_adapter

    if not folder.is_dir():
        raise ConfigError(
            f"init_adapter is {folder}, which is not here yet; say what it is like with "
            "--lora-rank and --lora-targets."
        )
    return read_adapter(folder, config).num_parameters


def _measure_tflops() -> float:
    """Return what NumPy's matrix product reaches here in float32, 10^12 operations per second."""
    import numpy as np

    matrix = np.ones((_PROBE_SIZE, _PROBE_SIZE), dtype=np.float32)
    matrix @ matrix
    begin, rounds = time.perf_counter(), 0
    while time.perf_counter() - begin < _PROBE_SECONDS:
        matrix @ matrix
        rounds += 1
    return rounds * 2 * _PROBE_SIZE**3 / (time.perf_counter() - begin) / 1e12
