r"""Function calling for the v1 template, which has no tokens for it: everything becomes text.

Mixtral 8x7B Instruct v0.1 was trained on user and assistant turns alone. So the functions are
described in the system text, calls of the history are assistant turns in the same form that the
grammar forces on new ones, and results are user turns:

    [INST] <system text>\n\n<functions>\n\n<question> [/INST]
    [TOOL_CALLS] [{"name": "get_weather", "arguments": {"city": "Paris"}}]</s>
    [INST] [TOOL_RESULTS] [{"name": "get_weather", "content": {"celsius": 21}}] [/INST]

Results stand in the order of their calls, so no ids are written. ``docs/function-calling.md`` shows
a whole conversation.
"""

import json
from collections.abc import Sequence
from typing import Any

from mixtral.tools.definitions import ToolDefinition
from mixtral.tools.history import parsed_or_text, text_of
from mixtral.tools.markers import CALLS_MARKER, RESULTS_MARKER

_INSTRUCTIONS = f"""\
You can call the functions listed below. To call, answer with one line of this form and nothing \
else:
{CALLS_MARKER} [{{"name": "function_name", "arguments": {{"argument_name": "value"}}}}]
To call several functions at once, put several objects into the list. Arguments must match the \
JSON schema in "parameters". You will be given the results after {RESULTS_MARKER}; use them to \
answer. If no function is needed, answer in plain text.
Functions, one per line:"""


def describe_tools(tools: Sequence[ToolDefinition]) -> str:
    """Return the text that tells a v1 model which functions there are and how to call them."""
    lines = (_json(tool.as_openai()["function"]) for tool in tools)
    return "\n".join([_INSTRUCTIONS, *lines])


def calls_text(calls: Sequence[dict[str, Any]]) -> str:
    """Return the calls of one assistant message as that model would have written them."""
    functions = [
        {
            "name": call["function"]["name"],
            "arguments": parsed_or_text(call["function"]["arguments"]),
        }
        for call in calls
    ]
    return f"{CALLS_MARKER} {_json(functions)}"


def to_plain_turns(
    messages: Sequence[dict[str, Any]], tools: Sequence[ToolDefinition]
) -> list[dict[str, Any]]:
    """Return linked messages without tool calls, tool results and tools, for the v1 template.

    Args:
        messages: Messages from ``link_messages``.
        tools: The functions to describe, in a system message behind those that begin the
            conversation; none adds no message.
    """
    num_system = 0
    while num_system < len(messages) and messages[num_system]["role"] == "system":
        num_system += 1
    turns = list(messages[:num_system])
    if tools:
        turns.append({"role": "system", "content": describe_tools(tools)})
    calls: list[dict[str, Any]] = []
    results: dict[str, Any] = {}
    for message in messages[num_system:]:
        if message["role"] == "tool":
            results[message["tool_call_id"]] = parsed_or_text(text_of(message))
            if len(results) == len(calls):
                turns.append({"role": "user", "content": _results_text(calls, results)})
                results = {}
            continue
        calls = message.get("tool_calls") or []
        turns.append(_calls_turn(message, calls) if calls else message)
    return turns


def _calls_turn(message: dict[str, Any], calls: Sequence[dict[str, Any]]) -> dict[str, Any]:
    text = text_of(message)
    content = f"{text}\n\n{calls_text(calls)}" if text else calls_text(calls)
    kept = {key: value for key, value in message.items() if key not in ("content", "tool_calls")}
    return {**kept, "content": content}


def _results_text(calls: Sequence[dict[str, Any]], results: dict[str, Any]) -> str:
    ordered = [{"name": call["function"]["name"], "content": results[call["id"]]} for call in calls]
    return f"{RESULTS_MARKER} {_json(ordered)}"


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
