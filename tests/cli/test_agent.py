"""``mixtral agent``: tools of a file, a scripted server in the place of the model."""

import json
from pathlib import Path

import pytest

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
        (("--mcp", "no-such-program-at-all", "?"), "No such file or directory"),
    ],
)
def test_wrong_input_is_one_line(run: Run, options: tuple[str, ...], expected: str) -> None:
    result = run("agent", "--server", "http://127.0.0.1:1", *options)
    assert result.exit_code == 2
    assert expected in result.stderr.splitlines()[-1]
