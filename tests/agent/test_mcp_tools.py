"""Tools of a real MCP server in a process of its own."""

import json
import math
import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn

pytest.importorskip("mcp", reason="the extra agent is not installed")

import mcp
from mcp.types import CallToolResult

from mixtral.agent import Agent, McpTools, ToolError
from mixtral.errors import ConfigError
from tests.agent.scripted import ScriptedModel, calls, says

SERVER = [sys.executable, str(Path(__file__).with_name("mcp_server.py"))]
ODD_SERVER = [sys.executable, str(Path(__file__).with_name("odd_mcp_server.py"))]


@pytest.fixture(scope="module")
def server() -> Iterator[McpTools]:
    with McpTools(SERVER, prefix="t", env={"EXTRA": "given"}, timeout_s=300) as tools:
        yield tools


def test_tools_of_the_server_are_tools_of_the_agent(server: McpTools) -> None:
    assert [tool.name for tool in server.tools] == [
        *("t_add", "t_text_reverse", "t_fail", "t_environment", "t_meet")
    ]
    add = server.tools[0]
    assert add.description == "Add two numbers."
    assert add.parameters["properties"] == {"a": {"type": "integer"}, "b": {"type": "integer"}}
    model = ScriptedModel(
        calls(
            ("t_add", {"a": 2, "b": 3}),
            ("t_text_reverse", {"text": "abc"}),
            ("t_fail", {"reason": "city"}),
            ("t_add", {"a": "two", "b": 3}),
        ),
        says("Done."),
    )
    run = Agent(model, server.tools).run("Try.")
    assert [call.status for call in run.calls] == ["ok", "ok", "failed", "invalid"]
    assert [call.result for call in run.calls[:2]] == ["5", "cba"]
    assert "no such city" in json.loads(run.calls[2].result)["error"]
    assert "Traceback" not in run.calls[2].result


def test_calls_run_at_the_same_time(server: McpTools) -> None:
    model = ScriptedModel(calls(*[("t_meet", {})] * 3), says("Done."))
    run = Agent(model, server.tools).run("Meet.")
    assert [call.result for call in run.calls] == ["met"] * 3


def test_server_sees_only_what_it_is_given(
    server: McpTools, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = server.tools[3]
    # Set before the server was started, as a key in the shell of a user would be.
    assert "PYTEST_VERSION" in os.environ or "PYTEST_CURRENT_TEST" in os.environ
    assert read.run({"name": "PYTEST_VERSION"}) == "absent"
    assert read.run({"name": "EXTRA"}) == "given"


def test_leaving_the_context_ends_the_server() -> None:
    tools = McpTools(SERVER, timeout_s=300)
    with tools:
        add = tools.tools[0]
        assert add.run({"a": 1, "b": 1}) == "2"
    assert tools.tools == []
    with pytest.raises(ToolError, match="MCP server failed"):
        add.run({"a": 1, "b": 1})


def test_call_that_takes_too_long_timed_out_and_the_server_is_told() -> None:
    with McpTools(ODD_SERVER, timeout_s=300, call_timeout_s=0.1) as tools:
        model = ScriptedModel(calls(("hang", {})), calls(("seen", {})), says("Oh."))
        run = Agent(model, tools.tools).run("Try.")
    assert [call.status for call in run.calls] == ["timeout", "ok"]
    assert "gave no result in time" in json.loads(run.calls[0].result)["error"]
    assert run.calls[1].result.split()[-2:] == ["notifications/cancelled", "tools/call"]


@pytest.mark.parametrize(("given_s", "expected_s"), [(None, math.inf), (90.0, 90.0)])
def test_time_of_a_call_is_not_the_time_of_the_start(
    monkeypatch: pytest.MonkeyPatch, given_s: float | None, expected_s: float
) -> None:
    limits: list[float | None] = []

    async def call_tool(
        client: object, name: str, arguments: object, read_timeout_seconds: float | None = None
    ) -> CallToolResult:
        limits.append(read_timeout_seconds)
        return CallToolResult(content=[])

    monkeypatch.setattr(mcp.Client, "call_tool", call_tool)
    with McpTools(ODD_SERVER, timeout_s=60, call_timeout_s=given_s) as tools:
        tools.tools[0].run({})
    assert limits == [expected_s]


def test_leaving_the_context_ends_a_call_without_a_limit() -> None:
    failed: list[ToolError] = []

    def call() -> None:
        try:
            tools.tools[0].run({})
        except ToolError as error:
            failed.append(error)

    with McpTools(ODD_SERVER, timeout_s=300) as tools:
        thread = threading.Thread(target=call)
        seen = tools.tools[1]
        thread.start()
        while "tools/call" not in seen.run({}).split()[:-1]:
            pass
    thread.join(timeout=10)
    assert len(failed) == 1


def test_list_of_tools_without_an_end_is_given_up() -> None:
    with (
        pytest.raises(ConfigError, match=r"cannot be used: (it did not list|Request .* timed out)"),
        McpTools([*ODD_SERVER, "pages"], timeout_s=0.8),
    ):
        pass


def test_server_that_does_not_list_its_tools_is_one_line() -> None:
    with (
        pytest.raises(ConfigError, match="cannot be used: no such method") as caught,
        McpTools([*ODD_SERVER, "no-list"], timeout_s=300),
    ):
        pass
    assert "\n" not in str(caught.value)


@pytest.fixture
def web_server() -> Iterator[tuple[str, list[bytes | None]]]:
    """The same server over HTTP: its URL, and the keys that it is sent."""
    from tests.agent.mcp_server import server as mcp_server

    inner = mcp_server.streamable_http_app()
    keys: list[bytes | None] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            keys.append(dict(scope["headers"]).get(b"authorization"))
        await inner(scope, receive, send)

    config = uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error", ws="none")
    web = uvicorn.Server(config)
    thread = threading.Thread(target=web.run)
    thread.start()
    while not web.started:
        time.sleep(0.01)
    port = web.servers[0].sockets[0].getsockname()[1]
    yield f"http://127.0.0.1:{port}/mcp", keys
    web.should_exit = True
    thread.join()


def test_servers_are_reached_over_http(web_server: tuple[str, list[bytes | None]]) -> None:
    url, keys = web_server
    with McpTools(url, headers={"Authorization": "Bearer secret"}, timeout_s=300) as tools:
        model = ScriptedModel(
            calls(("add", {"a": 2, "b": 3}), ("fail", {"reason": "x"})), says("5")
        )
        run = Agent(model, tools.tools).run("2 + 3?")
    assert [call.status for call in run.calls] == ["ok", "failed"]
    assert run.calls[0].result == "5"
    assert set(keys) == {b"Bearer secret"}


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("no-such-program-at-all --flag", "No such file or directory"),
        ([sys.executable, "-c", "pass"], "cannot be used: Connection closed"),
    ],
)
def test_servers_that_do_not_start_are_said(command: str | list[str], expected: str) -> None:
    with pytest.raises(ConfigError, match=expected) as caught, McpTools(command):
        pass
    assert "\n" not in str(caught.value)


def test_arguments_that_do_not_go_together_are_refused() -> None:
    with pytest.raises(ConfigError, match="env and cwd are for commands"):
        McpTools("http://127.0.0.1:1/mcp", env={})
    with pytest.raises(ConfigError, match="headers are for URLs"):
        McpTools("server", headers={})
    with pytest.raises(ConfigError, match="empty"):
        McpTools("  ")
    with pytest.raises(ConfigError, match="cannot be split"):
        McpTools("server 'open")
    with pytest.raises(ConfigError, match="call_timeout_s is 0; it must be"):
        McpTools("server", call_timeout_s=0)
