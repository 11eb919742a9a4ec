"""Use more or fewer experts per token than a model was trained with, and measure what that does.

The router ranks all experts for every token, so the best 1, 3 or 4 of them can do the work as well
as the best 2; their weights are renormalised over the chosen ones. No weight changes.

One number for all layers, or one for each, run wherever the model runs.
"""

import math
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, cast

import torch
from torch import Tensor

from mixtral.config import ModelConfig
from mixtral.errors import ConfigError
from mixtral.model import CpuTransformer, LanguageModel, Transformer
from mixtral.model.transformer import DecoderLayer
from mixtral.routing.routed_model import RoutedModel

_DECODE_TOKENS = 33  # the first is not timed


@dataclass(frozen=True, kw_only=True, slots=True)
class ExpertsPerToken:
    """What one setting gave."""

    counts: tuple[int, ...]
    """Experts per token of each layer, L values."""
    is_trained: bool
    """Whether these are the model's own numbers."""
    perplexity: float
    """Exponential of the mean negative log-likelihood of each token but the first of its sequence,
    in nats."""
    num_predicted: int
    """Tokens that were predicted."""
    num_active_parameters: int
    """Parameters at work for one token."""
    prefill_tokens_per_s: float
    """Tokens of the text per second, in steps of up to 512, output head included."""
    decode_tokens_per_s: float
    """Tokens per second in steps of one token each, as when an answer is made."""
    runs_in: str
    """What computed it: C++, or PyTorch and its dtype."""

    @property
    def label(self) -> str:
        """Return one number where all layers agree, else the list."""
        return (
            str(self.counts[0]) if len(set(self.counts)) == 1 else ",".join(map(str, self.counts))
        )

    def as_dict(self) -> dict[str, Any]:
        """Return all fields."""
        return asdict(self)


def parse_experts_per_token(text: str, config: ModelConfig) -> tuple[int, ...]:
    """Read a number, or one per layer with commas between, as L numbers.

    Raises:
        ConfigError: It is something else, or a number is outside 1..E.
    """
    num_layers, num_experts = config.num_hidden_layers, config.num_local_experts
    parts = [part.strip() for part in text.split(",")]
    are_numbers = all(part.isascii() and part.isdecimal() and len(part) < 10 for part in parts)
    counts = [int(part) for part in parts] if are_numbers else []
    if len(counts) not in (1, num_layers) or not all(1 <= c <= num_experts for c in counts):
        raise ConfigError(
            f"experts per token is {text!r:.200}; it must be a number from 1 to {num_experts}, or "
            f"{num_layers} of them with commas between, one for each layer."
        )
    return tuple(counts * num_layers if len(counts) == 1 else counts)


def measure_experts_per_token(
    routed: RoutedModel, sequences: Iterable[Sequence[int]], settings: Sequence[Sequence[int]]
) -> list[ExpertsPerToken]:
    """Measure perplexity and speed with the model's own numbers of experts, then with others.

    Args:
        routed: The model.
        sequences: Token ids, each a text of its own; read once for each setting.
        settings: Numbers of experts, L values each.

    Returns:
        The model's own setting first, then the others in their order. All run in the same way.

    Raises:
        ConfigError: A setting is wrong, or no sequence has two tokens.
    """
    config = routed.config
    own = (config.num_experts_per_tok,) * config.num_hidden_layers
    wanted = [own, *(tuple(s) for s in settings if tuple(s) != own)]
    found = []
    for counts in dict.fromkeys(wanted):
        with using_experts(routed.model, counts) as changed:
            varied = RoutedModel(changed, routed.name, adapter=routed.adapter)
            found.append(_measure(varied, sequences, counts, is_trained=counts == own))
    return found


@contextmanager
def using_experts(model: LanguageModel, counts: Sequence[int]) -> Iterator[LanguageModel]:
    """Give a model that uses other numbers of experts, over the same weights.

    A PyTorch model is changed in place and put back at the end. Of a C++ model a second one is made
    over the same memory; it has no adapters yet.

    Args:
        model: A mixture of experts.
        counts: Experts per token of each layer, L values from 1 to E.

    Raises:
        ConfigError: A number is wrong, or there are not L of them.
    """
    own = model.config
    counts = parse_experts_per_token(",".join(map(str, counts)), own)
    if isinstance(model, CpuTransformer):
        yield model.with_experts_per_token(counts)
        return
    assert isinstance(model, Transformer)
    moes = [cast(DecoderLayer, layer).block_sparse_moe for layer in model.model.layers]
    try:
        model.config = own.replace(num_experts_per_tok=max(counts))
        for moe, count in zip(moes, counts, strict=True):
            moe.num_experts_per_tok = count
        yield model
    finally:
        model.config = own
        for moe in moes:
            moe.num_experts_per_tok = own.num_experts_per_tok


def active_parameters(config: ModelConfig, counts: Sequence[int]) -> int:
    """Return the parameters at work for one token with these numbers of experts, L values."""
    more = sum(counts) - config.num_hidden_layers * config.num_experts_per_tok
    return config.num_active_parameters + more * config.num_expert_parameters


def predicted_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the negative log-likelihood of each target, [T], in nats, for logits [T, V]."""
    chosen = logits.gather(1, targets[:, None])[:, 0]
    return logits.logsumexp(dim=1) - chosen


def _measure(
    routed: RoutedModel,
    sequences: Iterable[Sequence[int]],
    counts: tuple[int, ...],
    *,
    is_trained: bool,
) -> ExpertsPerToken:
    loss, predicted, tokens, step_s = 0.0, 0, 0, 0.0
    longest: Sequence[int] = ()
    for sequence in sequences:
        longest = max(longest, sequence, key=len)
        steps = routed.steps(sequence, needs_logits=True)
        while True:
            begin = time.perf_counter()
            step = next(steps, None)
            if step is None:
                break
            assert step.logits is not None
            following = sequence[step.begin + 1 : step.begin + 1 + len(step.logits)]
            targets = torch.tensor(following, dtype=torch.int64, device=step.logits.device)
            losses = predicted_loss(step.logits[: len(targets)], targets)
            # Reading the sum waits for a GPU, so the time is that of the whole step.
            loss += float(losses.double().sum())
            step_s += time.perf_counter() - begin
            predicted += len(targets)
            tokens += len(step.logits)
    if not predicted:
        raise ConfigError("no sequence has two tokens; perplexity needs one to predict.")
    return ExpertsPerToken(
        counts=counts,
        is_trained=is_trained,
        perplexity=math.exp(loss / predicted),
        num_predicted=predicted,
        num_active_parameters=active_parameters(routed.config, counts),
        prefill_tokens_per_s=tokens / step_s,
        decode_tokens_per_s=_decode_speed(routed, longest),
        runs_in=_runs_in(routed.model),
    )


def _decode_speed(routed: RoutedModel, sequence: Sequence[int]) -> float:
    """Return the tokens per second of steps with one token each, the first left out."""
    steps = routed.steps(sequence[:_DECODE_TOKENS], needs_logits=True, step_tokens=1)
    next(steps)
    begin = time.perf_counter()
    # Reading a number waits for a GPU.
    tokens = sum(1 for step in steps if step.logits is not None and step.logits[0, 0].isfinite())
    return tokens / (time.perf_counter() - begin)


def _runs_in(model: LanguageModel) -> str:
    if isinstance(model, CpuTransformer):
        return "C++"
    return f"PyTorch, {str(model.dtype).removeprefix('torch.')}"
