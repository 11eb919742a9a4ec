"""A model that calls functions until it can answer.

    question -> model -> calls -> results -> model -> ... -> text

``Agent`` is the loop. Its tools are Python functions, whose schema comes from their type hints and
docstrings, or the tools of MCP servers. The model is an ``LLM`` in this process, or any server that
speaks OpenAI's API. The parts:

    docstrings      what a docstring says of a function and its arguments
    function_tool   a Python function as a tool: schema, validation, call
    tool            what a tool is, whoever made it
    short_schema    its schema, without what costs tokens and says nothing
    tool_file       the functions of a file
    mcp_tools       the tools of an MCP server
    chat_model      what an agent asks of a model; an LLM in this process
    http_model      the same over HTTP
    results         what a function returned, as text for the model
    clock           the time of a run
    round           the calls of one answer: checked, confirmed, run at the same time
    trace           everything that happened, as plain data
    loop            the agent

docs/agents.md is the guide.
"""

from mixtral.agent.chat_model import ChatModel, LocalModel, ModelTurn
from mixtral.agent.http_model import HttpModel
from mixtral.agent.loop import Agent
from mixtral.agent.mcp_tools import McpTools
from mixtral.agent.round import PlannedCall
from mixtral.agent.tool import Tool, ToolError
from mixtral.agent.tool_file import load_functions
from mixtral.agent.trace import AgentRun, CallRecord, Step

__all__ = [
    "Agent",
    "AgentRun",
    "CallRecord",
    "ChatModel",
    "HttpModel",
    "LocalModel",
    "McpTools",
    "ModelTurn",
    "PlannedCall",
    "Step",
    "Tool",
    "ToolError",
    "load_functions",
]
