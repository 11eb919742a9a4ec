"""From logits to tokens, one sequence at a time, so that no answer depends on its neighbours.

Each sequence draws from a random generator of its own, seeded by its request: the same seed gives
the same tokens whatever else runs. Sources: top-p, arXiv:1904.09751; min-p, arXiv:2407.01082;
repetition penalty, arXiv:1909.05858, section 4.1.
"""

import math
import secrets
from dataclasses import dataclass

import torch
from torch import Tensor

from mixtral.engine.sampling_params import SamplingParams
from mixtral.engine.sequence import Sequence
from mixtral.errors import EngineError


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenLogprob:
    """Log-probability of a generated token and of the likeliest alternatives.

    Taken from the model's own distribution, before penalties and temperature.
    """

    token_id: int
    """The generated token."""
    logprob: float
    """Its natural log-probability."""
    top: tuple[tuple[int, float], ...]
    """Likeliest tokens with their log-probabilities, best first."""


class Sampler:
    """Chooses the next token of each sequence."""

    def __init__(self) -> None:
        self._generators: dict[int, torch.Generator] = {}

    def sample(
        self, logits: Tensor, sequences: list[Sequence]
    ) -> list[tuple[int, TokenLogprob | None]]:
        """Return a token for each row of logits.

        Args:
            logits: [S, V], float32, any device; row i belongs to sequence i.
            sequences: S sequences.

        Returns:
            Token id, and its log-probability where the sequence asks for it.

        Raises:
            EngineError: The model gives no numbers.
        """
        # The largest is enough: it is NaN where any is.
        if not math.isfinite(float(logits.amax())):
            raise EngineError(
                "the model gives logits that are no finite numbers; its weights are damaged, or "
                "too large for the dtype: try bfloat16 or float32."
            )
        greedy = logits.argmax(dim=-1).tolist()
        results = []
        for row, sequence, best in zip(logits, sequences, greedy, strict=True):
            params = sequence.params
            adjusted = _adjust(row, sequence)
            if params.temperature > 0:
                token_id = self._draw(row if adjusted is None else adjusted, sequence)
            else:
                token_id = best if adjusted is None else int(adjusted.argmax())
            logprob = None if params.logprobs is None else _logprob(row, token_id, params.logprobs)
            results.append((token_id, logprob))
        return results

    def forget(self, sequence: Sequence) -> None:
        """Drop the random generator of a finished sequence."""
        self._generators.pop(sequence.sequence_id, None)

    def _draw(self, logits: Tensor, sequence: Sequence) -> int:
        probabilities = token_probabilities(logits.cpu(), sequence.params)
        key = sequence.sequence_id
        if key not in self._generators:
            seed = sequence.params.seed
            seed = secrets.randbits(63) if seed is None else seed % 2**63
            self._generators[key] = torch.Generator().manual_seed(seed)
        return int(torch.multinomial(probabilities, 1, generator=self._generators[key]))


def token_probabilities(logits: Tensor, params: SamplingParams) -> Tensor:
    """Return the distribution that a token is drawn from.

    Args:
        logits: [V], float32, after bias and penalties.
        params: Temperature above 0, and the cuts top_k, min_p and top_p, applied in this order.

    Returns:
        [V], float32, sums to 1; the likeliest token is always kept.
    """
    # float64: a temperature of 0.001 would overflow float32 logits.
    scaled = (logits.double() - logits.max()) / params.temperature
    probabilities = scaled.softmax(dim=-1)
    if 0 < params.top_k < len(probabilities):
        kept = probabilities.topk(params.top_k)
        probabilities = torch.zeros_like(probabilities).scatter_(0, kept.indices, kept.values)
    if params.min_p > 0:
        floor = params.min_p * probabilities.max()
        probabilities = torch.where(probabilities < floor, 0.0, probabilities)
    if params.top_p < 1:
        ordered, indices = probabilities.sort(descending=True, stable=True)
        ordered = ordered / ordered.sum()
        before = ordered.cumsum(0) - ordered
        ordered = torch.where(before < params.top_p, ordered, 0.0)
        probabilities = torch.zeros_like(probabilities).scatter_(0, indices, ordered)
    return (probabilities / probabilities.sum()).float()


def _adjust(logits: Tensor, sequence: Sequence) -> Tensor | None:
    """Return biased and penalised logits, or None where the request changes nothing."""
    params = sequence.params
    num_output = len(sequence.output_token_ids)
    is_eos_banned = num_output < params.min_tokens and not params.ignore_eos
    if not (params.logit_bias or params.has_penalties or is_eos_banned):
        return None
    adjusted = logits.clone()
    for token_id, bias in params.logit_bias.items():
        adjusted[token_id] += bias
    if params.has_penalties:
        _penalise(adjusted, sequence)
    if is_eos_banned:
        adjusted[sequence.eos_token_id] = float("-inf")
    return adjusted


def _penalise(logits: Tensor, sequence: Sequence) -> None:
    params = sequence.params
    if params.repetition_penalty != 1:
        seen = torch.tensor(
            sorted({*sequence.prompt_token_ids, *sequence.output_token_ids}),
            device=logits.device,
        )
        values = logits[seen]
        penalty = params.repetition_penalty
        logits[seen] = torch.where(values > 0, values / penalty, values * penalty)
    if sequence.output_token_ids and (params.presence_penalty or params.frequency_penalty):
        output = torch.tensor(sequence.output_token_ids, device=logits.device)
        counts = torch.bincount(output, minlength=len(logits))
        logits -= params.frequency_penalty * counts + params.presence_penalty * (counts > 0)


def _logprob(logits: Tensor, token_id: int, num_top: int) -> TokenLogprob:
    log_probs = logits.log_softmax(dim=-1)
    best = log_probs.topk(num_top) if num_top else None
    top = () if best is None else zip(best.indices.tolist(), best.values.tolist(), strict=True)
    return TokenLogprob(token_id=token_id, logprob=float(log_probs[token_id]), top=tuple(top))
