"""How likely continuations are, many at once: the question behind every multiple choice.

The engine runs them together and computes a beginning that several share once: the shots of a task,
and the question before its answers. So they are asked in the order of their tokens, which makes
neighbours of those that begin alike, and each waits for the first of them.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from mixtral.errors import ContextLengthExceeded
from mixtral.llm import LLM

# A shorter common beginning costs less to run again than to wait for.
_WORTH_WAITING = 32


@dataclass(frozen=True, kw_only=True, slots=True)
class Continuation:
    """What is scored."""

    context_ids: Sequence[int]
    """Tokens before it, at least one."""
    target_ids: Sequence[int]
    """Its tokens, at least one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ContinuationScore:
    """What the model makes of it."""

    logprob: float
    """Natural log-probability of all its tokens."""
    is_greedy: bool
    """Whether a greedy answer would begin with it."""
    was_cut: bool
    """Whether the context of the model was too short, and the beginning was left out."""


Report = Callable[[int, ContinuationScore], None]
"""Called with the place of a continuation and its score, as soon as it is there."""


def score_continuations(
    llm: LLM,
    continuations: Sequence[Continuation],
    *,
    num_waiting: int = 256,
    adapter: str | None = None,
    report: Report | None = None,
) -> list[ContinuationScore]:
    """Return the log-probability of each continuation after its context.

    Where both together are longer than the model's context by more than one token (the last one
    need not run), the beginning is left out, as lm-evaluation-harness does; ``was_cut`` says so.

    Args:
        llm: The model; nobody else may use its engine meanwhile.
        continuations: What is scored.
        num_waiting: Continuations in the engine at one time; more find more to share.
        adapter: Name of an adapter; None asks the model as it is.
        report: Called once for each.

    Returns:
        Scores in the order of ``continuations``.

    Raises:
        ContextLengthExceeded: A continuation alone is longer than the model's context.
        InvalidRequest: One has no tokens, or there is no such adapter.
    """
    run = _Run(llm, continuations, adapter)
    try:
        for place, score in run.finish(num_waiting):
            if report is not None:
                report(place, score)
    finally:
        run.abort()
    return [run.scores[place] for place in range(len(continuations))]


class _Run:
    """One call: what is in the engine, and what has come back."""

    def __init__(
        self, llm: LLM, continuations: Sequence[Continuation], adapter: str | None
    ) -> None:
        self._engine = llm.engine
        self._adapter = llm.requests.find_adapter(adapter)
        self._texts = [_fit(each, llm.max_model_len) for each in continuations]
        self._counts = [len(each.target_ids) for each in continuations]
        self._was_cut = [
            len(text) < len(each.context_ids) + len(each.target_ids)
            for text, each in zip(self._texts, continuations, strict=True)
        ]
        self._running: dict[int, int] = {}  # number of the sequence -> place
        self._firsts: list[tuple[list[int], int]] = []  # tokens and number of those to wait for
        self.scores: dict[int, ContinuationScore] = {}

    def finish(self, num_waiting: int) -> Iterator[tuple[int, ContinuationScore]]:
        """Keep the engine filled until all are scored."""
        order = iter(sorted(range(len(self._texts)), key=self._texts.__getitem__))
        while True:
            while len(self._running) < num_waiting and (place := next(order, None)) is not None:
                self._add(place)
            if not self._running:
                return
            for output in self._engine.step():
                place = self._running.pop(output.sequence_id)
                logprobs = [score.logprob for score in output.scores]
                self.scores[place] = ContinuationScore(
                    logprob=sum(logprobs),
                    is_greedy=all(score.is_greedy for score in output.scores),
                    was_cut=self._was_cut[place],
                )
                yield place, self.scores[place]

    def abort(self) -> None:
        """Take out of the engine what has not come back."""
        for number in self._running:
            self._engine.abort(number)

    def _add(self, place: int) -> None:
        text, count = self._texts[place], self._counts[place]
        before = text[: len(text) - count]
        num_shared = self._drop_unlike(before)
        number = self._engine.add_scored(
            text[:-1],
            text[len(text) - count :],
            leader_id=self._firsts[-1][1] if self._firsts else None,
            adapter=self._adapter,
        )
        self._running[number] = place
        if len(before) >= num_shared + _WORTH_WAITING:
            self._firsts.append((before, number))

    def _drop_unlike(self, before: Sequence[int]) -> int:
        """Keep, of those to wait for, the ones that share ever more with a new context.

        In the order of tokens, what no longer shares more than an earlier one never will again.

        Returns:
            Tokens shared with the last that is left; 0 where none is.
        """
        while self._firsts:
            num_shared = _num_common(self._firsts[-1][0], before)
            num_earlier = _WORTH_WAITING - 1
            if len(self._firsts) > 1:
                num_earlier = _num_common(self._firsts[-2][0], before)
            if num_shared > num_earlier:
                return num_shared
            self._firsts.pop()
        return 0


def _fit(continuation: Continuation, max_model_len: int) -> list[int]:
    num_targets = len(continuation.target_ids)
    if num_targets > max_model_len:
        raise ContextLengthExceeded(
            f"an answer has {num_targets} tokens; the context of this model is {max_model_len}. "
            "Leave this task out, or take a model with a longer context."
        )
    return [*continuation.context_ids, *continuation.target_ids][-max_model_len - 1 :]


def _num_common(first: Sequence[int], second: Sequence[int]) -> int:
    """Return how many leading tokens are the same.

    >>> _num_common([5, 6, 7], [5, 6, 8, 9])
    2
    """
    for index, (one, other) in enumerate(zip(first, second, strict=False)):
        if one != other:
            return index
    return min(len(first), len(second))
