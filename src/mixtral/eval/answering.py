"""nano's card, measured: every held-out case answered greedily, and counted strictly.

``measure`` answers the cases in batches, each as a user would ask it: the chat template, tools and
guard-rail text of the server, no grammar, nothing repaired. A case whose prompt and answer do not
fit into the context of the model is counted as such, not as wrong.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from mixtral.engine import SamplingParams
from mixtral.eval.answers_check import Call, is_right, wilson_interval
from mixtral.eval.cases import ROWS, Case, Row
from mixtral.llm import LLM

_MAX_TOKENS = 160  # the longest right answer, six fields of JSON, has about 110
_BATCH = 20  # cases between two reports of progress

Progress = Callable[[int, int], None]
"""Called with the number of cases done and of all cases."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """One answered case."""

    case: Case
    """What was asked."""
    text: str
    """What the model said."""
    calls: tuple[Call, ...]
    """What it called."""
    is_right: bool
    """Whether it counts."""

    def as_dict(self) -> dict[str, Any]:
        """Return it for a report: the last question, what was expected, what came."""
        return {
            "task": self.case.task,
            "question": str(self.case.messages[-1]["content"])[-300:],
            "expected": self.case.expected,
            "answer": self.text,
            "calls": [{"name": call.name, "arguments": call.arguments} for call in self.calls],
            "right": self.is_right,
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class RowResult:
    """A measured row of the card."""

    row: Row
    """What is measured."""
    right: int
    """Cases that count."""
    cases: int
    """Cases that were answered."""
    num_too_long: int
    """Cases that do not fit into the context of the model."""

    @property
    def share(self) -> float | None:
        """Share of right answers; None where no case fits."""
        return self.right / self.cases if self.cases else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """Its 95 % interval (Wilson); None where no case fits."""
        return wilson_interval(self.right, self.cases) if self.cases else None

    @property
    def verdict(self) -> str:
        """Met, missed, does not fit, or nothing where there is no goal."""
        if self.share is None or self.num_too_long:
            return "does not fit"
        if self.row.goal is None:
            return ""
        return "met" if self.share >= self.row.goal else "missed"

    def as_dict(self) -> dict[str, Any]:
        """Return it for a report."""
        return {
            "task": self.row.task,
            "asks": self.row.asks,
            "right": self.right,
            "cases": self.cases,
            "too_long": self.num_too_long,
            "share": self.share,
            "interval_95": None if self.interval is None else list(self.interval),
            "goal": self.row.goal,
            "verdict": self.verdict,
        }


def measure(
    llm: LLM, cases: Sequence[Case], progress: Progress | None = None
) -> tuple[list[RowResult], list[Answer]]:
    """Answer cases and count them by row.

    Args:
        llm: The model.
        cases: What to ask, see ``read_cases``.
        progress: Called after every batch.

    Returns:
        A result for every row that has a case, in the order of ``ROWS``, and every answer.

    Raises:
        TokenizerError: The model has no tokenizer.
    """
    fitting = [case for case in cases if _fits(llm, case)]
    answers: list[Answer] = []
    for begin in range(0, len(fitting), _BATCH):
        answers += _answer(llm, fitting[begin : begin + _BATCH])
        if progress is not None:
            progress(len(answers), len(fitting))
    return _count(cases, answers), answers


def _answer(llm: LLM, cases: Sequence[Case]) -> list[Answer]:
    params = SamplingParams(max_tokens=_MAX_TOKENS, temperature=0.0)
    requests = [
        llm.requests.chat(
            case.messages, params, tools=case.tools or None, safe_prompt=case.safe_prompt
        )
        for case in cases
    ]
    answers = []
    for case, completion in zip(cases, llm.answer(requests), strict=True):
        calls = tuple(
            Call(name=call.function.name, arguments=call.function.arguments)
            for call in completion.tool_calls
        )
        right = is_right(case.check, completion.text, calls, case.expected)
        answers.append(Answer(case=case, text=completion.text, calls=calls, is_right=right))
    return answers


def _fits(llm: LLM, case: Case) -> bool:
    prompt = llm.encode_chat(case.messages, case.tools or None, case.safe_prompt)
    return len(prompt) + _MAX_TOKENS <= llm.max_model_len


def _count(cases: Sequence[Case], answers: Sequence[Answer]) -> list[RowResult]:
    results = []
    for row in ROWS:
        asked = [case for case in cases if case.task == row.task]
        counted = [answer for answer in answers if answer.case.task == row.task]
        if asked:
            results.append(
                RowResult(
                    row=row,
                    right=sum(answer.is_right for answer in counted),
                    cases=len(counted),
                    num_too_long=len(asked) - len(counted),
                )
            )
    return results
