"""From a recipe to what is learned: opens the data of a stage and packs it."""

import logging
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Literal, TypeVar

from mixtral.config import ModelConfig
from mixtral.errors import ConfigError
from mixtral.model_tokenizer import find_tokenizer
from mixtral.tokenizer import Tokenizer
from mixtral.train.chat_data import (
    Example,
    encode_conversation,
    encode_document,
    encode_preference,
    encode_records,
)
from mixtral.train.data import TokenStream
from mixtral.train.dpo import EncodedPair, PairSet, PreferenceObjective
from mixtral.train.dpo_settings import DpoSettings
from mixtral.train.example_set import ExampleSet
from mixtral.train.first_model import FirstModel
from mixtral.train.objective import NextToken, Objective
from mixtral.train.packing import PackedExamples
from mixtral.train.parallel import ParallelContext
from mixtral.train.recipe import TrainRecipe
from mixtral.train.record_files import LIST_CONVERSATIONS, RecordReader
from mixtral.train.records import (
    Record,
    parse_conversation,
    parse_document,
    parse_preference,
)
from mixtral.train.reference import Progress, base_scorer, reference_maker
from mixtral.train.run_identity import micro_batch_size

Stage = Literal["pretrain", "sft", "dpo"]
"""What a run learns: any text, answers, or preferences."""

R = TypeVar("R", bound=Record)

logger = logging.getLogger(__name__)


def make_objective(
    recipe: TrainRecipe,
    stage: Stage,
    first: FirstModel,
    context: ParallelContext,
    on_progress: Progress | None = None,
) -> Objective:
    """Open the data of a recipe and return what a stage learns from it.

    Every process opens all of it and plans whole steps; ``context`` says how many they are, and so
    into how many micro-batches a step has to fall at least.

    Raises:
        ConfigError: A file is missing, wrong, or does not go with the stage.
        TokenizerError: Records are to be read and the model has no tokenizer.
    """
    if stage != "dpo" and recipe.dpo != DpoSettings():
        raise ConfigError(
            f"a table [dpo] is given, and {stage} does not use it; leave it out, or run "
            "mixtral train dpo."
        )
    if stage == "dpo" and recipe.sampled_words:
        raise ConfigError(
            f"sampled_words is {recipe.sampled_words}, and dpo needs whole log-probabilities; "
            "leave it out."
        )
    micro = _micro_batch_tokens(recipe, context.world_size)
    if recipe.train_tokens:
        return _token_objective(recipe, stage, first.model.config, micro)
    tokenizer = find_tokenizer(first.source)
    if stage == "dpo":
        return _preference_objective(recipe, first, tokenizer, micro, context, on_progress)
    return example_objective(recipe, stage, first.model.config, tokenizer, micro)


def _micro_batch_tokens(recipe: TrainRecipe, world_size: int) -> int:
    micro = micro_batch_size(recipe, world_size)
    if recipe.micro_batch_tokens or world_size == 1:
        return micro
    longest = max(recipe.max_seq_len, recipe.long_seq_len)
    if recipe.tokens_per_step % world_size or (recipe.train_tokens and micro < longest):
        raise ConfigError(
            f"tokens_per_step is {recipe.tokens_per_step} and there are {world_size} processes, "
            f"which makes micro-batches of {micro} tokens; they must divide the step and hold the "
            f"longest sequence, {longest}. Raise tokens_per_step, or give micro_batch_tokens."
        )
    return micro


def _token_objective(
    recipe: TrainRecipe, stage: Stage, config: ModelConfig, micro: int
) -> Objective:
    if stage == "dpo":
        raise ConfigError("train_tokens is given; dpo learns from pairs, so name train_records.")
    if stage == "sft" and not recipe.train_mask:
        raise ConfigError(
            "train_mask is empty; sft learns from the tokens that it marks. Name a mask file, or "
            "conversations as train_records, or use mixtral train pretrain."
        )
    if stage == "sft" and not recipe.valid_mask:
        raise ConfigError(
            "valid_mask is empty; without one held-out loss counts prompts, which sft does not "
            "learn. Name the mask file of valid_tokens."
        )

    def stream(tokens: str, mask: str, max_seq_len: int | Callable[[int], int]) -> TokenStream:
        return TokenStream(
            Path(tokens),
            tokens_per_step=recipe.tokens_per_step,
            max_seq_len=max_seq_len,
            micro_batch_tokens=micro,
            vocab_size=config.vocab_size,
            mask_path=Path(mask) if mask else None,
        )

    def seq_len(step: int) -> int:
        return recipe.seq_len_at(step, max_steps)

    train = stream(recipe.train_tokens, recipe.train_mask, seq_len)
    max_steps = recipe.max_steps or math.ceil(recipe.num_epochs * train.num_steps)
    valid = stream(recipe.valid_tokens, recipe.valid_mask, recipe.max_seq_len)
    return NextToken(train, valid, eval_steps=recipe.eval_steps, sampled_words=recipe.sampled_words)


