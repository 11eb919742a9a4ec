"""The model as training finds it: random, loaded, or a frozen base with an adapter on it."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from mixtral.checkpoint import (
    Checkpoint,
    open_checkpoint,
    packed_config,
    quantized_tensors,
    verify_checkpoint,
)
from mixtral.checkpoint.base_weights import base_digest, warn_of_other_base
from mixtral.checkpoint.names import EMBEDDING, HEAD
from mixtral.checkpoint.peft import read_adapter
from mixtral.errors import ConfigError, TokenizerError
from mixtral.loading import find_or_download, refuse_if_too_large, torch_device
from mixtral.model import Transformer, init_weights
from mixtral.model.copy_init import init_copying
from mixtral.model.lora import add_adapter, add_lora
from mixtral.model.low_bit_transformer import low_bit_transformer
from mixtral.model_source import ModelSource, find_model
from mixtral.model_tokenizer import find_tokenizer_or_why
from mixtral.quantization import find_recipe
from mixtral.train.precision import compute_dtype
from mixtral.train.recipe import TrainRecipe


@dataclass(frozen=True, kw_only=True, slots=True)
class FirstModel:
    """A model and where it comes from."""

    model: Transformer
    """Weights in the precision of forward and backward, except where ``make_model`` was told that
    they will be split; those that learn require gradients."""
    source: ModelSource
    """Its files, or the preset whose geometry it has."""
    is_adapted: bool
    """Whether only an adapter learns."""
    base_digest: str | None
    """Which weights the adapter is put on, see ``checkpoint/base_weights.py``; None: random ones,
    or there is no adapter."""


def make_model(recipe: TrainRecipe, *, is_split: bool = False) -> FirstModel:
    """Make or load the model that a recipe starts from.

    Args:
        recipe: Model, adapter and precision.
        is_split: Whether several processes will share it; then it stays on the CPU until each
            takes its part, and weights of a checkpoint stay in the memory map of their file, in
            the type in which they are stored. Only ``model.dtype`` is that of the computation.

    Raises:
        ConfigError: The recipe names no such model, or asks of it what it cannot do.
        CheckpointError: Weights or adapter cannot be read, or do not belong together.
        UnsupportedError: The weights do not fit into memory.
    """
    device = torch_device(recipe.device)
    dtype = compute_dtype(recipe.dtype, device)
    if is_split:
        device = torch.device("cpu")
    is_adapted = recipe.lora is not None or bool(recipe.init_adapter)
    if not recipe.init_from:
        source = replace(find_model(f"random:{recipe.model}"), config=recipe.first_config())
        model = _random_model(source, recipe).to(device=device, dtype=dtype)
    else:
        if Path(recipe.init_from).is_absolute() and not Path(recipe.init_from).exists():
            raise ConfigError(
                f"init_from is {recipe.init_from}, which does not exist; name nano, a folder "
                "(relative to that of the recipe) or a hub id."
            )
        source = find_or_download(recipe.init_from)
        model = _load(
            source, recipe, device=device, dtype=dtype, is_frozen=is_adapted, is_split=is_split
        )
    if is_adapted:
        _adapt(model, recipe, source)
    else:
        model.requires_grad_(True)
    if model.config.is_dense and (recipe.freeze_router or recipe.router_jitter):
        name = "freeze_router" if recipe.freeze_router else "router_jitter"
        raise ConfigError(f"{name} is given, and {source.name} has no routers; leave it out.")
    if recipe.freeze_router:
        _freeze_routers(model)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ConfigError(
            "freeze_router is true, and the adapter adapts routers alone, so nothing is left to "
            "learn; leave freeze_router out, or adapt more."
        )
    digest = base_digest(source.folder) if is_adapted and source.folder is not None else None
    return FirstModel(model=model, source=source, is_adapted=is_adapted, base_digest=digest)


def _random_model(source: ModelSource, recipe: TrainRecipe) -> Transformer:
    refuse_if_too_large(source.config, "float32", torch.device("cpu"))
    model = Transformer(source.config)
    init_weights(model, recipe.seed)
    if recipe.init == "copy":
        init_copying(model, recipe.seed, _pieces(source))
    return model


def _pieces(source: ModelSource) -> list[bytes] | None:
    """Return what each token writes; None for a model without a tokenizer."""
    tokenizer = find_tokenizer_or_why(source)
    if isinstance(tokenizer, TokenizerError):
        return None
    control = set(tokenizer.control_ids)
    return [
        b"" if number in control else tokenizer.token_bytes(number)
        for number in range(tokenizer.vocab_size)
    ]


def _load(
    source: ModelSource,
    recipe: TrainRecipe,
    *,
    device: torch.device,
    dtype: torch.dtype,
    is_frozen: bool,
    is_split: bool,
) -> Transformer:
    if source.folder is None:
        raise ConfigError(
            f"init_from is {source.name}; training starts from a checkpoint folder, nano or a hub "
            "id. Convert a GGUF file with mixtral convert first."
        )
    checkpoint = open_checkpoint(source.folder)
    verify_checkpoint(checkpoint)
    is_packed = checkpoint.recipe is not None
    if is_packed and recipe.quantization not in ("", checkpoint.recipe and checkpoint.recipe.name):
        raise ConfigError(
            f"quantization is {recipe.quantization!r} and {source.name} is packed already; leave "
            "quantization out."
        )
    if (is_packed or recipe.quantization) and not is_frozen:
        raise ConfigError(
            f"{source.name} is {'' if is_packed else 'to be '}packed in few bits, which cannot be "
            "trained; add a table [lora] to train an adapter, or start from unquantized weights."
        )
    if is_packed:
        return low_bit_transformer(checkpoint.config, checkpoint.tensors(), dtype, device)
    if recipe.quantization:
        wanted = find_recipe(recipe.quantization)
        refuse_if_too_large(checkpoint.config, wanted.name, device)
        packed = quantized_tensors(checkpoint.tensors(keep=False), checkpoint.config, wanted)
        return low_bit_transformer(packed_config(checkpoint.config), packed, dtype, device)
    # Split over GPUs, a layer at a time is in this memory; over a CPU, all of it is, in parts.
    if not is_split or torch_device(recipe.device).type == "cpu":
        refuse_if_too_large(checkpoint.config, str(dtype).removeprefix("torch."), device)
    if is_split:
        tensors = _mapped_tensors(checkpoint, dtype)
    else:
        tensors = _float_tensors(checkpoint, dtype, is_frozen=is_frozen)
    return Transformer.from_tensors(checkpoint.config, tensors, device)


def _float_tensors(
    checkpoint: Checkpoint, dtype: torch.dtype, *, is_frozen: bool
) -> Iterator[tuple[str, Tensor]]:
    for name, tensor in checkpoint.tensors(dtype=dtype):
        # Cloned where it learns: a memory map must not be written to.
        yield name, tensor if is_frozen else tensor.clone()


def _mapped_tensors(checkpoint: Checkpoint, dtype: torch.dtype) -> Iterator[tuple[str, Tensor]]:
    """Yield weights as they lie in the files: processes of one machine share the pages of a map.

    ``ParallelContext.shard`` copies its part of each and converts it. The head comes converted,
    because its type is that of the model.
    """
    head = EMBEDDING if checkpoint.config.tie_word_embeddings else HEAD
    for name, tensor in checkpoint.tensors():
        yield name, tensor.to(dtype) if name == head else tensor


def _adapt(model: Transformer, recipe: TrainRecipe, source: ModelSource) -> None:
    if recipe.init_adapter:
        adapter = read_adapter(Path(recipe.init_adapter), model.config)
        warn_of_other_base({recipe.init_adapter: adapter}, source.folder, source.name)
        add_adapter(model, adapter)
        return
    assert recipe.lora is not None
    specs = recipe.lora.specs(model.config)
    add_lora(model, specs, dropout=recipe.lora.dropout, seed=recipe.seed)


def _freeze_routers(model: Transformer) -> None:
    for name, parameter in model.named_parameters():
        if ".gate." in name:
            parameter.requires_grad_(False)
