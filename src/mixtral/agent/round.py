"""The calls of one answer: checked, confirmed, run at the same time, and recorded.

Whatever goes wrong with a call becomes its result, so that the model can read it and do better;
only a failure of the model itself ends a run. Every call runs on a thread of its own. Python cannot
end a thread: a call that takes too long is left behind, and what it returns later is thrown away.
So is a call that Ctrl-C finds under way; its record says so, because what it has done is done.
"""

import contextvars
import copy
import json
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass
from typing import Any

from mixtral.agent.clock import Clock
from mixtral.agent.results import cut_text, error_text, exception_text, result_text
from mixtral.agent.tool import ArgumentsError, Tool, ToolError, ToolTimeout, parse_arguments
from mixtral.agent.trace import CallRecord, CallStatus
from mixtral.errors import ConfigError
from mixtral.outputs import ToolCall
from mixtral.tokenizer.chat import check_strings

logger = logging.getLogger(__name__)

MAX_CALLS = 64
"""Calls of one answer that are made; a model that repeats itself must come to an end."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedCall:
    """A call that is about to be made; its arguments satisfy the tool's schema."""

    id: str
    """As in the messages."""
    tool: Tool
    """What is called; ``tool.checked`` tells whether other arguments would do."""
    arguments: dict[str, Any]
    """As the model wrote them."""


