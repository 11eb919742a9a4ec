"""From a recipe to the parts of a run: the model to train and what it learns from."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from mixtral.checkpoint import open_checkpoint
from mixtral.config import ModelConfig
from mixtral.errors import ConfigError
from mixtral.loading import find_or_download, torch_device
from mixtral.model import Transformer, init_weights
from mixtral.model.moe import SparseMoe
from mixtral.model_source import ModelSource
from mixtral.train.data import TokenStream
from mixtral.train.objective import NextToken, Objective
from mixtral.train.precision import compute_dtype
from mixtral.train.recipe import TrainRecipe

Stage = Literal["pretrain", "sft", "dpo"]
"""What a run learns: any text, answers, or preferences."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FirstModel:
    """The model as training finds it."""

    model: Transformer
    """Weights in the precision of forward and backward, those that learn with gradients."""
    source: ModelSource | None
    """Where they come from; None for random weights."""

    @property
    def tokenizer_folder(self) -> Path | None:
        """The folder whose tokenizer the trained model keeps."""
        return None if self.source is None else self.source.folder


def make_model(recipe: TrainRecipe) -> FirstModel:
    """Make or load the model that a recipe starts from.

    Raises:
        ConfigError: The recipe names no such model.
        CheckpointError: The weights cannot be read.
    """
    device = torch_device(recipe.device)
    dtype = compute_dtype(recipe.dtype, device)
    source = find_or_download(recipe.init_from) if recipe.init_from else None
    model = _random_model(recipe) if source is None else _loaded_model(source)
    model = model.to(device=device, dtype=dtype).requires_grad_(True)
    for moe in (m for m in model.modules() if isinstance(m, SparseMoe)):
        moe.jitter = recipe.router_jitter
        if recipe.freeze_router and not model.config.is_dense:
            moe.gate.requires_grad_(False)
    return FirstModel(model=model, source=source)


def make_objective(recipe: TrainRecipe, stage: Stage, first: FirstModel) -> Objective:
    """Open the data of a recipe and return what a stage learns from it.

    Raises:
        ConfigError: A file is missing, wrong, or does not go with the stage.
    """
    if recipe.train_tokens:
        return _token_objective(recipe, stage, first.model.config)
    raise NotImplementedError


def _token_objective(recipe: TrainRecipe, stage: Stage, config: ModelConfig) -> Objective:
    if stage == "dpo":
        raise ConfigError("train_tokens is given; dpo learns from pairs, so name train_records.")
    if stage == "sft" and not recipe.train_mask:
        raise ConfigError(
            "train_mask is empty; sft learns from the tokens that it marks. Name a mask file, or "
            "conversations as train_records, or use mixtral train pretrain."
        )

    def stream(tokens: str, mask: str, *, is_train: bool) -> TokenStream:
        return TokenStream(
            Path(tokens),
            tokens_per_step=recipe.tokens_per_step,
            max_seq_len=seq_len if is_train else recipe.max_seq_len,
            micro_batch_tokens=recipe.micro_batch_tokens,
            vocab_size=config.vocab_size,
            mask_path=Path(mask) if mask else None,
        )

    train = stream(recipe.train_tokens, recipe.train_mask, is_train=False)
    max_steps = recipe.max_steps or math.ceil(recipe.num_epochs * train.num_steps)

    def seq_len(step: int) -> int:
        return recipe.seq_len_at(step, max_steps)

    train = stream(recipe.train_tokens, recipe.train_mask, is_train=True)
    valid = stream(recipe.valid_tokens, recipe.valid_mask, is_train=False)
    return NextToken(train, valid, eval_steps=recipe.eval_steps)


def _random_model(recipe: TrainRecipe) -> Transformer:
    model = Transformer(ModelConfig.preset(recipe.model))
    init_weights(model, recipe.seed)
    return model


def _loaded_model(source: ModelSource) -> Transformer:
    if source.folder is None:
        raise ConfigError(
            f"init_from is {source.name}; training starts from a checkpoint folder, nano or a hub "
            "id. Convert a GGUF file with mixtral convert first."
        )
    checkpoint = open_checkpoint(source.folder)
    tensors = checkpoint.tensors(dtype=torch.float32)
    # Cloned: a memory map must not be trained.
    return Transformer.from_tensors(checkpoint.config, ((n, t.clone()) for n, t in tensors))
