"""Perplexity by length of context: the same tokens, with more and more of the document before them.

Perplexity of longer windows falls already because other tokens are scored in them. So here every
length scores the *same* target tokens: a window ends with ``num_scored`` targets, and only where it
begins differs. A context of C means sequences of C tokens in all, ``<s>`` and the targets included:
the last target has C - 1 tokens before it, the first C - num_scored.

    targets t7 t8, contexts of 4 and 8:  <s> t6 [t7 t8]   <s> t2 t3 t4 t5 t6 [t7 t8]

Targets of one document are alike, so the bands do not treat tokens as independent: 95 % intervals
from a bootstrap that draws whole documents, or whole windows where there are fewer than
``MIN_DOCUMENTS``. A step from one length to the next is judged by the *difference* of the losses,
drawn together, because most of what varies is common to both (paired bootstrap; Efron and
Tibshirani 1993, An Introduction to the Bootstrap, chapters 6 and 13).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mixtral.errors import ConfigError
from mixtral.eval.token_scores import LogProbs, hash_targets
from mixtral.validation import require_int

MIN_DOCUMENTS = 8
"""With fewer documents, windows are drawn: so few units give no interval to rely on. With as few
windows, too, no step is judged."""

_NUM_RESAMPLES = 2000

Floats = NDArray[np.float64]
Verdict = Literal["falls", "rises", "no clear change", "not judged"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ContextPoint:
    """Perplexity at one length of context."""

    context: int
    """Tokens of a sequence."""
    perplexity: float
    """exp of the mean loss of the targets."""
    low: float
    """Lower end of its 95 % interval."""
    high: float
    """Upper end."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ContextStep:
    """What a longer context changes."""

    shorter: int
    """Context before."""
    longer: int
    """Context after."""
    change: float
    """Perplexity after over perplexity before, less 1."""
    low: float
    """Lower end of its 95 % interval."""
    high: float
    """Upper end."""
    is_judged: bool
    """Whether enough windows were drawn for the interval to mean something."""

    @property
    def verdict(self) -> Verdict:
        """Whether the interval of the change leaves 0 out, and on which side."""
        if not self.is_judged:
            return "not judged"
        if self.high < 0:
            return "falls"
        return "rises" if self.low > 0 else "no clear change"


@dataclass(frozen=True, kw_only=True, slots=True)
class ContextCurve:
    """Perplexity of the same targets at several lengths of context."""

    points: Sequence[ContextPoint]
    """By length, ascending."""
    steps: Sequence[ContextStep]
    """From each length to the next."""
    num_documents: int
    """Documents that have targets."""
    num_too_short: int
    """Documents that are shorter than the longest context, and left out."""
    num_windows: int
    """Windows of each length."""
    num_scored: int
    """Targets at the end of each."""
    targets_sha256: str
    """Tells the targets from others, see ``hash_targets``."""
    resampled: Literal["documents", "windows"]
    """What the bootstrap draws."""

    @property
    def statement(self) -> str:
        """Whether perplexity falls with context, in one sentence."""
        if not self.steps:
            return "One length of context alone says nothing of what context does."
        if not all(step.is_judged for step in self.steps):
            return (
                f"{self.num_windows} windows are too few to judge a change by; {MIN_DOCUMENTS} are "
                "needed."
            )
        kinds = [step.verdict for step in self.steps]
        if all(kind == "falls" for kind in kinds):
            return "Perplexity falls with every step, beyond chance."
        parts = []
        for kind in ("rises", "no clear change"):
            places = [
                f"{step.shorter:,} to {step.longer:,}"
                for step in self.steps
                if step.verdict == kind
            ]
            if places:
                parts.append(f"{kind} from {' and '.join(places)}")
        rest = "it falls elsewhere" if "falls" in kinds else "it falls nowhere beyond chance"
        return f"Perplexity: {'; '.join(parts)}; {rest}."

    def as_dict(self) -> dict[str, Any]:
        """Return it for a report."""
        values = asdict(self)
        for step, found in zip(values["steps"], self.steps, strict=True):
            step["verdict"] = found.verdict
        return values | {"statement": self.statement}