def example_objective(
    recipe: TrainRecipe, stage: Stage, config: ModelConfig, tokenizer: Tokenizer, micro: int
) -> NextToken:
    """Open records of texts or conversations and pack them.

    Raises:
        ConfigError: Records are bad, or do not fill the steps.
    """

    def read(name: str) -> ExampleSet:
        return read_examples(Path(name), recipe, stage, tokenizer, vocab_size=config.vocab_size)

    train, valid = read(recipe.train_records), None
    if recipe.valid_records:
        valid = read(recipe.valid_records)
    elif recipe.valid_fraction:
        train, valid = train.split(recipe.valid_fraction, seed=recipe.seed)

    def pack(examples: ExampleSet, tokens_per_step: int) -> PackedExamples:
        return PackedExamples(
            examples, tokens_per_step=tokens_per_step, micro_batch_tokens=micro, seed=recipe.seed
        )

    measured = None if valid is None else pack(valid, micro)
    eval_steps = recipe.eval_steps * (recipe.tokens_per_step // micro)
    return NextToken(
        pack(train, recipe.tokens_per_step),
        measured,
        eval_steps=eval_steps,
        sampled_words=recipe.sampled_words,
    )


def read_examples(
    path: Path, recipe: TrainRecipe, stage: Stage, tokenizer: Tokenizer, *, vocab_size: int
) -> ExampleSet:
    """Read and encode a file of texts (pretrain) or conversations (sft).

    Raises:
        ConfigError: Records are bad; the message names the first of them.
    """
    if stage == "pretrain":
        reader = RecordReader([path], parse_document)
        cut = partial(encode_document, tokenizer=tokenizer, max_seq_len=recipe.max_seq_len)
        return _collect(reader, cut, recipe, vocab_size=vocab_size)
    talks = RecordReader([path], parse_conversation, listed_by=LIST_CONVERSATIONS)
    encode = partial(encode_conversation, tokenizer=tokenizer)
    return _collect(talks, encode, recipe, vocab_size=vocab_size)


def _collect(
    reader: RecordReader[R],
    encode: Callable[[R], list[Example]],
    recipe: TrainRecipe,
    *,
    vocab_size: int,
    max_record_tokens: int | None = None,
) -> ExampleSet:
    records = encode_records(
        reader,
        encode,
        max_seq_len=recipe.max_seq_len,
        max_record_tokens=max_record_tokens,
        too_long=recipe.too_long,
    )
    examples = ExampleSet.collect(records, vocab_size=vocab_size)
    if reader.num_skipped:
        logger.warning(
            "%d of %d records are too long, for max_seq_len %d%s, and left out",
            reader.num_skipped,
            reader.num_records,
            recipe.max_seq_len,
            f" or micro_batch_tokens {max_record_tokens}" if max_record_tokens else "",
        )
    return examples


def _preference_objective(
    recipe: TrainRecipe,
    first: FirstModel,
    tokenizer: Tokenizer,
    micro: int,
    context: ParallelContext,
    on_progress: Progress | None,
) -> Objective:
    train, valid = read_pairs(recipe, tokenizer, first.model.config.vocab_size, micro)
    scorer, make_reference = base_scorer(recipe, first), None
    if scorer is None:
        make_reference = reference_maker(
            recipe,
            first,
            [train, valid],
            micro_batch_tokens=micro,
            context=context,
            on_progress=on_progress,
        )
    return PreferenceObjective(
        train,
        valid,
        settings=recipe.dpo,
        micro_batch_tokens=micro,
        seed=recipe.seed,
        reference=scorer,
        make_reference=make_reference,
    )


def read_pairs(
    recipe: TrainRecipe, tokenizer: Tokenizer, vocab_size: int, micro: int
) -> tuple[PairSet, PairSet | None]:
    """Read and encode pairs to learn from, and those only to measure.

    Raises:
        ConfigError: Records are bad; the message names the first of them.
    """

    def read(name: str) -> ExampleSet:
        reader = RecordReader([Path(name)], parse_preference)
        encode = partial(encode_preference, tokenizer=tokenizer)
        return _collect(reader, encode, recipe, vocab_size=vocab_size, max_record_tokens=micro)

    train, valid = read(recipe.train_records), None
    if recipe.valid_records:
        valid = read(recipe.valid_records)
    elif recipe.valid_fraction:
        train, valid = train.split(recipe.valid_fraction, seed=recipe.seed)
    return _pair_set(train), None if valid is None else _pair_set(valid)


def _pair_set(examples: ExampleSet) -> PairSet:
    """Take the examples two by two: chosen, rejected."""
    sides = (examples[index] for index in range(len(examples)))
    return PairSet(EncodedPair(chosen=chosen, rejected=next(sides)) for chosen in sides)
