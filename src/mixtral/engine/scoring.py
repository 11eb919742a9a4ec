"""Log-probabilities of given tokens: what evaluation asks of a model instead of an answer.

A sequence that is scored runs like a prompt, in chunks, beside others and from cached blocks; only
that the logits after its last tokens are compared with targets, where a prompt would draw a token
from the last row.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mixtral.errors import EngineError


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenScore:
    """How likely the model finds one given token."""

    logprob: float
    """Its natural log-probability."""
    is_greedy: bool
    """Whether it is the likeliest token."""


@torch.inference_mode()
def score_tokens(logits: Tensor, targets: Sequence[int]) -> list[TokenScore]:
    """Score one target for each row of logits.

    Args:
        logits: [R, V], float32, any device.
        targets: R token ids.

    Raises:
        EngineError: The model gives no numbers.
    """
    wanted = torch.tensor(targets, device=logits.device)
    logprobs = logits.gather(1, wanted[:, None])[:, 0] - logits.logsumexp(dim=-1)  # [R]
    values = logprobs.tolist()
    if not all(map(math.isfinite, values)):
        raise EngineError(
            "the model gives logits that are no finite numbers; its weights are damaged, or too "
            "large for the dtype: try bfloat16 or float32."
        )
    is_best = (logits.argmax(dim=-1) == wanted).tolist()
    return [
        TokenScore(logprob=value, is_greedy=best)
        for value, best in zip(values, is_best, strict=True)
    ]
