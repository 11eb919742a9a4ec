"""Everything that happened in a run, as plain data that JSON can hold."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

CallStatus = Literal[
    "ok",
    "invalid",
    "unknown",
    "failed",
    "timeout",
    "refused",
    "dry_run",
    "too_many",
    "interrupted",
]
"""How a call ended: its result came; its arguments were wrong; there is no such tool; it raised; it
took too long; the user said no; it was only shown; its answer held too many calls; the run was
stopped before it ended."""

FinishReason = Literal["stop", "length", "max_steps", "timeout", "context", "dry_run"]
"""Why a run ended: the model answered; the answer was cut at max_tokens; the rounds of calls were
used up and it had to answer; time was up; the conversation no longer fits into the context of the
model; calls were to be shown, not made."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CallRecord:
    """One call and what came of it."""

    id: str
    """As in the messages."""
    name: str
    """The tool that the model named."""
    arguments: str
    """The arguments as the model wrote them."""
    edited_arguments: dict[str, Any] | None
    """What the user put in their place; None where nothing was changed."""
    status: CallStatus
    """How it ended."""
    result: str
    """What the model was told."""
    is_cut: bool
    """Whether the result was longer than the agent's limit, so that its end was left out."""
    duration_s: float
    """Seconds that the call took; 0 for one that was not made."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """One answer of the model, and the calls that it holds."""

    index: int
    """0 for the first."""
    text: str
    """What the model said; beside calls it is mostly empty."""
    calls: list[CallRecord]
    """Its calls, in their order."""
    finish_reason: str
    """Why the answer ended: stop, length, tool_calls, or timeout where the agent stopped it."""
    prompt_tokens: int
    """Tokens of the conversation so far."""
    completion_tokens: int
    """Tokens of the answer."""
    duration_s: float
    """Seconds that the model took."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AgentRun:
    """A whole run."""

    text: str
    """The last answer; empty where the run ended before one."""
    finish_reason: FinishReason
    """Why it ended."""
    steps: list[Step]
    """Every answer of the model, oldest first."""
    messages: list[dict[str, Any]]
    """The conversation, to go on with: add a message and give it to ``Agent.run``."""
    duration_s: float
    """Seconds in all, those that the user took to confirm calls included."""

    @property
    def calls(self) -> list[CallRecord]:
        """The calls of all steps, in their order."""
        return [call for step in self.steps for call in step.calls]

    def as_dict(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return asdict(self)
