"""The loop: what the model is asked, what it is told, and why a run ends."""

import json
import threading
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

from mixtral.agent import Agent, PlannedCall, Tool, ToolError, loop
from mixtral.agent.clock import Clock
from mixtral.agent.trace import Step
from mixtral.errors import ConfigError, ContextLengthExceeded, EngineError, InvalidRequest
from mixtral.outputs import CompletionChunk, Usage
from tests.agent.scripted import ScriptedModel, calls, says


def add(a: int, b: int = 1) -> int:
    """Add two numbers."""
    return a + b


def fail(reason: str) -> None:
    """Fail."""
    raise ValueError(f"no such {reason}\nwith a second line")


def errors(content: str) -> str:
    """Return the error that a tool's result holds."""
    value: str = json.loads(content)["error"]
    return value


def test_results_come_back_and_the_answer_ends_the_run() -> None:
    model = ScriptedModel(calls(("add", {"a": 2, "b": 3})), says("It is 5."))
    run = Agent(model, [add], system="Be exact.").run("2 + 3?")
    assert run.text == "It is 5."
    assert run.finish_reason == "stop"
    assert run.messages == [
        {"role": "system", "content": "Be exact."},
        {"role": "user", "content": "2 + 3?"},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [
                {
                    "id": "call00000",
                    "type": "function",
                    "function": {"name": "add", "arguments": '{"a": 2, "b": 3}'},
                }
            ],
        },
        {"role": "tool", "tool_call_id": "call00000", "name": "add", "content": "5"},
        {"role": "assistant", "content": "It is 5."},
    ]
    assert model.asked[1].messages == run.messages[:-1]
    assert model.asked[0].tools[0]["function"]["name"] == "add"


def test_a_run_goes_on_from_its_messages() -> None:
    first = Agent(ScriptedModel(calls(("add", {"a": 1})), says("2.")), [add]).run("1 + 1?")
    model = ScriptedModel(says("3."))
    question = [*first.messages, {"role": "user", "content": "And one more?"}]
    Agent(model, [add]).run(question)
    assert model.asked[0].messages == question


def test_system_text_of_an_earlier_run_is_not_said_again() -> None:
    model = ScriptedModel(says("2."), says("3."), says("4."), says("5."))
    agent = Agent(model, [add], system="Be exact.")
    run = agent.run("1 + 1?")
    for _ in range(2):
        run = agent.run([*run.messages, {"role": "user", "content": "And one more?"}])
        roles = [message["role"] for message in run.messages]
        assert roles.count("system") == 1
    assert roles[:2] == ["system", "user"]
    # Another text of the conversation's own stands behind the agent's.
    other = {"role": "system", "content": "Be brief."}
    agent.run([other, {"role": "user", "content": "?"}])
    asked = model.asked[-1].messages
    assert [message["content"] for message in asked] == ["Be exact.", "Be brief.", "?"]


def test_parallel_calls_run_at_once_and_results_keep_their_order() -> None:
    meeting = threading.Barrier(3)

    def meet(name: str) -> str:
        """Wait for the two others."""
        meeting.wait(timeout=5)
        # The first call ends last.
        time.sleep(0.05 if name == "a" else 0)
        return name

    model = ScriptedModel(calls(*(("meet", {"name": name}) for name in "abc")), says("done"))
    run = Agent(model, [meet]).run("Meet.")
    assert [call.result for call in run.calls] == ["a", "b", "c"]
    results = [message for message in run.messages if message["role"] == "tool"]
    assert [message["content"] for message in results] == ["a", "b", "c"]
    assert [message["tool_call_id"] for message in results] == [call.id for call in run.calls]


