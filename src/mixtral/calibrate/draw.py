"""Draw calibration text until every expert has seen enough of it.

Which experts a token goes to is known only after the model has run, and some experts are rare. So
the full-precision model reads the text first, piece by piece, and counts; reading stops when there
is enough of everything, or nothing left.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mixtral.calibrate.settings import CalibrationSettings
from mixtral.config import ModelConfig
from mixtral.errors import ConfigError
from mixtral.model import TokenBatch, Transformer
from mixtral.model.router_trace import RouterRecorder


@dataclass(frozen=True, kw_only=True, slots=True)
class DrawnText:
    """What was read."""

    batches: list[TokenBatch]
    """Whole sequences, some thousand tokens each."""
    num_sequences: int
    """S, sequences in all batches."""
    num_tokens: int
    """T, tokens in all batches."""
    has_enough: bool
    """Whether there are as many tokens, and every expert saw as many, as the settings ask for."""


def draw_text(
    model: Transformer, sequences: Iterable[Sequence[int]], settings: CalibrationSettings
) -> DrawnText:
    """Read sequences, in order, until there is enough for each expert of each layer.

    Raises:
        ConfigError: There is no sequence, or one is empty, too long for the model, or holds an id
            that is not in its vocabulary.
    """
    config = model.config
    device = model.model.embed_tokens.weight.device
    counts = torch.zeros(config.num_hidden_layers, config.num_experts, dtype=torch.int64)
    batches: list[TokenBatch] = []
    num_sequences = num_tokens = 0
    has_enough = False
    for group in _grouped(checked_sequences(sequences, config), settings.tokens_per_pass):
        batch = TokenBatch.from_sequences(group, device)
        batches.append(batch)
        num_sequences += len(group)
        num_tokens += len(batch.input_ids)
        counts += _count_experts(model, batch)
        has_enough = (
            num_tokens >= settings.min_tokens
            and int(counts.min()) >= settings.min_tokens_per_expert
        )
        if has_enough or num_tokens >= settings.max_tokens:
            break
    if not batches:
        raise ConfigError("calibration text is empty; it must hold at least one sequence.")
    return DrawnText(
        batches=batches,
        num_sequences=num_sequences,
        num_tokens=num_tokens,
        has_enough=has_enough,
    )


def checked_sequences(
    sequences: Iterable[Sequence[int]], config: ModelConfig
) -> Iterator[Sequence[int]]:
    """Pass on sequences that the model can run.

    Raises:
        ConfigError: One is empty, too long, or holds an id that is not in the vocabulary.
    """
    longest = config.max_position_embeddings
    for index, sequence in enumerate(sequences):
        if not 1 <= len(sequence) <= longest:
            raise ConfigError(
                f"sequence {index} has {len(sequence)} tokens; it must have from 1 to {longest}, "
                "the context of the model. Cut the text into pieces."
            )
        lowest, highest = min(sequence), max(sequence)
        if lowest < 0 or highest >= config.vocab_size:
            raise ConfigError(
                f"sequence {index} has token ids from {lowest} to {highest}; they must be from 0 "
                f"to {config.vocab_size - 1}. Use the tokenizer of this model."
            )
        yield sequence


def batched(
    sequences: Iterable[Sequence[int]], tokens_per_pass: int, device: torch.device
) -> Iterator[TokenBatch]:
    """Lay sequences flat in batches of about ``tokens_per_pass`` tokens."""
    for group in _grouped(sequences, tokens_per_pass):
        yield TokenBatch.from_sequences(group, device)


def _grouped(
    sequences: Iterable[Sequence[int]], tokens_per_pass: int
) -> Iterator[list[Sequence[int]]]:
    group: list[Sequence[int]] = []
    for sequence in sequences:
        group.append(sequence)
        if sum(len(member) for member in group) >= tokens_per_pass:
            yield group
            group = []
    if group:
        yield group


@torch.no_grad()
def _count_experts(model: Transformer, batch: TokenBatch) -> Tensor:
    """Return how many tokens of the batch each expert sees, [L, E], int64."""
    config = model.config
    if config.is_dense:
        return torch.full((config.num_hidden_layers, 1), len(batch.input_ids))
    recorder = RouterRecorder()
    model(batch, recorder=recorder)
    expert_ids = recorder.trace().expert_ids.cpu()  # [T, L, A]
    layers = [ids.flatten() for ids in expert_ids.unbind(dim=1)]
    return torch.stack([ids.bincount(minlength=config.num_experts) for ids in layers])
