"""Perplexity by context: the same words, with more and more of the novel before them.

A model that uses its context guesses a word better the more it has read. So windows of two novels
that nano never saw end with the same ``num_scored`` tokens for every length of context; only
where they begin differs. A context of C means sequences of C tokens, <s> and scored ones included.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from mixtral.errors import ConfigError
from mixtral.eval.cases import EXCERPTS, read_excerpt
from mixtral.eval.token_scores import TokenScorer
from mixtral.llm import LLM

CONTEXTS = (128, 256, 512, 1024, 2048, 4096)


@dataclass(frozen=True, kw_only=True, slots=True)
class ContextPerplexity:
    """What was measured at one length of context."""

    context: int
    """Tokens of a sequence."""
    perplexity: float | None
    """exp of the mean loss per token; None where the model's context is shorter."""
    num_tokens: int
    """Tokens that were scored."""

    def as_dict(self) -> dict[str, Any]:
        """Return it for a report."""
        return {
            "context": self.context,
            "perplexity": self.perplexity,
            "num_tokens": self.num_tokens,
        }


def measure_contexts(
    llm: LLM,
    *,
    contexts: Sequence[int] = CONTEXTS,
    num_windows: int = 40,
    num_scored: int = 64,
    progress: Callable[[int, int], None] | None = None,
) -> list[ContextPerplexity]:
    """Measure perplexity on the novel excerpts for several lengths of context.

    Args:
        llm: The model.
        contexts: Lengths in tokens, ascending.
        num_windows: Sequences of each length, spread evenly over the excerpts.
        num_scored: Tokens at the end of each that count, less than the shortest context.
        progress: Called with sequences done and all sequences.

    Raises:
        ConfigError: The numbers do not fit together, or the excerpts are too short for them.
    """
    _check(contexts, num_windows, num_scored)
    windows = _windows(llm, max(contexts), num_windows)
    losses: dict[int, list[float]] = {context: [] for context in contexts}
    score = TokenScorer.of(llm)
    fitting = [context for context in contexts if context <= llm.max_model_len]
    done = 0
    for context in fitting:
        for window in windows:
            ids = [llm.tokenizer.bos_id, *window[len(window) - context + 1 :]]
            losses[context].append(-float(score(ids, len(ids) - num_scored).mean()))
            done += 1
            if progress is not None:
                progress(done, len(fitting) * len(windows))
    return [
        ContextPerplexity(
            context=context,
            perplexity=math.exp(sum(found) / len(found)) if found else None,
            num_tokens=len(found) * num_scored,
        )
        for context, found in losses.items()
    ]


def falls(measured: Sequence[ContextPerplexity]) -> bool | None:
    """Say whether perplexity falls with every step; None where a length does not fit."""
    values = [each.perplexity for each in measured]
    if any(value is None for value in values):
        return None
    return all(a is not None and b is not None and a > b for a, b in pairwise(values))


def _windows(llm: LLM, length: int, count: int) -> list[list[int]]:
    """Cut windows from the excerpts, spread evenly, as many from each."""
    windows: list[list[int]] = []
    for index, name in enumerate(EXCERPTS):
        ids = llm.tokenizer.encode(read_excerpt(name), bos=False)
        wanted = count // len(EXCERPTS) + (index < count % len(EXCERPTS))
        if len(ids) < length:
            raise ConfigError(
                f"a context of {length} is longer than an excerpt ({len(ids)} tokens); "
                "take a shorter one."
            )
        room = len(ids) - length
        starts = [room * i // max(1, wanted - 1) for i in range(wanted)]
        windows += [ids[start : start + length] for start in starts]
    return windows


def _check(contexts: Sequence[int], num_windows: int, num_scored: int) -> None:
    if not contexts or list(contexts) != sorted(set(contexts)):
        raise ConfigError(f"contexts is {list(contexts)}; it must be ascending lengths.")
    if num_windows < 1:
        raise ConfigError(f"num_windows is {num_windows}; it must be at least 1.")
    if not 1 <= num_scored < contexts[0]:
        raise ConfigError(
            f"num_scored is {num_scored}; it must be at least 1 and less than the shortest "
            f"context, {contexts[0]}."
        )
