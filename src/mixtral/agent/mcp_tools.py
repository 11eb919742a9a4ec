"""The tools of an MCP server, through the official ``mcp`` package (2.x).

    with McpTools("python files_server.py", prefix="files") as files:
        Agent(llm, tools=[weather, *files.tools]).run("Which files are there?")

MCP (https://modelcontextprotocol.io) is a protocol by which programs offer tools. A server is a
command, which is started and spoken with over its standard input and output, or a URL, spoken with
over streamable HTTP. ``mcp`` is asynchronous; its client lives in an event loop on a thread of its
own, where calls from any thread are handed to it. Leaving the context ends client and command.

A command gets only the few environment variables that ``mcp`` thinks safe, and those in ``env``:
keys that lie in the environment of an agent are not every server's business. Its standard error
goes to ours. Images and sound in a result are named, not shown; Mixtral reads text only.
"""

import math
import os
import shlex
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Self, TextIO

from mixtral.agent.results import result_text
from mixtral.agent.short_schema import short_schema
from mixtral.agent.tool import Tool, ToolError, ToolTimeout, allowed_name, checked_by_schema
from mixtral.errors import ConfigError, UnsupportedError
from mixtral.tools.definitions import MAX_TOOLS
from mixtral.validation import require_positive_number

if TYPE_CHECKING:
    from types import TracebackType

    from anyio.from_thread import BlockingPortal
    from mcp import Client, StdioServerParameters
    from mcp.client._transport import Transport, TransportStreams
    from mcp.types import CallToolResult, ContentBlock
    from mcp.types import Tool as ServerTool

INSTALL = "pip install 'mixtral[agent]'"


class McpTools:
    """A connection to an MCP server; a context manager.

    Args:
        server: A URL (http:// or https://), or a command: as one text, which is split as a shell
            would, or as a list.
        prefix: Put before the name of each tool, with a ``_`` between; for servers whose tools have
            the same names.
        env: More environment variables for a command.
        cwd: Folder that a command runs in; None is this process's own.
        headers: Sent with every request to a URL, such as Authorization.
        timeout_s: Seconds that the server may take to start, and to list its tools.
        call_timeout_s: Seconds of one call, after which the server is told to stop it; None waits
            until the context is left. An agent that gives calls less goes on without them.

    Raises:
        UnsupportedError: The package mcp is not installed.
        ConfigError: The command is empty, or an argument does not go with the kind of server.
    """

    def __init__(
        self,
        server: str | Sequence[str],
        *,
        prefix: str = "",
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        headers: Mapping[str, str] | None = None,
        timeout_s: float = 60.0,
        call_timeout_s: float | None = None,
    ) -> None:
        require_positive_number("timeout_s", timeout_s)
        if call_timeout_s is not None:
            require_positive_number("call_timeout_s", call_timeout_s)
        try:
            import mcp  # noqa: F401 - a missing package is told here, not in the context
        except ImportError as error:
            raise UnsupportedError(
                f"tools of MCP servers need mcp, which is not installed: {INSTALL}"
            ) from error
        self.name = server if isinstance(server, str) else shlex.join(server)
        """The URL or command."""
        self.tools: list[Tool] = []
        """The server's tools, while the context is open."""
        self._url = self.name if self.name.startswith(("http://", "https://")) else None
        self._command = [] if self._url else _command(server)
        if self._url and (env is not None or cwd is not None):
            raise ConfigError("env and cwd are for commands; this MCP server is a URL.")
        if not self._url and headers is not None:
            raise ConfigError("headers are for URLs; this MCP server is a command.")
        self._prefix = prefix
        self._env = None if env is None else dict(env)
        self._cwd = cwd
        self._headers = dict(headers or {})
        self._timeout_s = timeout_s
        self._call_timeout_s = math.inf if call_timeout_s is None else call_timeout_s
        self._open = ExitStack()

    def __enter__(self) -> Self:
        """Start the server and list its tools.

        Raises:
            ConfigError: It does not start, does not answer, or its tools cannot be used.
        """
        try:
            self._start()
        # What a process, a socket and two task groups raise has no common base; the groups wrap
        # what is raised while they are open.
        except Exception as error:
            raise ConfigError(
                f"MCP server {self.name!r} cannot be used: {_reason(error)}."
            ) from error
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: "TracebackType | None",
    ) -> None:
        """End the connection and the command; calls that are under way fail."""
        self.tools = []
        self._open.close()

    def _start(self) -> None:
        from anyio.from_thread import start_blocking_portal
        from mcp import Client

        with ExitStack() as stack:
            portal = stack.enter_context(start_blocking_portal(name="mixtral-mcp"))
            client = Client(self._transport(), read_timeout_seconds=self._timeout_s)
            # Entered and left by one task, which the groups of tasks inside insist on.
            stack.enter_context(portal.wrap_async_context_manager(client))
            listed = portal.call(_list_tools, client, self._timeout_s)
            self.tools = [self._tool(tool, client, portal) for tool in listed]
            self._open = stack.pop_all()

    def _transport(self) -> "Transport":
        from mcp import StdioServerParameters

        if self._url:
            return _http_transport(self._url, self._headers, self._call_timeout_s)
        parameters = StdioServerParameters(
            command=self._command[0], args=self._command[1:], env=self._env, cwd=self._cwd
        )
        return _stdio_transport(parameters)

    def _tool(self, tool: "ServerTool", client: "Client", portal: "BlockingPortal") -> Tool:
        # Names of MCP may have dots and slashes, and 128 characters.
        whole = f"{self._prefix}_{tool.name}" if self._prefix else tool.name
        return Tool(
            name=allowed_name(whole),
            description=tool.description or "",
            parameters=short_schema(tool.input_schema),
            check=partial(_checked, tool.input_schema),
            run=partial(_call, portal, client.call_tool, tool.name, self._call_timeout_s),
        )