def measure_curve(
    log_probs: LogProbs,
    documents: Sequence[Sequence[int]],
    *,
    bos_id: int,
    contexts: Sequence[int],
    num_windows: int = 40,
    num_scored: int = 256,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> ContextCurve:
    """Score the same targets at every length of context.

    Args:
        log_probs: The model, see ``TokenScorer``.
        documents: Token ids of each, without ``<s>``.
        bos_id: Token that begins every sequence.
        contexts: Lengths in tokens, ascending, each once.
        num_windows: Windows of each length, spread evenly over the documents that are long enough.
        num_scored: Targets at the end of each window, less than the shortest context.
        seed: Of the bootstrap.
        progress: Called with tokens done and all tokens.

    Raises:
        ConfigError: The numbers do not fit together, or no document is long enough.
    """
    _check(contexts, num_windows=num_windows, num_scored=num_scored)
    # <s> stands for the first token.
    fitting = [ids for ids in documents if len(ids) >= contexts[-1] - 1]
    if not fitting:
        raise ConfigError(
            f"the longest of {len(documents)} documents has {max(map(len, documents), default=0)} "
            f"tokens, and the longest context is {contexts[-1]}; take longer documents or a "
            "shorter context."
        )
    windows = _windows(fitting, length=contexts[-1] - 1, num_scored=num_scored, count=num_windows)
    if len(windows) < 2:
        raise ConfigError(
            f"the documents give one window of {contexts[-1]} tokens, which has no interval; "
            "take longer or more documents."
        )
    losses = _score(
        log_probs,
        [[bos_id, *window] for _, window in windows],
        contexts=contexts,
        num_scored=num_scored,
        progress=progress,
    )
    owners = [document for document, _ in windows]
    by_document = len(set(owners)) >= MIN_DOCUMENTS
    units = np.asarray(owners if by_document else range(len(windows)))
    points, steps = _summarise(losses, units, contexts, seed)
    return ContextCurve(
        points=points,
        steps=steps,
        num_documents=len(set(owners)),
        num_too_short=len(documents) - len(fitting),
        num_windows=len(windows),
        num_scored=num_scored,
        targets_sha256=hash_targets(window[-num_scored:] for _, window in windows),
        resampled="documents" if by_document else "windows",
    )


def _score(
    log_probs: LogProbs,
    windows: Sequence[list[int]],
    *,
    contexts: Sequence[int],
    num_scored: int,
    progress: Callable[[int, int], None] | None,
) -> Floats:
    """Return the mean loss of each window's targets at each length, [windows, contexts], nats."""
    losses = np.zeros((len(windows), len(contexts)))
    done, total = 0, sum(contexts) * len(windows)
    for column, context in enumerate(contexts):
        for row, window in enumerate(windows):
            ids = [window[0], *window[len(window) - context + 1 :]]
            losses[row, column] = -float(log_probs(ids, context - num_scored).double().mean())
            done += context
            if progress is not None:
                progress(done, total)
    return losses


def _windows(
    documents: Sequence[Sequence[int]], *, length: int, num_scored: int, count: int
) -> list[tuple[int, Sequence[int]]]:
    """Cut windows, spread evenly, as many from each document; no token is a target twice.

    A document that has no room for its share gives fewer.
    """
    num_chosen = min(count, len(documents))
    windows: list[tuple[int, Sequence[int]]] = []
    for place in range(num_chosen):
        index = place * len(documents) // num_chosen
        ids = documents[index]
        room = len(ids) - length
        wanted = count // num_chosen + (place < count % num_chosen)
        number = min(wanted, room // num_scored + 1)
        starts = [room * i // max(1, number - 1) for i in range(number)]
        windows += [(index, ids[start : start + length]) for start in starts]
    return windows


def _summarise(
    losses: Floats, units: NDArray[np.int64], contexts: Sequence[int], seed: int
) -> tuple[list[ContextPoint], list[ContextStep]]:
    """Return means with bootstrap intervals; rows with the same unit are drawn together."""
    names, places = np.unique(units, return_inverse=True)
    sums = np.zeros((len(names), losses.shape[1]))
    np.add.at(sums, places, losses)
    counts = np.bincount(places).astype(np.float64)
    drawn = np.random.default_rng(seed).integers(len(names), size=(_NUM_RESAMPLES, len(names)))
    means = sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)[:, None]  # [resamples, contexts]
    lows, highs = np.quantile(means, (0.025, 0.975), axis=0)
    centre = losses.mean(axis=0)
    points = [
        ContextPoint(
            context=context,
            perplexity=math.exp(centre[i]),
            low=math.exp(lows[i]),
            high=math.exp(highs[i]),
        )
        for i, context in enumerate(contexts)
    ]
    steps = []
    for i, (shorter, longer) in enumerate(pairwise(contexts)):
        low, high = np.quantile(means[:, i + 1] - means[:, i], (0.025, 0.975))
        steps.append(
            ContextStep(
                shorter=shorter,
                longer=longer,
                change=math.expm1(centre[i + 1] - centre[i]),
                low=math.expm1(low),
                high=math.expm1(high),
                is_judged=len(names) >= MIN_DOCUMENTS,
            )
        )
    return points, steps


def _check(contexts: Sequence[int], *, num_windows: int, num_scored: int) -> None:
    if not contexts or list(contexts) != sorted(set(contexts)):
        raise ConfigError(f"contexts is {list(contexts)}; it must be ascending lengths.")
    # One window gives no interval.
    require_int("windows", num_windows, low=2)
    if not 1 <= num_scored < contexts[0]:
        raise ConfigError(
            f"scored is {num_scored}; it must be at least 1 and less than the shortest context, "
            f"{contexts[0]}."
        )
