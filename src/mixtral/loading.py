"""From a model's name to a model in memory: weights, dtype, device."""

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor
from torch.nn import functional

from mixtral.checkpoint import (
    Checkpoint,
    open_checkpoint,
    packed_config,
    quantized_tensors,
    resolve_model_path,
    verify_checkpoint,
)
from mixtral.config import BYTES_PER_ELEMENT, DType, ModelConfig
from mixtral.errors import CheckpointError, ConfigError, UnsupportedError
from mixtral.kernels.cpu import load_library
from mixtral.kernels.formats import dequantize, format_of_packed
from mixtral.machine import available_memory_bytes
from mixtral.model import CpuTransformer, LanguageModel, Transformer
from mixtral.model_source import ModelSource, find_model, is_hub_id
from mixtral.quantization import RECIPES, QuantizationRecipe, find_recipe
from mixtral.random_weights import random_packed_tensors, random_tensors

if TYPE_CHECKING:
    from mixtral.checkpoint.gguf import GgufCheckpoint

logger = logging.getLogger(__name__)

_CACHE_DTYPES = ("int8", *BYTES_PER_ELEMENT)


def find_or_download(name: str | Path, *, layers: int | None = None) -> ModelSource:
    """Find a model by name, downloading a hub id first.

    Raises:
        ConfigError: The name means nothing.
        CheckpointError: The download failed, or the folder is not a model.
    """
    name = str(name)
    if is_hub_id(name) and not name.startswith("random:"):
        return find_model(str(resolve_model_path(name, progress=True)), layers=layers)
    return find_model(name, layers=layers)


def load_model(
    source: ModelSource,
    *,
    dtype: str | None = None,
    quantization: str | None = None,
    device: str = "cpu",
    seed: int = 0,
    exact: bool = False,
    kv_dtype: str | None = None,
) -> LanguageModel:
    """Load a model, ready for inference.

    On the CPU, weights that are stored as they are used stay in the memory map of their file; all
    others are read, converted and released one matrix at a time. bfloat16 and low-bit weights run
    in C++ there, all others in PyTorch.

    Args:
        source: Where the weights come from.
        dtype: float32, bfloat16 or float16; None keeps what is stored.
        quantization: int8, int4 or int3 packs the weights as they come; None leaves them.
        device: A torch device.
        seed: Seed of random weights; of others it must be 0.
        exact: Whether states meet packed weights with 16 bits instead of 8; not for others.
        kv_dtype: int8 caches keys and values in 8 bits, where the model runs in C++; None keeps
            bfloat16 there, and the dtype of the weights elsewhere.

    Raises:
        ConfigError: The dtype, quantization or device is unknown, or they do not go together.
        UnsupportedError: The device is not there, or the weights do not fit into memory.
        CheckpointError: A file is wrong.
    """
    where = torch_device(device)
    if kv_dtype is not None and kv_dtype not in _CACHE_DTYPES:
        raise ConfigError(
            f"kv_cache_dtype is {kv_dtype!r}; it must be one of {', '.join(_CACHE_DTYPES)}."
        )
    recipe = None if quantization is None else find_recipe(quantization)
    if recipe is not None and dtype is not None:
        raise ConfigError(
            f"dtype is {dtype!r} and quantization is {quantization!r}; give one of them."
        )
    if seed and not source.is_random:
        raise ConfigError(
            f"the seed of random weights is {seed}, and {source.name!r} has weights of its own; "
            "leave it out, or name random weights, such as random:8x7b."
        )
    weights = _open_weights(source, dtype=dtype, recipe=recipe, where=where, seed=seed)
    if exact and weights.recipe is None:
        raise ConfigError(
            f"exact_activations is true, and {source.name!r} runs in {weights.dtype}, where all "
            "states have that precision; leave it out, or use quantization."
        )
    has_kernels = weights.recipe is not None or (
        weights.dtype == torch.bfloat16 and CpuTransformer.can_run(weights.config)
    )
    is_native = where.type == "cpu" and has_kernels and load_library() is not None
    if is_native:
        return CpuTransformer(
            weights.config, weights.tensors, exact=exact, kv_dtype=kv_dtype or "bfloat16"
        )
    if kv_dtype not in (None, str(weights.dtype).removeprefix("torch.")):
        raise UnsupportedError(
            f"kv_cache_dtype is {kv_dtype!r}; {weights.dtype} weights on {where} cache keys and "
            "values in their own dtype. Leave it out, or use bfloat16 or low-bit weights on a CPU."
        )
    if weights.recipe is None:
        return _dense_model(weights, where)
    logger.warning(
        "the low-bit weights are unpacked to bfloat16, because %s",
        "the C++ library is not built here" if where.type == "cpu" else f"{where} has no kernels",
    )
    refuse_if_too_large(weights.config, "bfloat16", where)
    unpacked = unpacked_tensors(weights.tensors, weights.config)
    return Transformer.from_tensors(weights.config, unpacked, where)


