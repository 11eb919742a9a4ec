"""The calls of one answer: checked, confirmed, run at the same time, and recorded.

Whatever goes wrong with a call becomes its result, so that the model can read it and do better;
only a failure of the model itself ends a run. Every call runs on a thread of its own. Python cannot
end a thread: a call that takes too long is left behind, and what it returns later is thrown away.
"""

import contextvars
import json
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass
from typing import Any

from mixtral.agent.clock import Clock
from mixtral.agent.results import cut_text, error_text, result_text
from mixtral.agent.tool import ArgumentsError, Tool, ToolError, parse_arguments
from mixtral.agent.trace import CallRecord, CallStatus
from mixtral.errors import ConfigError
from mixtral.outputs import ToolCall

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


def run_round(
    calls: Sequence[ToolCall],
    tools: Mapping[str, Tool],
    *,
    rules: CallRules,
    clock: Clock,
    max_calls: int = MAX_CALLS,
) -> list[CallRecord]:
    """Make the calls of one answer.

    Args:
        calls: What the model wrote.
        tools: What may be called, by name.
        rules: How.
        clock: The time that the run has left; it stands still during questions.
        max_calls: How many calls are made at most, the first ones.

    Returns:
        A record of each call, in the order of ``calls``, whichever ended first.

    Raises:
        ConfigError: ``rules.confirm`` answered with something that is no answer.
    """
    under_way = [_Call(call) for call in calls]
    for place, each in enumerate(under_way):
        if place < max_calls:
            each.plan(tools)
        else:
            each.end("too_many", error_text(f"only {max_calls} calls could be made here"))
    for each in under_way:
        if each.is_open and rules.dry_run:
            each.end("dry_run", error_text("this is a dry run; nothing was called"))
        elif each.is_open and rules.confirm is not None:
            with clock.stopped():
                each.ask(rules.confirm)
    _run_together([each for each in under_way if each.is_open], rules, clock)
    return [each.record() for each in under_way]


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
            self._ready = tool.checked(arguments)
        except ArgumentsError as error:
            self.end("invalid", error_text(f"{what}: {error}"))
        # A validator of a user's type, or a schema of a server, may raise anything.
        except Exception as error:
            logger.info("the check of tool %s failed", tool.name, exc_info=True)
            self.end("failed", error_text(f"{type(error).__name__}: {error}"))

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
        threading.Thread(target=work, name=f"tool {self._call.function.name}", daemon=True).start()
        return ended

    def _outcome(self, rules: CallRules) -> tuple[CallStatus, str, bool, float]:
        assert self._tool is not None
        begin_s = time.perf_counter()
        is_cut = False
        try:
            text = result_text(self._tool.run(self._ready))
            is_cut = len(text) > rules.max_result_chars
            status: CallStatus = "ok"
            text = cut_text(text, rules.max_result_chars)
        except ToolError as error:
            status, text = "failed", error_text(str(error))
        # Also SystemExit: a tool must not end the run, whatever it does.
        except BaseException as error:
            logger.info("tool %s failed", self._tool.name, exc_info=True)
            status, text = "failed", error_text(f"{type(error).__name__}: {error}")
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
    ended = [call.start(rules) for call in calls]
    wait(ended, timeout=limit_s)
    for call, future in zip(calls, ended, strict=True):
        # Cancelled only where it has not ended, and then it stays so.
        if future.cancel():
            line = f"no result after {limit_s:.3g} s; the call was left behind"
            call.end("timeout", error_text(line), duration_s=limit_s)
        else:
            future.result()
