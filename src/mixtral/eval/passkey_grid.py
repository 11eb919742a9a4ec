"""Lengths times depths: every cell asks a few questions, greedily, and counts the right answers.

Order of work. Lengths ascend. Of each length the first case is asked at every depth, which is
enough to see whether the length is hopeless; then the others. Within both, prompts with the same
filler are neighbours and the deepest key comes first: what one prompt has computed up to its key,
or up to the next one's, the engine's prefix cache hands to the next.

    filler of 8 blocks, depths 100, 50, 0 -> 8 + 4 + 8 blocks run, 4 are found; per length and case

A length is hopeless when the upper end of the 95 % interval of its share lies below
``stop_below``; the rest of it and all longer ones are then left out, and the report says so.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from mixtral.errors import ConfigError
from mixtral.eval.answers_check import wilson_interval
from mixtral.eval.passkey import PasskeyPrompt, PromptWriter
from mixtral.validation import require_int


@dataclass(frozen=True, kw_only=True, slots=True)
class Reply:
    """What came back for one prompt."""

    text: str
    """The answer."""
    num_reused: int
    """Prompt tokens that the prefix cache had."""
    seconds: float
    """Time for prompt and answer."""


class Answerer(Protocol):
    """Answers prompts greedily, one at a time; ``EngineAnswerer`` is the one that counts."""

    def __call__(self, token_ids: Sequence[int], *, max_tokens: int) -> Reply:
        """Continue a prompt with the likeliest tokens."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GridPlan:
    """What is asked."""

    lengths: Sequence[int]
    """Tokens of prompt and answer together, ascending."""
    depths: Sequence[float]
    """Per cent of the filler that comes before the key, ascending."""
    cases: int
    """Questions of each cell."""
    stop_below: float = 0.0
    """Share of right answers below which longer prompts are left out; 0 asks everything."""

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            ConfigError: A field is outside its range.
        """
        require_int("cases", self.cases, low=1)
        if not 0 <= self.stop_below <= 1:
            raise ConfigError(f"stop-below is {self.stop_below}; it must be a share from 0 to 1.")


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """One question and what came of it."""

    length: int
    """Tokens of prompt and answer together."""
    depth: float
    """Depth asked for, per cent."""
    case: int
    """Number of the case."""
    key: str
    """The right answer."""
    answer: str
    """What the model said."""
    is_right: bool
    """Whether that is the key."""
    num_prompt_tokens: int
    """Tokens of the prompt."""
    key_position: int
    """Tokens before the line with the key."""
    num_reused: int
    """Prompt tokens that the prefix cache had."""
    seconds: float
    """Time for prompt and answer."""

    @property
    def place(self) -> tuple[int, float, int]:
        """Length, depth and case: which question it is."""
        return self.length, self.depth, self.case


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """One length and depth."""

    length: int
    """Tokens of prompt and answer together."""
    depth: float
    """Per cent."""
    right: int
    """Right answers."""
    cases: int
    """Answers; 0 where it was left out."""

    @property
    def share(self) -> float | None:
        """Share of right answers; None where nothing was asked."""
        return self.right / self.cases if self.cases else None

    def as_dict(self) -> dict[str, Any]:
        """Return it for a report."""
        interval = list(wilson_interval(self.right, self.cases)) if self.cases else None
        return asdict(self) | {"share": self.share, "interval_95": interval}


@dataclass(frozen=True, kw_only=True, slots=True)
class GridResult:
    """Every trial of a plan."""

    plan: GridPlan
    """What was to be asked."""
    trials: Sequence[Trial]
    """What was asked."""

    def cell(self, length: int, depth: float | None = None) -> Cell:
        """Return one cell, or a whole length with ``depth`` None (its depth is then -1)."""
        found = [t for t in self.trials if t.length == length and depth in (None, t.depth)]
        return Cell(
            length=length,
            depth=-1.0 if depth is None else depth,
            right=sum(trial.is_right for trial in found),
            cases=len(found),
        )

    @property
    def left_out(self) -> list[int]:
        """Lengths of which not everything was asked, because the model fails there."""
        wanted = len(self.plan.depths) * self.plan.cases
        return [length for length in self.plan.lengths if self.cell(length).cases < wanted]

    @property
    def reused_share(self) -> float:
        """Share of the prompts' tokens that the prefix cache had."""
        tokens = sum(trial.num_prompt_tokens for trial in self.trials)
        return sum(trial.num_reused for trial in self.trials) / max(1, tokens)


def is_right(answer: str, key: str) -> bool:
    """Say whether the first number of an answer is the key, digit for digit.

    >>> is_right("The pass key is 71432.", "71432"), is_right("It is 7 1432", "71432")
    (True, False)
    """
    first = re.search(r"\d+", answer)
    return first is not None and first[0] == key


def order_questions(
    writer: PromptWriter, plan: GridPlan, length: int
) -> list[tuple[float, int, PasskeyPrompt]]:
    """Return depth, case and prompt of every question of a length, in the order of work.

    Raises:
        ConfigError: The length leaves no room, or the filler has not enough text.
    """
    prompts = [
        (depth, case, writer.write(length, depth, case))
        for depth in plan.depths
        for case in range(plan.cases)
    ]
    return sorted(prompts, key=lambda p: (p[1] > 0, p[2].filler_start, -p[0], p[1]))


def run_grid(
    answer: Answerer,
    writer: PromptWriter,
    plan: GridPlan,
    *,
    done: Iterable[Trial] = (),
    on_trial: Callable[[Trial], None] | None = None,
) -> GridResult:
    """Ask every question of a plan that is not answered yet.

    Args:
        answer: The model.
        writer: Writes the prompts.
        plan: What is asked.
        done: Answers of an earlier run with the same model and writer; they count as given.
        on_trial: Called with each new answer, before the next question.

    Raises:
        ConfigError: A length leaves no room, or the filler has not enough text.
    """
    known = {trial.place: trial for trial in done}
    trials: list[Trial] = []
    for length in plan.lengths:
        right = asked = 0
        for depth, case, prompt in order_questions(writer, plan, length):
            if case > 0 and _is_hopeless(right, asked, plan.stop_below):
                break
            trial = known.get((length, depth, case))
            if trial is None:
                trial = _ask(answer, prompt, writer.answer_tokens, (length, depth, case))
                if on_trial is not None:
                    on_trial(trial)
            trials.append(trial)
            right, asked = right + trial.is_right, asked + 1
        if _is_hopeless(right, asked, plan.stop_below):
            break
    return GridResult(plan=plan, trials=trials)


def _is_hopeless(right: int, asked: int, stop_below: float) -> bool:
    return stop_below > 0 and wilson_interval(right, asked)[1] < stop_below


def _ask(
    answer: Answerer, prompt: PasskeyPrompt, max_tokens: int, place: tuple[int, float, int]
) -> Trial:
    reply = answer(prompt.token_ids, max_tokens=max_tokens)
    return Trial(
        length=place[0],
        depth=place[1],
        case=place[2],
        key=prompt.key,
        answer=reply.text,
        is_right=is_right(reply.text, prompt.key),
        num_prompt_tokens=len(prompt.token_ids),
        key_position=prompt.key_position,
        num_reused=reply.num_reused,
        seconds=reply.seconds,
    )
