"""``mixtral agent``: tools of a file, a scripted server in the place of the model."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mixtral.errors import ConfigError
from tests.agent.scripted import calls, says, scripted_server
from tests.cli.conftest import Run

TOOLS = '''
def add(a: int, b: int) -> int:
    """Add two numbers."""
    print("working")
    return a + b

def helper(x: int) -> int:
    return x
'''


STOP = '''
import signal
import threading

def stop() -> None:
    """Press Ctrl-C once the other call has ended, and go on."""
    for thread in threading.enumerate():
        if thread.name == "tool add":
            thread.join()
    signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
    threading.Event().wait(10)
'''


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    path = tmp_path / "tools.py"
    path.write_text(TOOLS)
    return path


def test_answer_goes_out_and_steps_beside_it(run: Run, tools: Path) -> None:
    with scripted_server(calls(("add", {"a": 2, "b": 3})), says("It is 5.")) as server:
        result = run("agent", "--server", server.url, "--tools", tools, "2 + 3?")
    assert result.exit_code == 0, result.stderr
    assert result.stdout == "It is 5.\n"
    assert f"tools of {tools}: add" in result.stderr
    assert "left out, because they have no docstring: helper" in result.stderr
    assert '1. add({"a": 2, "b": 3})' in result.stderr
    assert "ok, 0.0 s: 5" in result.stderr
    assert "working" in result.stderr


def test_json_is_the_run_and_the_trace_file_is_the_same(
    run: Run, tools: Path, tmp_path: Path
) -> None:
    trace = tmp_path / "run.json"
    with scripted_server(calls(("add", {"a": 2, "b": 3})), says("5.")) as server:
        options = ("--server", server.url, "--tools", tools, "--trace", trace, "--json")
        result = run("agent", *options, "2 + 3?")
    values = json.loads(result.stdout)
    assert values == json.loads(trace.read_text())
    assert values["steps"][0]["calls"][0]["result"] == "5"
    assert values["finish_reason"] == "stop"


def test_trace_of_a_run_that_failed_holds_what_was_done(
    run: Run, tools: Path, tmp_path: Path
) -> None:
    trace = tmp_path / "run.json"
    with scripted_server(calls(("add", {"a": 2, "b": 3})), (500, {})) as server:
        result = run("agent", "--server", server.url, "--tools", tools, "--trace", trace, "?")
    assert result.exit_code == 1
    assert "answered 500" in result.stderr
    values = json.loads(trace.read_text())
    assert values["finish_reason"] == "error"
    assert [call["status"] for call in values["steps"][0]["calls"]] == ["ok"]


# Slow: a signal from a thread comes when the scheduler likes, on a busy machine too early.
@pytest.mark.slow
def test_ctrl_c_among_calls_leaves_a_trace_of_them(run: Run, tools: Path, tmp_path: Path) -> None:
    trace = tmp_path / "run.json"
    tools.write_text(TOOLS + STOP)
    turn = calls(("add", {"a": 2, "b": 3}), ("stop", {}))
    with scripted_server(turn) as server:
        options = ("--server", server.url, "--tools", tools, "--trace", trace)
        result = run("agent", *options, "2 + 3?")
    assert result.exit_code == 130
    values = json.loads(trace.read_text())
    assert values["finish_reason"] == "error"
    made = [(call["name"], call["status"]) for call in values["steps"][0]["calls"]]
    assert made == [("add", "ok"), ("stop", "interrupted")]


def full_disk(path: Path, text: str) -> None:
    raise OSError(errno.ENOSPC, "No space left on device", ".run.json.1234.tmp")


@pytest.mark.parametrize("form", [(), ("--json",)])
def test_answer_is_printed_where_its_trace_cannot_be_written(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: tuple[str, ...]
) -> None:
    monkeypatch.setattr("mixtral.cli.agent.write_whole", full_disk)
    trace = tmp_path / "run.json"
    with scripted_server(says("It is 5.")) as server:
        result = run("agent", "--server", server.url, "--trace", trace, *form, "2 + 3?")
    assert result.exit_code == 1
    assert "It is 5." in result.stdout
    last = result.stderr.splitlines()[-1]
    assert last == f"error: the trace could not be written to {trace}: No space left on device."


def test_error_of_a_run_is_told_where_its_trace_cannot_be_written(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mixtral.cli.agent.write_whole", full_disk)
    with scripted_server((500, {})) as server:
        result = run("agent", "--server", server.url, "--trace", tmp_path / "run.json", "?")
    assert result.exit_code == 1
    assert "the trace could not be written" in result.stderr
    assert "answered 500" in result.stderr.splitlines()[-1]


def test_answer_with_half_of_a_surrogate_pair_is_printed_and_traced(
    run: Run, tmp_path: Path
) -> None:
    trace = tmp_path / "run.json"
    with scripted_server(says("so \ud83d")) as server:
        result = run("agent", "--server", server.url, "--trace", trace, "?")
    assert (result.exit_code, result.stdout) == (0, "so \ufffd\n")
    assert json.loads(trace.read_text())["text"] == "so \ufffd"


def test_trace_does_not_replace_a_folder_or_device(run: Run, tmp_path: Path) -> None:
    for trace, kind in ((tmp_path, "folder"), (os.devnull, "device")):
        result = run("agent", "--server", "http://127.0.0.1:1", "--trace", trace, "?")
        assert result.exit_code == 2
        last = result.stderr.splitlines()[-1]
        assert f"--trace is {trace}, which is a {kind}; name a file" in last


def test_limit_of_calls_is_given_to_mcp_servers(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, object] = {}

    def refuse(server: str, **arguments: object) -> None:
        given.update(arguments)
        raise ConfigError("no server here")

    monkeypatch.setattr("mixtral.agent.McpTools", refuse)
    options = ("--server", "http://127.0.0.1:1", "--mcp", "t=server", "--call-timeout", "90")
    assert run("agent", *options, "?").exit_code == 2
    assert given == {"prefix": "t", "call_timeout_s": 90}


def test_what_a_program_of_a_tool_prints_is_no_answer(tools: Path) -> None:
    tools.write_text(
        """
