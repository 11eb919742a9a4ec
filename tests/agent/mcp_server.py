"""An MCP server for tests, made with the official package; started as a program."""

import asyncio
import os

from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ToolError

server = MCPServer("tests")
meeting = asyncio.Barrier(3)


@server.tool()
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


@server.tool(name="text.reverse")
def reverse(text: str) -> str:
    """Turn a text round."""
    return text[::-1]


@server.tool()
def fail(reason: str) -> str:
    """Fail."""
    raise ToolError(f"no such {reason}")


@server.tool()
def environment(name: str) -> str:
    """Read a variable of the environment."""
    return os.environ.get(name, "absent")


@server.tool()
async def meet() -> str:
    """Wait for two other calls."""
    await asyncio.wait_for(meeting.wait(), timeout=20)
    return "met"


if __name__ == "__main__":
    server.run()
