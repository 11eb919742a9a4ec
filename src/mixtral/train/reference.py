"""Which model preference training stays close to, and how its scores are had."""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from mixtral.errors import ConfigError
from mixtral.model import TokenBatch, Transformer
from mixtral.model.lora import lora_off
from mixtral.train.dpo import PairSet
from mixtral.train.first_model import FirstModel
from mixtral.train.log_probs import TokenScorer, frozen_scorer
from mixtral.train.parallel import ParallelContext
from mixtral.train.recipe import TrainRecipe
from mixtral.train.reference_cache import add_reference, digest_weights

Progress = Callable[[str, int, int], None]
"""Hears what is being prepared, how much is done, and of how much."""


def base_scorer(recipe: TrainRecipe, first: FirstModel) -> TokenScorer | None:
    """Return the base of the adapter as a scorer for each step; None where scores are made once.

    Raises:
        ConfigError: The adapter's base is asked for, and there is no adapter.
    """
    if recipe.dpo.reference != "adapter_off":
        return None
    if not first.is_adapted:
        raise ConfigError(
            "dpo.reference is 'adapter_off', and the recipe trains no adapter; add a table "
            "[lora], or use 'precomputed'."
        )
    return _base_scorer(first.model)


def reference_maker(
    recipe: TrainRecipe,
    first: FirstModel,
    pair_sets: Sequence[PairSet | None],
    *,
    micro_batch_tokens: int,
    context: ParallelContext,
    on_progress: Progress | None = None,
) -> Callable[[], None]:
    """Return what scores the pairs with the model that training starts from.

    It is to be called before the first step, and once the model is where it computes: several
    processes have split it, and share the work.

    Args:
        recipe: Its table ``dpo`` decides.
        first: The model before its first step, whole.
        pair_sets: Get their ``reference``.
        micro_batch_tokens: Most tokens of a pass.
        context: This process among the others.
        on_progress: Called as scoring goes on.

    Returns:
        A function that raises CheckpointError where kept scores are damaged or cannot be written.
    """
    digest = ""
    if context.is_main:  # which keeps the file; of a split model the weights would be shards
        told = f"{first.model.dtype} {digest_weights(first.model)}"
        digest = hashlib.sha256(told.encode()).hexdigest()

    def make() -> None:
        for pairs in pair_sets:
            if pairs is not None:
                add_reference(
                    pairs,
                    frozen_scorer(first.model),
                    weights_digest=digest,
                    folder=Path(recipe.dpo.reference_cache or Path(recipe.output) / "reference"),
                    micro_batch_tokens=micro_batch_tokens,
                    device=context.device,
                    on_progress=_named(on_progress),
                    context=context,
                )

    return make


def _base_scorer(model: Transformer) -> TokenScorer:
    score = frozen_scorer(model)

    def score_without_adapter(batch: TokenBatch, targets: Tensor) -> Tensor:
        with lora_off(model), torch.no_grad():
            return score(batch, targets)

    return score_without_adapter


def _named(on_progress: Progress | None) -> Callable[[int, int], None] | None:
    if on_progress is None:
        return None
    return lambda done, total: on_progress("scoring with the reference", done, total)