def load_transformer(source: ModelSource, *, dtype: str | None = None) -> Transformer:
    """Load unquantised weights as the PyTorch model, on the CPU; mapped where they can be.

    Args:
        source: Where the weights come from.
        dtype: float32, bfloat16 or float16; None keeps what is stored.

    Raises:
        UnsupportedError: The weights do not fit into memory.
        CheckpointError: A file is wrong, or the weights are packed.
    """
    where = torch.device("cpu")
    weights = _open_weights(source, dtype=dtype, recipe=None, where=where, seed=0)
    if weights.recipe is not None:
        raise CheckpointError(
            f"{source.name} is packed as {weights.recipe.name}; start from the unquantized weights."
        )
    return Transformer.from_tensors(weights.config, weights.tensors, where)


def mapped_bytes(source: ModelSource, model: LanguageModel) -> int:
    """Return the bytes of a loaded model's weights that are a map of their file.

    They still count as free memory, unlike copies: weights that were converted, packed or unpacked.
    """
    if source.folder is None or model.device.type != "cpu":
        return 0
    checkpoint = open_checkpoint(source.folder)
    stored = checkpoint.dtype if checkpoint.recipe is None else checkpoint.recipe.experts
    return model.weight_bytes if model.weight_format == stored else 0


@dataclass(frozen=True, kw_only=True, slots=True)
class _Weights:
    """A stream of weights, checked against the memory that is free."""

    config: ModelConfig
    dtype: torch.dtype
    recipe: QuantizationRecipe | None
    tensors: Iterator[tuple[str, Tensor]]


def _open_weights(
    source: ModelSource,
    *,
    dtype: str | None,
    recipe: QuantizationRecipe | None,
    where: torch.device,
    seed: int,
) -> _Weights:
    if source.is_random:
        return _random_weights(source.config, dtype=dtype, recipe=recipe, where=where, seed=seed)
    checkpoint = _open(source)
    config = checkpoint.config
    stored = checkpoint.recipe if isinstance(checkpoint, Checkpoint) else None
    if stored is not None:
        _refuse_changes(source, stored, dtype=dtype, recipe=recipe)
        return _Weights(
            config=config, dtype=torch.bfloat16, recipe=stored, tensors=checkpoint.tensors()
        )
    if recipe is not None:
        refuse_if_too_large(config, recipe.name, where)
        packed = quantized_tensors(checkpoint.tensors(keep=False), config, recipe)
        return _Weights(
            config=packed_config(config), dtype=torch.bfloat16, recipe=recipe, tensors=packed
        )
    name = dtype or checkpoint.dtype
    wanted = torch_dtype(name)
    is_mapped = isinstance(checkpoint, Checkpoint) and checkpoint.dtype == name
    if where.type == "cuda" or not is_mapped:
        refuse_if_too_large(config, name, where)
    tensors = checkpoint.tensors(dtype=wanted)
    return _Weights(config=config, dtype=wanted, recipe=None, tensors=tensors)


def _open(source: ModelSource) -> "Checkpoint | GgufCheckpoint":
    if source.gguf is not None:
        from mixtral.checkpoint.gguf import open_gguf  # half a second, and only for these files

        return open_gguf(source.gguf)
    assert source.folder is not None
    checkpoint = open_checkpoint(source.folder)
    verify_checkpoint(checkpoint)
    return checkpoint


def _random_weights(
    config: ModelConfig,
    *,
    dtype: str | None,
    recipe: QuantizationRecipe | None,
    where: torch.device,
    seed: int,
) -> _Weights:
    name = dtype or config.dtype
    wanted = torch_dtype(name)
    refuse_if_too_large(config, name if recipe is None else recipe.name, where)
    if recipe is None:
        made = random_tensors(config, dtype=wanted, device=where, seed=seed)
        return _Weights(config=config, dtype=wanted, recipe=None, tensors=made)
    packed = random_packed_tensors(config, recipe, seed=seed)
    return _Weights(
        config=packed_config(config), dtype=torch.bfloat16, recipe=recipe, tensors=packed
    )


