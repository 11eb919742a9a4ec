"""The calls of one answer: what ends them, what is recorded, and what they may change."""

import json
import signal
import threading
from collections.abc import Mapping
from typing import Any

import pytest

from mixtral.agent import Agent, PlannedCall, Tool
from mixtral.agent.tool import ToolTimeout
from mixtral.agent.trace import Step
from mixtral.errors import ConfigError
from tests.agent.scripted import ScriptedModel, calls, says


def ping() -> str:
    """Answer."""
    return "pong"


def by_hand(name: str, run: Any) -> Tool:
    return Tool(name=name, description="", parameters={"type": "object"}, run=run)


def errors(content: str) -> str:
    """Return the error that a tool's result holds."""
    value: str = json.loads(content)["error"]
    return value


# Slow: a signal from a thread comes when the scheduler likes, on a busy machine too early.
@pytest.mark.slow
def test_ctrl_c_among_calls_tells_which_ended_and_which_did_not() -> None:
    release = threading.Event()

    def stop() -> None:
        """Press Ctrl-C once the other call has ended, and go on."""
        for thread in threading.enumerate():
            if thread.name == "tool ping":
                thread.join()
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        release.wait(10)

    steps: list[Step] = []
    model = ScriptedModel(calls(("ping", {}), ("stop", {})))
    with pytest.raises(KeyboardInterrupt):
        Agent(model, [ping, stop]).run("Go.", on_step=steps.append)
    release.set()
    ended, interrupted = steps[0].calls
    assert (ended.status, ended.result) == ("ok", "pong")
    assert interrupted.status == "interrupted"
    assert errors(interrupted.result).startswith("the run was stopped during this call")
    assert interrupted.duration_s > 0


def test_ctrl_c_at_a_question_tells_that_nothing_was_called() -> None:
    def confirm(call: PlannedCall) -> bool:
        if call.id == "call00001":
            raise KeyboardInterrupt
        return call.id != "call00000"

    steps: list[Step] = []
    model = ScriptedModel(calls(*[("ping", {})] * 3))
    with pytest.raises(KeyboardInterrupt):
        Agent(model, [ping], confirm=confirm).run("Go.", on_step=steps.append)
    assert [call.status for call in steps[0].calls] == ["refused", "interrupted", "interrupted"]
    assert errors(steps[0].calls[1].result) == "the run was stopped before this call"
    assert steps[0].calls[1].duration_s == 0


@pytest.mark.parametrize("limit_s", [1e10, 1e300])
def test_limit_longer_than_any_lock_can_wait_is_waited_for(limit_s: float) -> None:
    release = threading.Event()

    def wait() -> str:
        """Wait for the agent, which waits for this."""
        release.wait(10)
        return "waited"

    threading.Timer(0.05, release.set).start()
    model = ScriptedModel(calls(("wait", {})), says("Done."))
    run = Agent(model, [wait], call_timeout_s=limit_s, timeout_s=None).run("Go.")
    assert run.calls[0].result == "waited"


def test_tool_that_gives_up_by_itself_took_too_long() -> None:
    def give_up(arguments: Mapping[str, Any]) -> None:
        raise ToolTimeout("the server is slow")

    model = ScriptedModel(calls(("slow", {})), says("Oh."))
    run = Agent(model, [by_hand("slow", give_up)]).run("Go.")
    assert run.calls[0].status == "timeout"
    assert errors(run.calls[0].result) == "the server is slow"


def test_exception_that_cannot_tell_itself_fails_its_call_at_once() -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no text")

    def fail() -> None:
        """Fail."""
        raise Mute

    def check(arguments: object) -> dict[str, Any]:
        raise Mute

    odd = Tool(name="odd", description="", parameters={}, run=lambda a: None, check=check)
    model = ScriptedModel(calls(("fail", {}), ("odd", {})), says("Oh."))
    run = Agent(model, [fail, odd], call_timeout_s=5).run("Go.")
    assert [(call.status, errors(call.result)) for call in run.calls] == [("failed", "Mute")] * 2
    assert run.duration_s < 4


def test_call_without_a_thread_fails_and_the_others_go_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    start = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if thread.name == "tool second":
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    tools = [by_hand(name, lambda a: "done") for name in ("first", "second", "third")]
    model = ScriptedModel(calls(*((tool.name, {}) for tool in tools)), says("Done."))
    run = Agent(model, tools, call_timeout_s=5).run("Go.")
    assert [call.status for call in run.calls] == ["ok", "failed", "ok"]
    assert "can't start new thread" in errors(run.calls[1].result)


def test_without_parallel_calls_only_the_first_of_several_is_made() -> None:
    model = ScriptedModel(calls(("ping", {}), ("ping", {})), says("Done."))
    run = Agent(model, [ping], parallel_tool_calls=False).run("Go.")
    assert [call.status for call in run.calls] == ["ok", "too_many"]
    assert "1 calls at most" in errors(run.calls[1].result)


def test_answer_that_must_not_call_makes_no_call() -> None:
    model = ScriptedModel(calls(("ping", {})), says("Done."))
    run = Agent(model, [ping], tool_choice="none").run("Go.")
    assert [call.status for call in run.calls] == ["too_many"]


def test_tool_that_changes_its_arguments_does_not_change_the_record() -> None:
    def empty(arguments: dict[str, Any]) -> str:
        arguments["paths"].clear()
        return "emptied"

    model = ScriptedModel(calls(("empty", {"paths": ["a"]})), says("Done."))
    tool = by_hand("empty", empty)
    run = Agent(model, [tool], confirm=lambda call: {"paths": ["b"]}).run("Go.")
    assert run.calls[0].edited_arguments == {"paths": ["b"]}
    sent = run.messages[1]["tool_calls"][0]["function"]["arguments"]
    assert json.loads(sent) == {"paths": ["b"]}


@pytest.mark.parametrize("arguments", ['{"a": NaN}', '{"a": -Infinity}', '{"a": "\\ud83d"}'])
def test_arguments_that_no_conversation_can_hold_are_invalid(arguments: str) -> None:
    made = []
    model = ScriptedModel(calls(("note", arguments)), says("Oh."))
    run = Agent(model, [by_hand("note", made.append)]).run("Go.")
    assert made == []
    assert run.calls[0].status == "invalid"
    sent = run.messages[1]["tool_calls"][0]["function"]["arguments"]
    assert json.loads(sent) == {"not_json": arguments}


def test_confirmation_with_half_of_a_pair_is_an_error_of_the_caller() -> None:
    model = ScriptedModel(calls(("note", {})))
    tool = by_hand("note", lambda a: None)
    with pytest.raises(ConfigError, match="confirm answered with arguments that are not JSON"):
        Agent(model, [tool], confirm=lambda call: {"a": "\ud800"}).run("Go.")


def test_name_that_no_template_takes_is_another_in_the_conversation() -> None:
    model = ScriptedModel(calls(("read the file", {}), ("", {})), says("Oh."))
    run = Agent(model, [ping]).run("Go.")
    assert [call.name for call in run.calls] == ["read the file", ""]
    assert [call.status for call in run.calls] == ["unknown", "unknown"]
    sent = [call["function"]["name"] for call in run.messages[1]["tool_calls"]]
    assert sent == ["read_the_file", "_"]
    assert [message["name"] for message in run.messages[2:4]] == sent