import subprocess, sys

def greet() -> str:
    "Greet."
    subprocess.run([sys.executable, "-Sc", "print('from a program')"], check=True)
    return "greeted"
"""
    )
    with scripted_server(calls(("greet", {})), says("Done.")) as server:
        program = [sys.executable, "-c", "from mixtral.cli.main import main; main()", "agent"]
        command = [*program, "--server", server.url, "--tools", tools, "Greet."]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "Done.\n"
    assert "from a program" in done.stderr


def test_edit_that_a_check_stumbles_over_may_be_typed_again(run: Run, tools: Path) -> None:
    tools.write_text(
        """
from typing import Annotated
from pydantic import AfterValidator

def picky(number: int) -> int:
    return 10 // number  # ZeroDivisionError is none that pydantic expects.

def divide(number: Annotated[int, AfterValidator(picky)]) -> int:
    "Divide."
    return number
"""
    )
    typed = 'e\n{"number": 0}\ne\n{"number": 5}\ny\n'
    with scripted_server(calls(("divide", {"number": 1})), says("Done.")) as server:
        options = ("--server", server.url, "--tools", tools, "--confirm", "--json")
        result = run("agent", *options, "Divide.", input=typed)
    assert result.exit_code == 0, result.stderr
    assert "cannot be checked: ZeroDivisionError" in result.stderr
    assert json.loads(result.stdout)["steps"][0]["calls"][0]["result"] == "2"


def test_confirmation_asks_edits_and_refuses(run: Run, tools: Path) -> None:
    turn = calls(("add", {"a": 1, "b": 1}), ("add", {"a": 2, "b": 2}), ("add", {"a": 3, "b": 3}))
    # Yes; no; what is neither, then an edit that does not suit the tool, and one that does.
    typed = 'y\nn\nwhat\ne\n{"a": "x"}\ne\n{"a": 40, "b": 2}\ny\n'
    with scripted_server(turn, says("Done.")) as server:
        options = ("--server", server.url, "--tools", tools, "--confirm", "--json")
        result = run("agent", *options, "Add.", input=typed)
    made = json.loads(result.stdout)["steps"][0]["calls"]
    assert [call["status"] for call in made] == ["ok", "refused", "ok"]
    assert made[2]["result"] == "42"
    assert "a: Input should be a valid integer" in result.stderr


def test_dry_run_calls_nothing(run: Run, tools: Path) -> None:
    with scripted_server(calls(("add", {"a": 2, "b": 3}))) as server:
        result = run("agent", "--server", server.url, "--tools", tools, "--dry-run", "2 + 3?")
    assert result.exit_code == 0
    assert "working" not in result.stderr
    assert "[a dry run: nothing was called]" in result.stderr


def test_escape_sequences_of_a_call_do_not_reach_the_terminal(run: Run, tools: Path) -> None:
    turn = calls(("add", '{"a": 1, "b": "\x1b[2J"}'), text="")
    with scripted_server(turn, says("Done.")) as server:
        result = run("agent", "--server", server.url, "--tools", tools, "Add.")
    assert "\x1b" not in result.stderr


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--tools", "absent.py", "?"), "absent.py is no file"),
        (("  ",), "the question is empty"),
        (("--tool-choice", "all", "?"), "tool_choice is 'all'"),
        (("--dtype", "float32", "?"), "leave out all model options but --model"),
        (("--trace", "/no/such/folder/run.json", "?"), "is no folder"),
        (("--max-steps", "0", "?"), "--max-steps is 0"),
        (("--timeout", "0", "?"), "--timeout is 0; it must be above 0"),
        (("--call-timeout", "-1", "?"), "--call-timeout is -1; it must be above 0"),
        (("--timeout", "nan", "?"), "--timeout is nan; it must be above 0, and finite"),
        (("--call-timeout", "inf", "?"), "--call-timeout is inf; it must be above 0, and finite"),
        (("--api-key", "schlüssel", "?"), "the API key cannot be sent"),
        (("--mcp", "no-such-program-at-all", "?"), "No such file or directory"),
    ],
)
def test_wrong_input_is_one_line(run: Run, options: tuple[str, ...], expected: str) -> None:
    result = run("agent", "--server", "http://127.0.0.1:1", *options)
    assert result.exit_code == 2
    assert expected in result.stderr.splitlines()[-1]