def test_every_failure_is_a_result_that_the_model_can_read() -> None:
    def quit_now() -> None:
        """Leave."""
        raise SystemExit(3)

    def tell() -> None:
        """Fail with a message."""
        raise ToolError("the disk is full")

    def loop() -> list[Any]:
        """Return what holds itself."""
        endless: list[Any] = []
        endless.append(endless)
        return endless

    def broken_text() -> str:
        """Return half of a pair."""
        return "a\ud800b"

    model = ScriptedModel(
        calls(
            ("fail", {"reason": "city"}),
            ("add", {"a": "many"}),
            ("add", "{not json"),
            ("add", "[1, 2]"),
            ("subtract", {"a": 1}),
            ("quit_now", ""),
            ("tell", {}),
            ("loop", {}),
            ("broken_text", {}),
        ),
        says("I see."),
    )
    tools = [add, fail, quit_now, tell, loop, broken_text]
    run = Agent(model, tools).run("Try.")
    assert [call.status for call in run.calls] == [
        *("failed", "invalid", "invalid", "invalid", "unknown"),
        *("failed", "failed", "failed", "failed"),
    ]
    found = [errors(call.result) for call in run.calls]
    assert found[0] == "ValueError: no such city with a second line"
    assert found[1].startswith("invalid arguments: a: Input should be a valid integer")
    assert found[2].startswith("invalid arguments: the arguments are not JSON")
    assert found[3] == "invalid arguments: the arguments are a list; they must be a JSON object"
    assert found[4].startswith("there is no tool 'subtract'; the tools are: add, fail")
    assert found[5] == "SystemExit: 3"
    assert found[6] == "the disk is full"
    assert "cannot be written as text" in found[7]
    assert "surrogate" in found[8]
    assert not any("Traceback" in error or "\n" in error for error in found)
    assert run.text == "I see."


def test_what_is_no_json_stays_out_of_the_conversation_as_arguments() -> None:
    model = ScriptedModel(calls(("add", "{not json")), says("Sorry."))
    run = Agent(model, [add]).run("1 + 1?")
    function = run.messages[1]["tool_calls"][0]["function"]
    assert json.loads(function["arguments"]) == {"not_json": "{not json"}
    assert run.calls[0].arguments == "{not json"


def test_call_that_takes_too_long_is_left_behind() -> None:
    release = threading.Event()

    def wait() -> str:
        """Wait."""
        release.wait(10)
        return "late"

    model = ScriptedModel(calls(("wait", {}), ("add", {"a": 1})), says("Too slow."))
    run = Agent(model, [wait, add], call_timeout_s=0.4).run("Wait.")
    release.set()
    assert [call.status for call in run.calls] == ["timeout", "ok"]
    assert errors(run.calls[0].result) == "no result after 0.4 s; the call was left behind"
    time.sleep(0.02)
    assert "late" not in json.dumps(run.as_dict())


def test_time_of_the_run_ends_calls_and_the_run() -> None:
    release = threading.Event()

    def wait() -> None:
        """Wait."""
        release.wait(10)

    model = ScriptedModel(calls(("wait", {})))
    run = Agent(model, [wait], timeout_s=0.05).run("Wait.")
    release.set()
    assert run.finish_reason == "timeout"
    assert run.calls[0].status == "timeout"
    assert model.asked[0].timeout_s is not None
    assert model.asked[0].timeout_s <= 0.05


def test_calls_of_an_answer_that_ran_out_of_time_are_not_made() -> None:
    done = []

    def act() -> None:
        """Act."""
        done.append(1)

    late = calls(("act", {}))
    cut = says("Let me", "timeout")
    run = Agent(ScriptedModel(cut), [act]).run("Act.")
    assert (run.finish_reason, run.text) == ("timeout", "Let me")

    class SlowModel(ScriptedModel):
        def next_turn(self, *args: Any, **named: Any) -> Any:
            time.sleep(0.03)
            return late

    run = Agent(SlowModel(), [act], timeout_s=0.01).run("Act.")
    assert run.finish_reason == "timeout"
    assert run.calls[0].status == "timeout"
    assert done == []


def test_when_the_rounds_are_used_up_the_model_must_answer() -> None:
    again = calls(("add", {"a": 1}))
    model = ScriptedModel(again, again, says("Enough."))
    run = Agent(model, [add], max_steps=2).run("Go on.")
    assert [asked.tool_choice for asked in model.asked] == ["auto", "auto", "none"]
    assert (run.finish_reason, run.text) == ("max_steps", "Enough.")
    assert len(run.calls) == 2


def test_calls_beyond_the_limits_are_answered_but_not_made() -> None:
    made = []

    def act(number: int) -> None:
        """Act."""
        made.append(number)

    many = calls(*(("act", {"number": number}) for number in range(70)))
    # A server that does not know tool_choice "none" may call in its last answer, too.
    model = ScriptedModel(many, calls(("act", {"number": -1})))
    run = Agent(model, [act], max_steps=1).run("Act.")
    assert sorted(made) == list(range(64))
    assert [call.status for call in run.calls] == ["ok"] * 64 + ["too_many"] * 7
    assert run.finish_reason == "max_steps"
    answered = [m["tool_call_id"] for m in run.messages if m["role"] == "tool"]
    assert len(answered) == 71


