"""The gate before any timing: two engines must compute the same model, as far as formats allow.

Logits are compared token by token and the median is taken, because two correct engines may send a
token with a near tie to different experts. Then the second engine scores each token that the first
one chose, through its cache.

A peer that holds our weights in a 4-bit format of its own computes another model: rounding them to
Q4_0 moves the logits of random weights by 65 %. Such a peer brings a reference, our own engine on
the weights as the peer has them, and must agree with that; that they are ours, rounded, shows in
the correlation of the reference with our answer.
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
    "bfloat16": 5e-2,
    **dict.fromkeys(("f16", "bf16", "q8_0", "q4_0"), 1e-1),
    **dict.fromkeys(("int8", "int4", "int3"), 2e-1),
}
"""Relative error of the logits that two correct engines stay within, by format of the weights.

The coarser of the two formats decides. llama.cpp and we round the states to 8 bits for low-bit
weights, which random weights amplify: measured are 0.04 (Q4_0) and 0.09 (int4) on 2 layers of 8x7B.
Engines with different weights have 1.4.
"""
MIN_CORRELATION = 0.5
"""Correlation of the logits of a model and of its weights rounded; different weights have 0."""
_PROMPT_TOKENS = 48
_NEW_TOKENS = 15


@dataclass(frozen=True, kw_only=True, slots=True)
class Gate:
    """How far two engines agree, taken before anything is timed."""

    relative_error: float
    """Median over tokens of |ours - theirs| / |theirs| of the logits."""
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
    """What an engine says to the gate's prompt, kept so that another can be held against it."""

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


@dataclass(frozen=True, kw_only=True, slots=True)
class Peer:
    """An engine to compare with, ready to run."""

    contender: Contender
    """The engine."""
    reference: Answer | None = None
    """What our engine says on the weights as the peer holds them; None where they are the same."""


def gate_prompt(*, vocab_size: int, max_tokens: int, seed: int = 0) -> list[int]:
    """Return the prompt that every engine answers.

    Args:
        vocab_size: V, ids to choose from.
        max_tokens: Most tokens of prompt and continuation.
        seed: Seed of the prompt.
    """
    length = max(1, min(_PROMPT_TOKENS, max_tokens - _NEW_TOKENS - 1))
    return random_prompts(1, length, vocab_size=vocab_size, seed=seed)[0]


def record_answer(contender: Contender, prompt: Sequence[int]) -> Answer:
    """Ask an engine for logits and a greedy continuation of one prompt."""
    return Answer(
        engine=contender.name,
        format=contender.weights.format,
        prompt=list(prompt),
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


def check_rounding(answer: Answer, reference: Answer) -> float:
    """Check that a reference has our weights, rounded.

    Args:
        answer: What our engine said.
        reference: What it said on the weights as a peer holds them.

    Returns:
        Median over tokens of the correlation of their logits.

    Raises:
        EngineError: They are other weights.
    """
    a, b = (x.logits - x.logits.mean(dim=1, keepdim=True) for x in (answer, reference))
    correlation = float(torch.cosine_similarity(a, b, dim=1).median())
    if not correlation >= MIN_CORRELATION:
        raise EngineError(
            f"the weights in {reference.format} are not ours: the logits correlate by "
            f"{correlation:.2f} (at least {MIN_CORRELATION}); nothing was timed."
        )
    return correlation


def _count_agreeing(scores: Tensor, token_ids: Sequence[int], tolerance: float) -> int:
    """Count chosen tokens whose score in [new tokens, V] is within the tolerance of the best."""
    chosen = scores.gather(1, torch.tensor(token_ids)[:, None])[:, 0]
    best = scores.amax(1)
    return int((best - chosen <= tolerance * best.abs()).sum())
