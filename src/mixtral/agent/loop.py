"""The loop: ask the model, make its calls, give it the results, until it answers in words.

    while True:
        turn = model.next_turn(conversation, tools)
        records = round.run(turn.tool_calls)        # nothing for an answer in words
        conversation += turn, records
        if there were no calls, or a limit was reached: return

A run has three limits: rounds of calls, seconds in all, seconds of one call. When the rounds are
used up, the model is asked once more, without tools, so that a run ends in words; when time is up,
an answer is ended in its middle and calls are left behind.

The plan is the model's, as in ReAct (arXiv:2210.03629), with calls in place of its text actions.
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mixtral.agent.chat_model import ChatModel, LocalModel, ModelTurn, StreamsChat
from mixtral.agent.clock import Clock
from mixtral.agent.function_tool import function_tool
from mixtral.agent.round import MAX_CALLS, CallRules, Confirm, Round
from mixtral.agent.tool import ArgumentsError, Tool, allowed_name, by_name, parse_arguments
from mixtral.agent.trace import AgentRun, CallRecord, FinishReason, Step
from mixtral.errors import ContextLengthExceeded, InvalidRequest
from mixtral.validation import require_int, require_positive_number

if TYPE_CHECKING:
    from mixtral.engine import SamplingParams


class Agent:
    """A model with tools. One run at a time.

    Args:
        llm: An ``LLM``, an ``HttpModel``, or another ``ChatModel``.
        tools: Python functions with type hints, or ``Tool`` objects, those of ``McpTools`` too.
        system: Instructions that go before the question.
        max_steps: Rounds of calls; after the last one the model must answer in words.
        timeout_s: Seconds of a run, without those that ``confirm`` takes; None for no limit.
        call_timeout_s: Seconds of one call.
        confirm: Asked before each call with a ``PlannedCall``: True makes it, False does not, a
            mapping makes it with these arguments instead.
        dry_run: Whether the first calls are only recorded, which ends the run: what the model would
            do next depends on their results.
        tool_choice: auto, any, none or a function, for the first answer; later ones are free.
        parallel_tool_calls: Whether one answer may hold several calls, which then run at the same
            time, each on a thread of its own. Otherwise only its first call is made, also of a
            server that cannot be told so.
        max_result_chars: Longest result that the model is given; the end of a longer one is left
            out, and both the model and the trace say so.
        params: How the model chooses tokens and when it stops.

    Raises:
        ConfigError: A tool has no schema, two have one name, or a limit is outside its range.
    """

    def __init__(
        self,
        llm: ChatModel | StreamsChat,
        tools: Sequence[Tool | Callable[..., Any]] = (),
        *,
        system: str | None = None,
        max_steps: int = 8,
        timeout_s: float | None = 600.0,
        call_timeout_s: float = 60.0,
        confirm: Confirm | None = None,
        dry_run: bool = False,
        tool_choice: str | Mapping[str, Any] = "auto",
        parallel_tool_calls: bool = True,
        max_result_chars: int = 20_000,
        params: "SamplingParams | None" = None,
    ) -> None:
        require_int("max_steps", max_steps, low=1)
        require_int("max_result_chars", max_result_chars, low=1)
        require_positive_number("call_timeout_s", call_timeout_s)
        if timeout_s is not None:
            require_positive_number("timeout_s", timeout_s)
        made = [each if isinstance(each, Tool) else function_tool(each) for each in tools]
        self.tools = by_name(made)
        """The tools by their names."""
        self._model = llm if isinstance(llm, ChatModel) else LocalModel(llm)
        self._system = system
        self._max_steps = max_steps
        self._timeout_s = timeout_s
        self._rules = CallRules(
            timeout_s=call_timeout_s,
            max_result_chars=max_result_chars,
            confirm=confirm,
            dry_run=dry_run,
        )
        self._tool_choice = tool_choice
        self._parallel_tool_calls = parallel_tool_calls
        self._params = params

    def run(
        self,
        question: str | Sequence[Mapping[str, Any]],
        *,
        on_step: Callable[[Step], None] | None = None,
    ) -> AgentRun:
        """Answer a question, or the last message of a conversation.

        Args:
            question: A text, or messages as in OpenAI's API, such as those of an earlier run.
            on_step: Called after each answer of the model and its calls; also where Ctrl-C, or
                an error of ``confirm``, stops the run among the calls.

        Raises:
            InvalidRequest: The conversation is wrong, or the schema of a tool cannot be enforced.
            ContextLengthExceeded: The question alone does not fit into the context.
            Error: The model failed. What was done until then was given to ``on_step``.
            ConfigError: ``confirm`` gave no answer.
        """
        clock = Clock(self._timeout_s)
        conversation = self._begin(question)
        steps: list[Step] = []
        finish: FinishReason | None = None
        while finish is None:
            # 1. What the model says next.
            begin_s = time.perf_counter()
            is_last = len(steps) == self._max_steps
            choice = self._choice(len(steps), is_last=is_last)
            try:
                turn = self._next_turn(conversation, clock, choice)
            except ContextLengthExceeded:
                if not steps:
                    raise
                finish = "context"
                break
            duration_s = time.perf_counter() - begin_s
            # 2. Its calls, none of an answer that was ended in its middle; and the record, also
            # after Ctrl-C: what was called is known then of all times.
            calls = () if turn.finish_reason == "timeout" else turn.tool_calls
            made = Round(calls, rules=self._rules, clock=clock)
            try:
                made.run(self.tools, max_calls=self._max_calls(choice))
            finally:
                records = made.close()
                steps.append(_step(len(steps), turn, records, duration_s))
                if on_step is not None:
                    on_step(steps[-1])
            # 3. The conversation, and whether that was all.
            conversation += _messages(turn, records)
            finish = self._finish_reason(turn, records, clock, is_last=is_last)
        return AgentRun(
            text=steps[-1].text,
            finish_reason=finish,
            steps=steps,
            messages=conversation,
            duration_s=clock.passed_s,
        )

    def _begin(self, question: str | Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        if isinstance(question, str):
            question = [{"role": "user", "content": question}]
        is_list = isinstance(question, Sequence) and len(question) > 0
        if not is_list or not all(isinstance(message, Mapping) for message in question):
            raise InvalidRequest("the question must be a text, or a list of at least one message.")
        conversation = [dict(message) for message in question]
        system = {"role": "system", "content": self._system}
        # The messages of an earlier run begin with it.
        if self._system is not None and conversation[0] != system:
            conversation.insert(0, system)
        return conversation

    def _choice(self, index: int, *, is_last: bool) -> str | Mapping[str, Any]:
        if is_last:
            return "none"
        return self._tool_choice if index == 0 else "auto"

    def _max_calls(self, choice: str | Mapping[str, Any]) -> int:
        """Return how many calls an answer may hold; a server may know neither setting."""
        if choice == "none":
            return 0
        return MAX_CALLS if self._parallel_tool_calls else 1

    def _next_turn(
        self,
        conversation: Sequence[Mapping[str, Any]],
        clock: Clock,
        choice: str | Mapping[str, Any],
    ) -> ModelTurn:
        return self._model.next_turn(
            conversation,
            tools=[tool.as_openai() for tool in self.tools.values()],
            tool_choice=choice,
            parallel_tool_calls=self._parallel_tool_calls,
            params=self._params,
            timeout_s=clock.left_s,
        )

    def _finish_reason(
        self, turn: ModelTurn, records: Sequence[CallRecord], clock: Clock, *, is_last: bool
    ) -> FinishReason | None:
        """Return why the run ends here, or None where it goes on."""
        if turn.finish_reason == "timeout":
            return "timeout"
        if is_last:
            return "max_steps"
        if not records:
            return "length" if turn.finish_reason == "length" else "stop"
        if self._rules.dry_run:
            return "dry_run"
        return "timeout" if clock.is_over else None


def _step(index: int, turn: ModelTurn, records: list[CallRecord], duration_s: float) -> Step:
    return Step(
        index=index,
        text=turn.text,
        calls=records,
        finish_reason=turn.finish_reason,
        prompt_tokens=turn.prompt_tokens,
        completion_tokens=turn.completion_tokens,
        duration_s=duration_s,
    )


def _messages(turn: ModelTurn, records: Sequence[CallRecord]) -> list[dict[str, Any]]:
    """Return an answer and its results as messages; an answer of nothing is none."""
    answer: dict[str, Any] = {"role": "assistant", "content": turn.text}
    if records:
        answer["tool_calls"] = [
            {
                "id": record.id,
                "type": "function",
                "function": {"name": allowed_name(record.name), "arguments": _arguments(record)},
            }
            for record in records
        ]
    elif not turn.text:
        return []
    results = [
        {
            "role": "tool",
            "tool_call_id": record.id,
            "name": allowed_name(record.name),
            "content": record.result,
        }
        for record in records
    ]
    return [answer, *results]


def _arguments(record: CallRecord) -> str:
    """Return the arguments of a call that was made, as JSON, which a template would refuse else."""
    if record.edited_arguments is not None:
        return json.dumps(record.edited_arguments, ensure_ascii=False)
    try:
        parse_arguments(record.arguments)
    except ArgumentsError:
        return json.dumps({"not_json": record.arguments}, ensure_ascii=False)
    return record.arguments.strip() or "{}"