def test_confirmation_makes_refuses_or_changes_calls() -> None:
    seen: list[PlannedCall] = []

    def confirm(call: PlannedCall) -> bool | dict[str, Any]:
        seen.append(call)
        answers: list[bool | dict[str, Any]] = [True, False, {"a": 40, "b": 2}, {"a": "x"}]
        return answers[len(seen) - 1]

    model = ScriptedModel(calls(*(("add", {"a": place}) for place in range(4))), says("Done."))
    run = Agent(model, [add], confirm=confirm).run("Add.")
    assert [call.arguments for call in seen] == [{"a": 0}, {"a": 1}, {"a": 2}, {"a": 3}]
    assert [call.status for call in run.calls] == ["ok", "refused", "ok", "invalid"]
    assert run.calls[0].result == "1"
    assert errors(run.calls[1].result) == "the user refused this call"
    assert run.calls[2].result == "42"
    assert "the user's arguments are invalid: a: Input" in errors(run.calls[3].result)
    # The conversation holds the call that was made, the trace both.
    sent = run.messages[1]["tool_calls"][2]["function"]["arguments"]
    assert json.loads(sent) == {"a": 40, "b": 2}
    assert run.calls[2].arguments == '{"a": 2}'
    assert run.calls[2].edited_arguments == {"a": 40, "b": 2}


def test_nobody_is_asked_about_calls_that_cannot_be_made() -> None:
    def confirm(call: PlannedCall) -> bool:
        raise AssertionError(call)

    model = ScriptedModel(calls(("subtract", {}), ("add", {})), says("Oh."))
    run = Agent(model, [add], confirm=confirm).run("Subtract.")
    assert [call.status for call in run.calls] == ["unknown", "invalid"]


@pytest.mark.parametrize("answer", [None, "yes", {"a": object()}, {"a": float("nan")}])
def test_confirmation_that_is_none_is_an_error_of_the_caller(answer: Any) -> None:
    model = ScriptedModel(calls(("add", {"a": 1})))
    with pytest.raises(ConfigError, match="confirm answered"):
        Agent(model, [add], confirm=lambda call: answer).run("Add.")


def test_time_to_confirm_is_not_time_of_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 100.0

    def confirm(call: PlannedCall) -> bool:
        nonlocal now_s
        now_s += 50
        return True

    monkeypatch.setattr(loop, "Clock", partial(Clock, now=lambda: now_s))
    model = ScriptedModel(calls(("add", {"a": 1})), says("2."))
    run = Agent(model, [add], confirm=confirm, timeout_s=40.0).run("Add.")
    assert run.finish_reason == "stop"
    assert run.duration_s == 50
    assert [asked.timeout_s for asked in model.asked] == [40, 40]


def test_clock_stands_still_only_where_it_is_told_to() -> None:
    now_s = 3.0
    clock = Clock(10.0, now=lambda: now_s)
    now_s += 4
    with clock.stopped():
        now_s += 20
    now_s += 5
    assert clock.left_s == 1
    assert clock.passed_s == 29
    assert not clock.is_over
    now_s += 2
    assert clock.is_over
    assert Clock(None).left_s is None


def test_dry_run_records_the_first_calls_and_makes_none() -> None:
    done = []

    def act(number: int) -> None:
        """Act."""
        done.append(number)

    model = ScriptedModel(calls(("act", {"number": 1}), ("act", {"number": "x"})))
    run = Agent(model, [act], dry_run=True).run("Act.")
    assert done == []
    assert run.finish_reason == "dry_run"
    assert [call.status for call in run.calls] == ["dry_run", "invalid"]
    without = Agent(ScriptedModel(says("Hello.")), [act], dry_run=True).run("Hello?")
    assert without.finish_reason == "stop"


def test_first_answer_may_be_forced_to_call_and_later_ones_are_free() -> None:
    model = ScriptedModel(calls(("add", {"a": 1})), says("2."))
    Agent(model, [add], tool_choice="any").run("1 + 1?")
    assert [asked.tool_choice for asked in model.asked] == ["any", "auto"]


def test_long_results_are_cut_and_both_sides_are_told() -> None:
    def read() -> str:
        """Read."""
        return "x" * 50

    model = ScriptedModel(calls(("read", {})), says("Long."))
    run = Agent(model, [read], max_result_chars=10).run("Read.")
    assert run.calls[0].result == "x" * 10 + " [cut: 10 of 50 characters]"
    assert run.calls[0].is_cut