def _checked(schema: Mapping[str, Any], arguments: Mapping[str, Any]) -> dict[str, Any]:
    return checked_by_schema(arguments, schema)


def _command(server: str | Sequence[str]) -> list[str]:
    try:
        command = shlex.split(server) if isinstance(server, str) else [*server]
    except ValueError as error:
        raise ConfigError(f"MCP command {server!r} cannot be split: {error}.") from error
    if not command or not command[0]:
        raise ConfigError("the MCP server is empty; give a command or a URL.")
    return command


@asynccontextmanager
async def _stdio_transport(
    parameters: "StdioServerParameters",
) -> "AsyncIterator[TransportStreams]":
    from mcp import stdio_client

    with ExitStack() as stack:
        async with stdio_client(parameters, errlog=_error_stream(stack)) as streams:
            yield streams


def _error_stream(stack: ExitStack) -> TextIO:
    """Return our standard error, or the void where it is no file, as inside some tests."""
    try:
        sys.stderr.fileno()
    except (AttributeError, OSError, ValueError):
        return stack.enter_context(open(os.devnull, "w", encoding="utf-8"))
    return sys.stderr


@asynccontextmanager
async def _http_transport(
    url: str, headers: dict[str, str], call_timeout_s: float
) -> "AsyncIterator[TransportStreams]":
    import httpx2
    from mcp.client.streamable_http import streamable_http_client

    # mcp's own limits: a server may hold a stream of events open for minutes. Calls that may take
    # longer must not end with their connection; mcp itself ends them.
    read_s = 300.0 if call_timeout_s < 300.0 else None
    timeout = httpx2.Timeout(30.0, read=read_s)
    async with (
        httpx2.AsyncClient(headers=headers, timeout=timeout) as http_client,
        streamable_http_client(url, http_client=http_client) as streams,
    ):
        yield streams


async def _list_tools(client: "Client", timeout_s: float) -> "list[ServerTool]":
    import anyio

    listed: list[ServerTool] = []
    cursor: str | None = None
    # For all pages together: a server may have one more for ever.
    with anyio.move_on_after(timeout_s):
        while True:
            page = await client.list_tools(cursor=cursor)
            listed += page.tools
            cursor = page.next_cursor
            if cursor is None or len(listed) > MAX_TOOLS:
                return listed
    raise ConfigError(f"it did not list its tools within {timeout_s:g} s")


def _call(
    portal: "BlockingPortal",
    call_tool: "Callable[..., Any]",
    name: str,
    timeout_s: float,
    arguments: dict[str, Any],
) -> str:
    """Call a tool of the server from any thread.

    Raises:
        ToolTimeout: The server did not answer in time; it was told to stop.
        ToolError: The server says that the call failed, or is gone.
    """
    from mcp import MCPError
    from mcp.types import REQUEST_TIMEOUT

    try:
        result: CallToolResult = portal.call(call_tool, name, arguments, timeout_s)
    except (MCPError, RuntimeError) as error:  # RuntimeError: the context was left.
        if isinstance(error, MCPError) and error.code == REQUEST_TIMEOUT:
            raise ToolTimeout(f"the MCP server gave no result in time: {error}") from error
        raise ToolError(f"the MCP server failed: {error}") from error
    text = "\n".join(_block_text(block) for block in result.content)
    if result.is_error:
        raise ToolError(text or "the MCP server reports an error without a reason")
    if not result.content and result.structured_content is not None:
        return result_text(result.structured_content)
    return text


def _block_text(block: "ContentBlock") -> str:
    if block.type == "text":
        return block.text
    if block.type == "resource_link":
        return str(block.uri)
    if block.type == "resource":
        text = getattr(block.resource, "text", None)
        return text if isinstance(text, str) else f"[data of {block.resource.uri}]"
    return f"[{block.type}, {block.mime_type}]"


def _reason(error: BaseException) -> str:
    """Return the first error inside groups of task groups, on one line."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join((str(error) or type(error).__name__).split()).rstrip(".")
