"""What one pass over records is, for a plan: read, parted and packed as training does, no model."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mixtral.model_source import ModelSource
from mixtral.model_tokenizer import find_tokenizer
from mixtral.train.dpo import PreferenceObjective
from mixtral.train.objectives import Stage, example_objective, read_pairs
from mixtral.train.recipe import TrainRecipe
from mixtral.train.record_files import RecordReader
from mixtral.train.records import (
    Document,
    PreferencePair,
    Record,
    parse_conversation,
    parse_document,
    parse_preference,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Epoch:
    """One pass over the records of a recipe."""

    num_steps: int
    """Optimizer steps."""
    tokens_per_step: int
    """Tokens of a step; those of pairs differ, and this is their mean."""
    num_scored: int = 0
    """Tokens that a reference scores once, before the first step."""
    is_scored_each_step: bool = False
    """Whether a reference scores the tokens of each step anew."""

    def reference_passes(self, num_steps: int) -> float:
        """Return the passes of the reference for each token that a run of so many steps trains."""
        once = self.num_scored / (num_steps * self.tokens_per_step)
        return 1.0 if self.is_scored_each_step else once


def measure_epoch(recipe: TrainRecipe, source: ModelSource, *, micro_batch_tokens: int) -> Epoch:
    """Read the records of a recipe and return how long a pass over them is.

    Args:
        recipe: Names records; what they are says what is learned from them.
        source: The model, whose tokenizer is used.
        micro_batch_tokens: Most tokens of a pass of one device.

    Raises:
        ConfigError: The records cannot be learned from.
        TokenizerError: The model has no tokenizer.
    """
    tokenizer = find_tokenizer(source)
    stage = stage_of_records(Path(recipe.train_records))
    if stage != "dpo":
        examples = example_objective(recipe, stage, source.config, tokenizer, micro_batch_tokens)
        return Epoch(num_steps=examples.num_steps, tokens_per_step=recipe.tokens_per_step)
    train, valid = read_pairs(recipe, tokenizer, source.config.vocab_size, micro_batch_tokens)
    pairs = PreferenceObjective(
        train,
        valid,
        settings=recipe.dpo,
        micro_batch_tokens=micro_batch_tokens,
        seed=recipe.seed,
        make_reference=lambda: None,  # nothing is scored here
    )
    mean = train.total_tokens / len(train)
    held_out = 0 if valid is None else valid.total_tokens
    is_scored_each_step = recipe.dpo.reference == "adapter_off"
    return Epoch(
        num_steps=pairs.num_steps,
        tokens_per_step=round(mean * recipe.dpo.pairs_per_step),
        num_scored=0 if is_scored_each_step else train.total_tokens + held_out,
        is_scored_each_step=is_scored_each_step,
    )


def stage_of_records(path: Path) -> Stage:
    """Return what the first good record is for; where there is none, sft.

    Raises:
        ConfigError: The file holds no lines of text.
    """
    for line in RecordReader([path], _parse_any):
        if isinstance(line.record, PreferencePair):
            return "dpo"
        return "pretrain" if isinstance(line.record, Document) else "sft"
    return "sft"


def _parse_any(value: Mapping[str, Any]) -> Record:
    if "text" in value:
        return parse_document(value)
    return parse_preference(value) if "chosen" in value else parse_conversation(value)