def test_full_context_ends_a_run_that_has_begun_and_refuses_one_that_has_not() -> None:
    full = ContextLengthExceeded("too long")
    run = Agent(ScriptedModel(calls(("add", {"a": 1})), full), [add]).run("Add.")
    assert run.finish_reason == "context"
    assert run.calls[0].result == "2"
    assert run.messages[-1]["role"] == "tool"
    with pytest.raises(ContextLengthExceeded):
        Agent(ScriptedModel(full), [add]).run("Add.")


def test_failure_of_the_model_is_raised_and_the_steps_before_it_are_known() -> None:
    steps: list[Step] = []
    model = ScriptedModel(calls(("add", {"a": 1})), EngineError("gone"))
    with pytest.raises(EngineError, match="gone"):
        Agent(model, [add]).run("Add.", on_step=steps.append)
    assert [call.status for step in steps for call in step.calls] == ["ok"]


def test_trace_is_json_and_holds_everything() -> None:
    model = ScriptedModel(calls(("add", {"a": 1}), text="Let me add."), says("2."))
    run = Agent(model, [add]).run("1 + 1?")
    values = json.loads(json.dumps(run.as_dict()))
    assert values["steps"][0]["text"] == "Let me add."
    assert values["steps"][0]["calls"][0]["name"] == "add"
    assert values["steps"][1]["completion_tokens"] == 3
    assert values["messages"] == run.messages


def test_answer_of_nothing_adds_no_message() -> None:
    run = Agent(ScriptedModel(says("")), [add]).run("Hello?")
    assert run.messages == [{"role": "user", "content": "Hello?"}]
    assert run.finish_reason == "stop"


def test_tool_by_hand_is_held_to_its_schema() -> None:
    parameters = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    tool = Tool(name="double", description="", parameters=parameters, run=lambda a: 2 * a["n"])
    model = ScriptedModel(calls(("double", {"n": 4}), ("double", {"n": "4"})), says("8."))
    run = Agent(model, [tool]).run("Double 4.")
    assert run.calls[0].result == "8"
    assert errors(run.calls[1].result) == "invalid arguments: n: '4' is not of type 'integer'"


def test_check_that_fails_itself_does_not_end_the_run() -> None:
    def check(arguments: object) -> dict[str, Any]:
        raise TypeError("odd arguments")

    tool = Tool(name="odd", description="", parameters={}, run=lambda a: None, check=check)
    run = Agent(ScriptedModel(calls(("odd", {})), says("Oh.")), [tool]).run("Try.")
    assert run.calls[0].status == "failed"
    assert errors(run.calls[0].result) == "TypeError: odd arguments"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"max_steps": 0}, "max_steps is 0"),
        ({"timeout_s": 0}, "timeout_s is 0"),
        ({"call_timeout_s": -1.0}, "call_timeout_s is -1.0"),
        ({"max_result_chars": 0}, "max_result_chars is 0"),
        ({"tools": [add, add]}, "two tools are named 'add'"),
    ],
)
def test_agents_that_cannot_work_are_not_made(changes: dict[str, Any], expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        Agent(ScriptedModel(), **changes)


@pytest.mark.parametrize("question", [[], ["Hello"], 3, None])
def test_questions_that_are_none_are_refused(question: Any) -> None:
    with pytest.raises(InvalidRequest, match="question must be"):
        Agent(ScriptedModel(says("?"))).run(question)


class FakeLLM:
    """Streams an answer, as ``LLM.stream_chat`` does, one piece every 10 ms."""

    def __init__(self, pieces: int) -> None:
        self.pieces = pieces
        self.is_closed = False

    def stream_chat(self, messages: Any, params: Any = None, **named: Any) -> Any:
        def stream() -> Iterator[CompletionChunk]:
            try:
                for piece in range(self.pieces):
                    time.sleep(0.01)
                    yield CompletionChunk(
                        text="a ",
                        token_ids=[1],
                        finish_reason="stop" if piece == self.pieces - 1 else None,
                        usage=Usage(prompt_tokens=5, completion_tokens=piece + 1),
                    )
            finally:
                self.is_closed = True

        return stream()


def test_answer_of_a_local_model_is_ended_in_its_middle() -> None:
    llm = FakeLLM(pieces=3)
    run = Agent(llm).run("Hello?")
    assert (run.text, run.finish_reason) == ("a a a ", "stop")
    assert run.steps[0].completion_tokens == 3
    endless = FakeLLM(pieces=10_000)
    run = Agent(endless, timeout_s=0.05).run("Hello?")
    assert run.finish_reason == "timeout"
    assert run.text.startswith("a ")
    assert endless.is_closed