def _refuse_changes(
    source: ModelSource,
    stored: QuantizationRecipe,
    *,
    dtype: str | None,
    recipe: QuantizationRecipe | None,
) -> None:
    wanted = dtype or (recipe.name if recipe is not None and recipe != stored else None)
    if wanted is not None:
        raise other_format(source.name, stored=stored.name, wanted=wanted)


def other_format(name: str, *, stored: str, wanted: str) -> ConfigError:
    """Return the error where packed weights are asked for in another format than theirs."""
    return ConfigError(
        f"{name} is packed as {stored}, and {wanted} is asked for; leave that out, or start from "
        "the unquantized weights."
    )


def _dense_model(weights: _Weights, where: torch.device) -> LanguageModel:
    model = Transformer.from_tensors(weights.config, weights.tensors, where)
    # torch's grouped matmul takes bfloat16 alone, and older versions do not have it.
    can_group = weights.dtype == torch.bfloat16 and hasattr(functional, "grouped_mm")
    if where.type == "cuda" and can_group and not model.config.is_dense:
        model.stack_experts()
    return model


def unpacked_tensors(
    tensors: Iterable[tuple[str, Tensor]], config: ModelConfig
) -> Iterator[tuple[str, Tensor]]:
    """Turn packed matrices back into bfloat16 weights, one at a time; others become bfloat16 too.

    Args:
        tensors: Names of ours and tensors, ``NAME.packed`` among them.
        config: The model that they belong to.

    Yields:
        Names of ``state_dict`` and tensors.
    """
    with torch.device("meta"):
        shapes = {name: p.shape for name, p in Transformer(config).named_parameters()}
    for name, tensor in tensors:
        if name.endswith(".packed"):
            name = name.removesuffix("packed") + "weight"
            rows, cols = shapes[name]
            form = format_of_packed(tensor, rows=rows, cols=cols)
            tensor = dequantize(tensor, form, rows=rows, cols=cols)
        yield name, tensor.to(torch.bfloat16)


def torch_device(name: str) -> torch.device:
    """Return a device by name; ``auto`` is CUDA where there is one, else the CPU.

    Raises:
        ConfigError: There is no such device name.
        UnsupportedError: This machine does not have it.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"device is {name!r}; it must be auto, cpu or cuda.") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UnsupportedError(
            "device is 'cuda', but this torch sees no CUDA GPU; use device='cpu', or install "
            "a CUDA build of torch and its driver."
        )
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"device is {name!r}; it must be auto, cpu or cuda.")
    return device


def torch_dtype(name: str) -> torch.dtype:
    """Return a dtype by name.

    Raises:
        ConfigError: It is not one of the supported ones.
    """
    if name not in BYTES_PER_ELEMENT:
        allowed = ", ".join(BYTES_PER_ELEMENT)
        raise ConfigError(f"dtype is {name!r}; it must be one of {allowed}.")
    dtype: torch.dtype = getattr(torch, name)
    return dtype


def refuse_if_too_large(config: ModelConfig, name: str, device: torch.device) -> None:
    """Check that the weights of a model fit into the free memory of a device.

    Args:
        config: The model.
        name: A dtype, or a recipe.
        device: Where the weights go.

    Raises:
        UnsupportedError: They do not fit; says which recipe would.
    """
    is_cuda = device.type == "cuda"
    free = torch.cuda.mem_get_info(device)[0] if is_cuda else available_memory_bytes()
    needed = weight_bytes(config, name)
    if needed <= free:
        return
    fitting = [] if is_cuda else [r for r in RECIPES if weight_bytes(config, r) <= free]
    advice = (
        f"use {fitting[0]}, which takes {weight_bytes(config, fitting[0]) / 1e9:.1f} GB "
        f"(quantization={fitting[0]!r}, or --quantization {fitting[0]})"
        if fitting
        else "use a smaller model, or a machine with more memory; random weights also fit with "
        "fewer layers (--layers)"
    )
    raise UnsupportedError(
        f"the weights take {needed / 1e9:.1f} GB in {name} and {free / 1e9:.1f} GB of "
        f"{device.type} memory are free; {advice}."
    )


def weight_bytes(config: ModelConfig, name: str) -> int:
    """Return the bytes of all weights in a dtype or a recipe."""
    if name in RECIPES:
        return RECIPES[name].packed_bytes(config)
    return config.weight_bytes(cast(DType, name))