Confirm = Callable[[PlannedCall], bool | Mapping[str, Any]]
"""Asked before a call: True makes it, False does not, a mapping makes it with these arguments."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CallRules:
    """How calls are made."""

    timeout_s: float
    """Seconds after which a call is left behind."""
    max_result_chars: int
    """Longest result; the end of a longer one is left out, and the model is told."""
    confirm: Confirm | None
    """Asked before each call, in their order, on the thread of the run; None asks nobody."""
    dry_run: bool
    """Whether calls are checked and recorded, but not made."""


class Round:
    """The calls of one answer.

    Args:
        calls: What the model wrote.
        rules: How they are made.
        clock: The time that the run has left; it stands still during questions.
    """

    def __init__(self, calls: Sequence[ToolCall], *, rules: CallRules, clock: Clock) -> None:
        self._calls = [_Call(call) for call in calls]
        self._rules = rules
        self._clock = clock

    def run(self, tools: Mapping[str, Tool], *, max_calls: int) -> None:
        """Make the calls, and wait for them.

        Args:
            tools: What may be called, by name.
            max_calls: How many calls are made at most, the first ones.

        Raises:
            ConfigError: ``rules.confirm`` answered with something that is no answer.
        """
        for place, each in enumerate(self._calls):
            if place < max_calls:
                each.plan(tools)
            else:
                line = f"this answer could make {max_calls} calls at most; this one was not made"
                each.end("too_many", error_text(line))
        for each in self._calls:
            if each.is_open and self._rules.dry_run:
                each.end("dry_run", error_text("this is a dry run; nothing was called"))
            elif each.is_open and self._rules.confirm is not None:
                with self._clock.stopped():
                    each.ask(self._rules.confirm)
        _run_together([each for each in self._calls if each.is_open], self._rules, self._clock)

    def close(self) -> list[CallRecord]:
        """Return a record of each call in their order, and throw away what comes later.

        Where ``run`` was left by an exception, calls that have not ended are "interrupted".
        """
        for each in self._calls:
            each.interrupt()
        return [each.record() for each in self._calls]


class _Call:
    """A call on its way from what the model wrote to its record."""

    def __init__(self, call: ToolCall) -> None:
        self._call = call
        self._tool: Tool | None = None
        self._given: dict[str, Any] = {}
        self._ready: dict[str, Any] = {}
        self._edited: dict[str, Any] | None = None
        self._status: CallStatus | None = None
        self._result = ""
        self._is_cut = False
        self._duration_s = 0.0
        self._begin_s = 0.0
        self._ended: Future[None] | None = None

    @property
    def is_open(self) -> bool:
        """Whether the call is still to be made."""
        return self._status is None

    def plan(self, tools: Mapping[str, Tool]) -> None:
        """Find the tool and check the arguments."""
        name = self._call.function.name
        self._tool = tools.get(name)
        if self._tool is None:
            known = ", ".join(tools) or "none"
            self.end("unknown", error_text(f"there is no tool {name!r}; the tools are: {known}"))
            return
        try:
            self._given = parse_arguments(self._call.function.arguments)
        except ArgumentsError as error:
            self.end("invalid", error_text(f"invalid arguments: {error}"))
            return
        self._check(self._tool, self._given, "invalid arguments")

    def ask(self, confirm: Confirm) -> None:
        """Ask whether to make the call, and with which arguments."""
        assert self._tool is not None
        planned = PlannedCall(id=self._call.id, tool=self._tool, arguments=self._given)
        decision = confirm(planned)
        if isinstance(decision, Mapping):
            self._edited = _as_json(decision)
            self._check(self._tool, self._edited, "the user's arguments are invalid")
        elif not isinstance(decision, bool):
            raise ConfigError(
                f"confirm answered {decision!r}; it must return True, False, or other arguments."
            )
        elif not decision:
            self.end("refused", error_text("the user refused this call"))

    def _check(self, tool: Tool, arguments: dict[str, Any], what: str) -> None:
        try:
            # A copy: what the tool does to its arguments must not change the record.
            self._ready = tool.checked(copy.deepcopy(arguments))
        except ArgumentsError as error:
            self.end("invalid", error_text(f"{what}: {error}"))
        # A validator of a user's type, or a schema of a server, may raise anything.
        except Exception as error:
            logger.info("the check of tool %s failed", tool.name, exc_info=True)
            self.end("failed", error_text(exception_text(error)))

    def start(self, rules: CallRules) -> "Future[None]":
        """Make the call on a thread of its own."""
        ended: Future[None] = Future()
        context = contextvars.copy_context()

        def work() -> None:
            outcome = context.run(self._outcome, rules)
            # False once the call was given up: its record is written.
            if ended.set_running_or_notify_cancel():
                self.end(*outcome)
                ended.set_result(None)

        # Not of a pool, whose threads Python waits for when it exits.
        thread = threading.Thread(target=work, name=f"tool {self._call.function.name}", daemon=True)
        self._begin_s = time.perf_counter()
        self._ended = ended
        try:
            thread.start()
        except RuntimeError as error:  # The system has no thread left.
            self.end("failed", error_text(f"the call could not be made: {error}"))
            ended.set_result(None)
        return ended

    def leave(self, limit_s: float) -> None:
        """Leave the call behind where it has not ended within a number of seconds."""
        if self._give_up():
            line = f"no result after {round(limit_s, 3):g} s; the call was left behind"
            self.end("timeout", error_text(line), duration_s=limit_s)

    def interrupt(self) -> None:
        """Note that the run is stopped, where the call has not ended."""
        if self._ended is None and self.is_open:
            self.end("interrupted", error_text("the run was stopped before this call"))
        elif self.is_open and self._give_up():
            line = "the run was stopped during this call; what it has done is done"
            duration_s = time.perf_counter() - self._begin_s
            self.end("interrupted", error_text(line), duration_s=duration_s)

    def _give_up(self) -> bool:
        """Tell a call that has begun that it comes too late; return False where it does not."""
        assert self._ended is not None
        # Cancelled only where it has not ended, and then it stays so.
        if self._ended.cancel():
            return True
        self._ended.result()
        return False

    def _outcome(self, rules: CallRules) -> tuple[CallStatus, str, bool, float]:
        assert self._tool is not None
        begin_s = time.perf_counter()
        is_cut = False
        try:
            text = result_text(self._tool.run(self._ready))
            is_cut = len(text) > rules.max_result_chars
            status: CallStatus = "ok"
            text = cut_text(text, rules.max_result_chars)
        except ToolTimeout as error:
            status, text = "timeout", error_text(str(error))
        except ToolError as error:
            status, text = "failed", error_text(str(error))
        # Also SystemExit: a tool must not end the run, whatever it does.
        except BaseException as error:
            logger.info("tool %s failed", self._tool.name, exc_info=True)
            status, text = "failed", error_text(exception_text(error))
        return status, text, is_cut, time.perf_counter() - begin_s

    def end(
        self, status: CallStatus, result: str, is_cut: bool = False, duration_s: float = 0.0
    ) -> None:
        """Note how the call ended."""
        self._status = status
        self._result = result
        self._is_cut = is_cut
        self._duration_s = duration_s

    def record(self) -> CallRecord:
        """Return what happened."""
        assert self._status is not None
        return CallRecord(
            id=self._call.id,
            name=self._call.function.name,
            arguments=self._call.function.arguments,
            edited_arguments=self._edited,
            status=self._status,
            result=self._result,
            is_cut=self._is_cut,
            duration_s=self._duration_s,
        )


def _as_json(decision: Mapping[str, Any]) -> dict[str, Any]:
    try:
        arguments: dict[str, Any] = json.loads(json.dumps(dict(decision), allow_nan=False))
        check_strings(arguments, name="the text")
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigError(f"confirm answered with arguments that are not JSON: {error}.") from None
    return arguments


def _run_together(calls: Sequence[_Call], rules: CallRules, clock: Clock) -> None:
    """Make calls at the same time, and wait until each has ended or must be left behind."""
    if clock.is_over:
        for call in calls:
            call.end("timeout", error_text("the time of the run was up before this call"))
        return
    left_s = clock.left_s
    limit_s = rules.timeout_s if left_s is None else min(rules.timeout_s, left_s)
    # Three centuries, and more than any lock can wait.
    limit_s = min(limit_s, threading.TIMEOUT_MAX)
    wait([call.start(rules) for call in calls], timeout=limit_s)
    for call in calls:
        call.leave(limit_s)
