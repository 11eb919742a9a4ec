"""The gate before any timing: two engines must compute the same model, as far as formats allow.

Logits are compared token by token and the median is taken, because two correct engines may send a
token with a near tie to different experts. Then the second engine scores each token that the first
one chose, through its cache. How close is close depends on the coarser of the two formats: engines
with packed weights round the states to 8 bits as well, and a peer that holds our weights in a
4-bit format of its own computes a model that is 9 % away from ours in every matrix.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mixtral.bench.contender import Contender, random_prompts
from mixtral.errors import EngineError

GATE_TOKENS = 64
"""Most tokens of prompt and answer together."""
TOLERANCES: Mapping[str, float] = {
    "float32": 1e-3,
    "float16": 2e-2,
    "f16": 5e-2,
    "bfloat16": 5e-2,
    "bf16": 5e-2,
    "int8": 1e-1,
    "int4": 1e-1,
    "int3": 1e-1,
    "q8_0": 1e-1,
    "q4_0": 4e-1,
}
"""Relative error of the logits that a correct engine stays within, by format of the weights.

Another engine's int4 is our weights exactly, its q4_0 is our weights rounded once more. An engine
with other weights has a relative error of 1.4.
"""
_PROMPT_TOKENS = 48
_NEW_TOKENS = 15


@dataclass(frozen=True, kw_only=True, slots=True)
class Gate:
    """How far two engines agree, taken before anything is timed."""

    relative_error: float
    """Median over tokens of |ours - theirs| / |theirs| of the logits."""
    correlation: float
    """Median over tokens of the correlation of the logits."""
    tolerance: float
    """The largest relative error that passes."""
    num_agreeing_tokens: int
    """Greedy tokens of our decode that the peer finds best too, or within the tolerance of it."""
    num_tokens: int
    """Greedy tokens compared."""

    @property
    def passes(self) -> bool:
        """Whether both engines compute the same model."""
        # Half: a near tie in the router may change any token, a wrong engine changes all.
        agree = 2 * self.num_agreeing_tokens >= self.num_tokens
        return self.relative_error <= self.tolerance and agree


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What an engine says to one prompt, kept so that another can be held against it."""

    engine: str
    """Who answered."""
    format: str
    """Format of its weights."""
    prompt: list[int]
    """The prompt."""
    logits: Tensor
    """Logits after each of its tokens, [T, V], float32."""
    token_ids: list[int]
    """Greedy continuation through the engine's cache."""


def record_answer(
    contender: Contender, *, vocab_size: int, max_tokens: int, seed: int = 0
) -> Answer:
    """Ask an engine for logits and a greedy continuation of one prompt.

    Args:
        contender: The engine.
        vocab_size: V, ids to choose the prompt from.
        max_tokens: Most tokens of prompt and continuation.
        seed: Seed of the prompt.
    """
    length = max(1, min(_PROMPT_TOKENS, max_tokens - _NEW_TOKENS - 1))
    prompt = random_prompts(1, length, vocab_size=vocab_size, seed=seed)[0]
    return Answer(
        engine=contender.name,
        format=contender.weights.format,
        prompt=prompt,
        logits=contender.logits(prompt),
        token_ids=contender.run([prompt], _NEW_TOKENS).token_ids[0],
    )


def check_agreement(answer: Answer, other: Contender) -> Gate:
    """Compare logits and greedy tokens of two engines: a wrong one has no speed.

    Args:
        answer: What the first engine said.
        other: The second one.

    Raises:
        EngineError: They do not agree.
    """
    logits = other.logits(answer.prompt)
    errors = (answer.logits - logits).norm(dim=1) / logits.norm(dim=1)
    tolerance = max(TOLERANCES[answer.format], TOLERANCES[other.weights.format])
    scores = other.logits([*answer.prompt, *answer.token_ids[:-1]])
    gate = Gate(
        relative_error=float(errors.median()),
        correlation=_median_correlation(answer.logits, logits),
        tolerance=tolerance,
        num_agreeing_tokens=_count_agreeing(
            scores[len(answer.prompt) - 1 :], answer.token_ids, tolerance
        ),
        num_tokens=len(answer.token_ids),
    )
    # Not "fails if above": a NaN must not pass.
    if not gate.passes:
        raise EngineError(
            f"{answer.engine} and {other.name} disagree: relative error of the logits "
            f"{gate.relative_error:.2e} (at most {tolerance:.0e}), {gate.num_agreeing_tokens} of "
            f"{gate.num_tokens} greedy tokens agree; nothing was timed."
        )
    return gate


def _median_correlation(a: Tensor, b: Tensor) -> float:
    a = a - a.mean(dim=1, keepdim=True)
    b = b - b.mean(dim=1, keepdim=True)
    return float(torch.cosine_similarity(a, b, dim=1).median())


def _count_agreeing(scores: Tensor, token_ids: Sequence[int], tolerance: float) -> int:
    """Count chosen tokens whose score in [new tokens, V] is within the tolerance of the best."""
    chosen = scores.gather(1, torch.tensor(token_ids)[:, None])[:, 0]
    best = scores.amax(1)
    return int((best - chosen <= tolerance * best.abs()).sum())
