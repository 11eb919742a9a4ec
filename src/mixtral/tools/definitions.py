"""Which functions a request offers, and which of them the answer may or must call.

Tools and ``tool_choice`` come in OpenAI's spelling, which is Mistral's too, with Mistral's "any"
for "required". Everything is checked here, before the request costs anything; whether the answer
can be held to a schema is found out where its grammar is made.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from mixtral.errors import InvalidRequest
from mixtral.tokenizer.chat import check_strings

MAX_TOOLS = 128
"""Tools of one request, as OpenAI limits them."""

TOOL_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
"""What a tool may be called, as Mistral and OpenAI limit it."""

_TOOL_KEYS = frozenset({"type", "function"})
_FUNCTION_KEYS = frozenset({"name", "description", "parameters", "strict"})
_ChoiceWord = Literal["none", "auto", "any", "required"]
_NO_ARGUMENTS = {"type": "object", "properties": {}, "additionalProperties": False}


def openai_tool(name: str, description: str, parameters: dict[str, Any]) -> dict[str, Any]:
    """Return a function as a request spells it."""
    function = {"name": name, "description": description, "parameters": parameters}
    return {"type": "function", "function": function}


@dataclass(frozen=True, kw_only=True, slots=True)
class ToolDefinition:
    """One function that the model may call."""

    index: int
    """Its place in the request's ``tools``, for messages."""
    name: str
    """Its name."""
    description: str
    """What it does, in words; may be empty."""
    parameters: dict[str, Any]
    """JSON schema of its arguments as the client wrote it; {} where there was none."""

    @property
    def schema(self) -> dict[str, Any]:
        """The schema that arguments must satisfy: without ``parameters`` there are none."""
        return self.parameters or _NO_ARGUMENTS

    def as_openai(self) -> dict[str, Any]:
        """Return the tool in the spelling of the chat template."""
        return openai_tool(self.name, self.description, self.parameters)


@dataclass(frozen=True, kw_only=True, slots=True)
class ToolChoice:
    """Whether the answer may or must call, and what."""

    mode: Literal["none", "auto", "required"]
    """No calls, the model's choice, or at least one call."""
    name: str | None = None
    """The one function that must be called, where the request names it."""


def read_tools(tools: object) -> list[ToolDefinition]:
    """Check the ``tools`` of a request; None and an empty list are no tools.

    Raises:
        InvalidRequest: The list, a tool, a name or the type of a field is wrong, a name comes
            twice, or there are more than ``MAX_TOOLS``.
    """
    if tools is None:
        return []
    if not isinstance(tools, Sequence) or isinstance(tools, str | bytes):
        raise InvalidRequest(f"tools has type {type(tools).__name__}; it must be a list of tools")
    if len(tools) > MAX_TOOLS:
        raise InvalidRequest(f"tools has {len(tools)} entries; a request may have {MAX_TOOLS}")
    definitions = [_read_tool(tool, index) for index, tool in enumerate(tools)]
    first: dict[str, int] = {}
    for tool in definitions:
        if tool.name in first:
            raise InvalidRequest(
                f"tools[{tool.index}].function.name is {tool.name!r}, which tools"
                f"[{first[tool.name]}] has too; each function needs a name of its own"
            )
        first[tool.name] = tool.index
    return definitions


def read_choice(tool_choice: object, tools: Sequence[ToolDefinition]) -> ToolChoice:
    """Check the ``tool_choice`` of a request; None is "auto".

    Raises:
        InvalidRequest: It is none of the known forms, names a function that is not in ``tools``,
            or asks for a call where there are no tools.
    """
    if tool_choice is None:
        return ToolChoice(mode="auto" if tools else "none")
    if isinstance(tool_choice, Mapping):
        return _named_choice(tool_choice, tools)
    if not isinstance(tool_choice, str) or tool_choice not in get_args(_ChoiceWord):
        raise InvalidRequest(
            f"tool_choice is {tool_choice!r}; it must be 'none', 'auto', 'any', 'required', or "
            '{"type": "function", "function": {"name": ...}}'
        )
    if tool_choice in ("any", "required"):
        if not tools:
            raise InvalidRequest(
                f"tool_choice is {tool_choice!r}, but the request has no tools to call; add tools "
                "or use 'auto'"
            )
        return ToolChoice(mode="required")
    return ToolChoice(mode="auto" if tool_choice == "auto" and tools else "none")


