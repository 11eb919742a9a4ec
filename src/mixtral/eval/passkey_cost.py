"""What a grid will cost, said before it begins: tokens to run, and seconds from a short probe.

Prompts without meaning of two or three lengths are timed, and a curve is laid through them:

    seconds(n) = a + b n + c n^2      a: the answer; b: weights; c: attention

A prompt whose first h tokens the prefix cache has costs seconds(n) - seconds(h) + a. Times of a
busy machine, and lengths far beyond the probed ones, make it a rough number.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mixtral.eval.passkey import PasskeyPrompt, PromptWriter
from mixtral.eval.passkey_grid import Answerer, GridPlan, Trial, order_questions

_PROBED = (64, 256, 1024)  # small beside the grid: one question of 32k is 20 times as long


@dataclass(frozen=True, kw_only=True, slots=True)
class Speed:
    """Seconds of a prompt by its length, as a polynomial."""

    answer_s: float
    """Seconds of an answer."""
    token_s: float
    """Seconds per token of the prompt."""
    pair_s: float
    """Seconds per token and token before it, for attention."""

    def seconds(self, num_tokens: int, num_reused: int = 0) -> float:
        """Return the expected time of a prompt of which the cache has the beginning."""
        ran = num_tokens - num_reused
        pairs = num_tokens**2 - num_reused**2
        return self.answer_s + self.token_s * ran + self.pair_s * pairs


@dataclass(frozen=True, kw_only=True, slots=True)
class GridCost:
    """What the questions that are left will cost, if no length stops early."""

    num_prompts: int
    """Questions."""
    num_tokens: int
    """Tokens of their prompts."""
    num_reused: int
    """Those of them that a prompt shares with the one before it."""
    seconds: float
    """Expected time."""


def probe_speed(
    answer: Answerer, *, vocab_size: int, longest: int, max_tokens: int, seed: int = 0
) -> Speed:
    """Time prompts of random tokens, at most as long as the longest prompt of the grid.

    Args:
        answer: The model.
        vocab_size: V, for the random tokens.
        longest: Tokens of the longest prompt.
        max_tokens: Tokens of an answer.
        seed: Of the tokens.
    """
    chance = random.Random(seed)
    sizes = sorted({min(size, longest) for size in _PROBED})
    # Once without a watch: the first run of a model reads its weights from the disk.
    measured = []
    for size in (sizes[0], *sizes):
        ids = [chance.randrange(vocab_size) for _ in range(size)]
        measured.append(answer(ids, max_tokens=max_tokens).seconds)
    return fit_speed(sizes, measured[1:])


def fit_speed(sizes: Sequence[int], seconds: Sequence[float]) -> Speed:
    """Lay the curve through one to three measurements; a term that comes out negative is left out.

    >>> speed = fit_speed([10, 20, 40], [1.0 + 0.1 * n + 0.01 * n * n for n in (10, 20, 40)])
    >>> round(speed.answer_s, 6), round(speed.token_s, 6), round(speed.pair_s, 6)
    (1.0, 0.1, 0.01)
    """
    for degree in range(len(sizes) - 1, 0, -1):
        terms = np.polynomial.polynomial.polyfit(sizes, seconds, degree)
        if min(terms) >= 0:
            low, slope, *square = (float(term) for term in terms)
            return Speed(answer_s=low, token_s=slope, pair_s=square[0] if square else 0.0)
    # Through the longest and the origin.
    return Speed(answer_s=0.0, token_s=seconds[-1] / sizes[-1], pair_s=0.0)


def estimate_cost(
    writer: PromptWriter, plan: GridPlan, speed: Speed, *, done: Sequence[Trial] = ()
) -> GridCost:
    """Add up the questions of a plan that are not answered yet.

    Raises:
        ConfigError: A length leaves no room, or the filler has not enough text.
    """
    known = {trial.place for trial in done}
    prompts = tokens = reused = 0
    seconds = 0.0
    for length in plan.lengths:
        before: PasskeyPrompt | None = None
        for depth, case, prompt in order_questions(writer, plan, length):
            if (length, depth, case) in known:
                continue
            shared = 0
            if before is not None and before.filler_start == prompt.filler_start:
                shared = min(before.key_position, prompt.key_position)
            before = prompt
            prompts, tokens = prompts + 1, tokens + len(prompt.token_ids)
            reused += shared
            seconds += speed.seconds(len(prompt.token_ids), shared)
    return GridCost(num_prompts=prompts, num_tokens=tokens, num_reused=reused, seconds=seconds)
