"""From logits to tokens, one sequence at a time, so that no answer depends on its neighbours.

Each sequence draws from a random generator of its own, seeded by its request: the same seed gives
the same tokens whatever else runs. Order of work: logit bias, penalties, ban on the end token,
constraint, then the draw (``drawing.py``). Source of the repetition penalty: arXiv:1909.05858,
section 4.1.
"""

import math
import random
import secrets
from collections.abc import Sequence as AbstractSequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mixtral.engine.drawing import draw
from mixtral.engine.sequence import Sequence
from mixtral.errors import EngineError


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenLogprob:
    """Log-probability of a generated token and of the likeliest alternatives.

    Taken from the model's own distribution, before penalties, constraints and temperature.
    """

    token_id: int
    """The generated token."""
    logprob: float
    """Its natural log-probability."""
    top: tuple[tuple[int, float], ...]
    """Likeliest tokens with their log-probabilities, best first."""


Sample = tuple[int, TokenLogprob | None]


class Sampler:
    """Chooses the next token of each sequence."""

    def __init__(self) -> None:
        self._generators: dict[int, random.Random] = {}

    @torch.inference_mode()
    def sample(
        self, logits: Tensor, sequences: AbstractSequence[Sequence]
    ) -> list[Sample | EngineError]:
        """Return a token for each row of logits.

        Args:
            logits: [S, V], float32, any device; row i belongs to sequence i. Changed in place.
            sequences: S sequences.

        Returns:
            Token id, and its log-probability where the sequence asks for it; an error where this
            one sequence cannot go on.

        Raises:
            EngineError: The model gives no numbers.
        """
        # The largest is enough: it is NaN where any is.
        if not math.isfinite(float(logits.amax())):
            raise EngineError(
                "the model gives logits that are no finite numbers; its weights are damaged, or "
                "too large for the dtype: try bfloat16 or float32."
            )
        own = {
            row: logits[row].log_softmax(dim=-1)
            for row, sequence in enumerate(sequences)
            if sequence.params.logprobs is not None
        }
        for row, sequence in zip(logits, sequences, strict=True):
            _adjust(row, sequence)
        greedy = logits.argmax(dim=-1).tolist()
        return [
            self._choose(logits[row], sequence, best, own.get(row))
            for row, (sequence, best) in enumerate(zip(sequences, greedy, strict=True))
        ]

    def forget(self, sequence: Sequence) -> None:
        """Drop the random generator of a finished sequence."""
        self._generators.pop(sequence.sequence_id, None)

    def _choose(
        self, logits: Tensor, sequence: Sequence, best: int, own: Tensor | None
    ) -> Sample | EngineError:
        if sequence.constraint is not None and math.isinf(float(logits[best])):
            return EngineError("no token fits the grammar of this answer; report its schema.")
        token_id = best
        if sequence.params.temperature > 0:
            token_id = draw(logits.cpu(), sequence.params, self._generator(sequence).random())
        if own is None:
            return token_id, None
        return token_id, _logprob(own, token_id, sequence.params.logprobs or 0)

    def _generator(self, sequence: Sequence) -> random.Random:
        key = sequence.sequence_id
        if key not in self._generators:
            seed = sequence.params.seed
            self._generators[key] = random.Random(secrets.randbits(63) if seed is None else seed)
        return self._generators[key]


def _adjust(logits: Tensor, sequence: Sequence) -> None:
    """Apply bias, penalties, the ban on the end token and the constraint, in place."""
    params = sequence.params
    if params.logit_bias:
        token_ids = torch.tensor(list(params.logit_bias), device=logits.device)
        biases = torch.tensor(
            list(params.logit_bias.values()), dtype=logits.dtype, device=logits.device
        )
        logits[token_ids] += biases
    if params.has_penalties:
        _penalise(logits, sequence)
    is_end_banned = len(sequence.output_token_ids) < params.min_tokens and not params.ignore_eos
    words = None if sequence.constraint is None else sequence.constraint.mask()
    if words is not None:
        allowed = np.unpackbits(words.view(np.uint8), bitorder="little", count=len(logits))
        # Where nothing but the end is left, min_tokens cannot hold it back.
        is_end_banned = is_end_banned and int(allowed.sum()) > int(allowed[sequence.eos_token_id])
        banned = torch.from_numpy(allowed == 0).to(logits.device)
        logits.masked_fill_(banned, float("-inf"))
    if is_end_banned:
        logits[sequence.eos_token_id] = float("-inf")


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


def _logprob(log_probs: Tensor, token_id: int, num_top: int) -> TokenLogprob:
    best = log_probs.topk(num_top) if num_top else None
    top = () if best is None else zip(best.indices.tolist(), best.values.tolist(), strict=True)
    return TokenLogprob(token_id=token_id, logprob=float(log_probs[token_id]), top=tuple(top))