def read_parallel(parallel_tool_calls: object) -> bool:
    """Check ``parallel_tool_calls``; None is true.

    Raises:
        InvalidRequest: It is no boolean.
    """
    if parallel_tool_calls is None:
        return True
    if not isinstance(parallel_tool_calls, bool):
        raise InvalidRequest(
            f"parallel_tool_calls is {parallel_tool_calls!r}; it must be true or false"
        )
    return parallel_tool_calls


def _read_tool(tool: object, index: int) -> ToolDefinition:
    where = f"tools[{index}]"
    function = tool.get("function") if isinstance(tool, Mapping) else None
    if not isinstance(tool, Mapping) or not isinstance(function, Mapping):
        raise InvalidRequest(
            f'{where} must be of the form {{"type": "function", "function": '
            f'{{"name": ..., "description": ..., "parameters": {{...}}}}}}'
        )
    if tool.get("type") not in (None, "function"):
        raise InvalidRequest(f"{where}.type is {tool['type']!r}; the only type is 'function'")
    _refuse_unknown(tool, _TOOL_KEYS, where)
    _refuse_unknown(function, _FUNCTION_KEYS, f"{where}.function")
    check_strings(tool, name=where)
    name = function.get("name")
    if not isinstance(name, str) or not TOOL_NAME.fullmatch(name):
        raise InvalidRequest(
            f"{where}.function.name is {name!r}; it must have 1 to 64 of the characters "
            "a-z, A-Z, 0-9, _ and -"
        )
    description = function.get("description")
    if description is not None and not isinstance(description, str):
        kind = type(description).__name__
        raise InvalidRequest(f"{where}.function.description has type {kind}; it must be a string")
    if not isinstance(function.get("strict"), bool | None):
        raise InvalidRequest(
            f"{where}.function.strict is {function['strict']!r}; it must be true or false"
        )
    return ToolDefinition(
        index=index,
        name=name,
        description=description or "",
        parameters=_read_parameters(function.get("parameters"), f"{where}.function.parameters"),
    )


def _read_parameters(parameters: object, where: str) -> dict[str, Any]:
    if parameters is None:
        return {}
    if not isinstance(parameters, Mapping):
        kind = type(parameters).__name__
        raise InvalidRequest(f'{where} has type {kind}; it must be a JSON schema, {{"type": ...}}')
    if parameters and parameters.get("type", "object") != "object":
        raise InvalidRequest(
            f"{where}.type is {parameters['type']!r}; arguments are an object, so it must be "
            "'object'"
        )
    return dict(parameters)


def _named_choice(choice: Mapping[str, Any], tools: Sequence[ToolDefinition]) -> ToolChoice:
    function = choice.get("function")
    name = function.get("name") if isinstance(function, Mapping) else None
    is_known = choice.get("type") in (None, "function") and isinstance(function, Mapping)
    if not is_known or not isinstance(name, str) or {*choice} - {"type", "function"}:
        raise InvalidRequest(
            "tool_choice is an object; the only form of it is "
            '{"type": "function", "function": {"name": ...}}'
        )
    if name not in {tool.name for tool in tools}:
        names = ", ".join(tool.name for tool in tools) or "none"
        raise InvalidRequest(
            f"tool_choice names the function {name!r}, which is not in tools; tools has: {names}"
        )
    return ToolChoice(mode="required", name=name)


def _refuse_unknown(source: Mapping[str, Any], known: frozenset[str], where: str) -> None:
    for key, value in source.items():
        if value is not None and key not in known:
            allowed = ", ".join(sorted(known))
            raise InvalidRequest(f"{where} has the unknown key {key!r}; the keys are {allowed}")
