"""Is one run better than another, or is it chance? Differences with their standard errors.

Where both runs answered the same questions and recorded each answer, only the questions that one of
them alone got right tell anything. Of n questions, b right in the first run alone and c in the
second alone: the difference of the shares is (c - b) / n with variance (b + c - (c - b)^2 / n) /
n^2, and the exact test of McNemar (1947) asks how likely a coin splits b + c so unevenly.

    n = 1,000, b = 0, c = 12:  +1.2 points, error 0.34, p = 2 / 2^12 = 0.0005, a clear difference,
                               though each share by itself is known to 3 points only

Otherwise shares are compared with the pooled two-sample z test. Perplexities are compared by the
logarithm of their ratio: over documents where both scored the same tokens of at least 16, else from
both standard errors, which overstates the error, because both read the same text.

A difference is called clear where p < 0.05.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from mixtral.eval.compare_runs import CHOICE_OF_TARGETS, TARGETS, Run, Score

Verdict = Literal["better", "worse", "differs", "no clear difference", "error not known"]

_MIN_DOCUMENTS = 16
_CLEAR = 0.05


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """What a second run changes against the first, on one task."""

    task: str
    """What was asked."""
    run: str
    """Name of the second run."""
    change: float
    """Of a share and a bias, second less first; of a perplexity, second over first, less 1."""
    error: float | None
    """Its standard error."""
    p_value: float | None
    """How likely so large a change is by chance alone."""
    is_paired: bool
    """Whether it is judged question by question, or document by document."""
    verdict: Verdict
    """What may be said."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """Runs side by side."""

    runs: Sequence[Run]
    """In the order given; all are compared with the first."""
    differences: Sequence[Difference]
    """Where both runs measured a task in the same way."""
    mismatches: Sequence[str]
    """One line for each task that two runs measured in different ways."""

    @property
    def tasks(self) -> list[str]:
        """All tasks, each once, in the order of the runs."""
        return list(dict.fromkeys(task for run in self.runs for task in run.scores))

    def difference(self, task: str, run: Run) -> Difference | None:
        """Return what a run changes on a task; None where it cannot be said."""
        found = (d for d in self.differences if (d.task, d.run) == (task, run.name))
        return next(found, None)

    def as_dict(self) -> dict[str, Any]:
        """Return it for a report."""
        return {
            "runs": [_run_as_dict(run) for run in self.runs],
            "differences": [asdict(difference) for difference in self.differences],
            "mismatches": list(self.mismatches),
        }


def compare_runs(runs: Sequence[Run]) -> Comparison:
    """Compare every run with the first one."""
    first, *others = runs
    differences, mismatches = [], []
    for run in others:
        for task, score in run.scores.items():
            reference = first.scores.get(task)
            if reference is None:
                continue
            if reason := mismatch(reference, score):
                mismatches.append(
                    f"{task} of {first.name} and {run.name} is not compared: {reason}."
                )
            else:
                differences.append(difference(reference, score, run=run.name))
    return Comparison(runs=runs, differences=differences, mismatches=mismatches)


def mismatch(first: Score, second: Score) -> str:
    """Say in which conditions two scores of one task differ; empty where they agree."""
    parts = []
    for name in _compared(first, second):
        values = first.conditions.get(name), second.conditions.get(name)
        if values[0] != values[1]:
            is_hash = name.endswith("sha256") or name in ("data", "texts", TARGETS)
            said = "" if is_hash else f" ({_shown(values[0])} and {_shown(values[1])})"
            parts.append(f"{name.removesuffix('_sha256').replace('_', ' ')}{said}")
    return f"they differ in {', '.join(parts)}" if parts else ""


def difference(first: Score, second: Score, *, run: str) -> Difference:
    """Compare two scores of one task that were measured in the same way."""
    is_paired = False
    error: float | None
    p_value: float | None
    if first.measure == "share":
        if is_paired := _same_questions(first, second):
            change, error, p_value = _paired_shares(first, second)
        else:
            change, error, p_value = _unpaired_shares(first, second)
    elif first.measure == "perplexity":
        if is_paired := _same_documents(first, second):
            change, error, p_value = _paired_perplexities(first, second)
        else:
            change, error, p_value = _unpaired_perplexities(first, second)
    else:
        change = second.value - first.value
        error, p_value = _judged(change, first.error, second.error)
    return Difference(
        task=first.task,
        run=run,
        change=change,
        error=error,
        p_value=p_value,
        is_paired=is_paired,
        verdict=_verdict(first, change, p_value),
    )


def mcnemar(only_first: int, only_second: int) -> float:
    """Return the exact two-sided p value of the questions that one run alone got right.

    >>> mcnemar(0, 6), mcnemar(3, 3)
    (0.03125, 1.0)
    """
    number = only_first + only_second
    ways = tail = 1
    for place in range(min(only_first, only_second)):
        ways = ways * (number - place) // (place + 1)  # the next binomial coefficient
        tail += ways
    return min(1.0, float(2 * tail / 2**number))


def _compared(first: Score, second: Score) -> list[str]:
    """Return the conditions that both must share.

    Of perplexities the scored tokens themselves, or, where a run did not record them, what chose
    them.
    """
    are_known = all(score.conditions.get(TARGETS) is not None for score in (first, second))
    unused = CHOICE_OF_TARGETS if are_known else (TARGETS,)
    return [name for name in {**first.conditions, **second.conditions} if name not in unused]


def _paired_shares(first: Score, second: Score) -> tuple[float, float, float]:
    assert first.outcomes is not None
    assert second.outcomes is not None
    pairs = list(zip(first.outcomes.right, second.outcomes.right, strict=True))
    lost, won = pairs.count(("1", "0")), pairs.count(("0", "1"))
    number = len(pairs)
    error = math.sqrt(lost + won - (won - lost) ** 2 / number) / number
    return (won - lost) / number, error, mcnemar(lost, won)


def _unpaired_shares(first: Score, second: Score) -> tuple[float, float | None, float | None]:
    change = second.value - first.value
    total = first.count + second.count
    pooled = (first.value * first.count + second.value * second.count) / total
    spread = math.sqrt(pooled * (1 - pooled) * (1 / first.count + 1 / second.count))
    error, _ = _judged(change, first.error, second.error)
    return change, error, _two_sided(change / spread) if spread else 1.0


def _paired_perplexities(first: Score, second: Score) -> tuple[float, float, float]:
    tokens = sum(number for number, _ in first.documents.values())
    changes = {
        name: (number, second.documents[name][1] - loss)
        for name, (number, loss) in first.documents.items()
    }
    mean = sum(change for _, change in changes.values()) / tokens
    # Of a ratio of sums: how far each document is from what its length would give (Cochran 1977,
    # Sampling Techniques, section 2.11).
    count = len(changes)
    squares = sum((change - mean * number) ** 2 for number, change in changes.values())
    error = math.sqrt(squares * count / (count - 1)) / tokens
    ratio = math.exp(mean)
    p_value = _two_sided(mean / error) if error else float(mean == 0)
    return ratio - 1, ratio * error, p_value


def _unpaired_perplexities(first: Score, second: Score) -> tuple[float, float | None, float | None]:
    ratio = second.value / first.value
    relative = [
        None if score.error is None else score.error / score.value for score in (first, second)
    ]
    error, p_value = _judged(math.log(ratio), *relative)
    return ratio - 1, error and ratio * error, p_value


def _judged(
    change: float, first: float | None, second: float | None
) -> tuple[float | None, float | None]:
    if first is None or second is None:
        return None, None
    error = math.hypot(first, second)
    return error, _two_sided(change / error) if error else float(change == 0)


def _two_sided(z: float) -> float:
    return math.erfc(abs(z) / math.sqrt(2))


def _same_questions(first: Score, second: Score) -> bool:
    if first.outcomes is None or second.outcomes is None:
        return False
    return first.outcomes.questions_sha256 == second.outcomes.questions_sha256


def _same_documents(first: Score, second: Score) -> bool:
    sizes = [{name: tokens for name, (tokens, _) in s.documents.items()} for s in (first, second)]
    return sizes[0] == sizes[1] and len(sizes[0]) >= _MIN_DOCUMENTS


def _verdict(first: Score, change: float, p_value: float | None) -> Verdict:
    if p_value is None:
        return "error not known"
    if p_value >= _CLEAR:
        return "no clear difference"
    if first.measure == "bias":
        return "differs"
    return "better" if (change > 0) == (first.measure == "share") else "worse"


def _shown(value: Any) -> str:
    return "none" if value is None else str(value)


def _run_as_dict(run: Run) -> dict[str, Any]:
    return {
        "name": run.name,
        "kind": run.kind,
        "model": run.model,
        "weights": dict(run.weights),
        "speed": dict(run.speed),
        "scores": [
            {
                "task": score.task,
                "measure": score.measure,
                "value": score.value,
                "standard_error": score.error,
                "count": score.count,
                "verdict": score.verdict,
            }
            for score in run.scores.values()
        ],
    }
