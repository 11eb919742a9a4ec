"""What a tool is: a name, what a model is told of it, a check of arguments, and a call.

A Python function becomes one in ``function_tool``, a tool of an MCP server in ``mcp_tools``. Any
other is made by hand, from a JSON schema and a callable that takes the arguments as a dictionary.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, Protocol

from mixtral.errors import ConfigError
from mixtral.tokenizer.chat import check_strings
from mixtral.tools.definitions import MAX_TOOLS, TOOL_NAME, openai_tool


class ArgumentsError(Exception):
    """Arguments that a tool cannot take; the message is for the model that made them."""


class ToolError(Exception):
    """A tool failed, and its message alone says all that the model should read."""


class ToolTimeout(ToolError):
    """A tool took longer than it may, and has given up by itself."""


class Check(Protocol):
    """Turns the arguments of a call into what the tool is called with."""

    def __call__(self, arguments: Mapping[str, Any], /) -> dict[str, Any]:
        """Return the arguments as the tool takes them.

        Raises:
            ArgumentsError: They are not what the schema says.
        """


@dataclass(frozen=True, kw_only=True, slots=True)
class Tool:
    """Something that a model may call.

    Raises:
        ConfigError: The name has other characters than a-z, A-Z, 0-9, _ and -, or over 64.
    """

    name: str
    """What the model calls it."""
    description: str
    """What it does and when to call it."""
    parameters: dict[str, Any]
    """JSON schema of the arguments, an object."""
    run: Callable[[dict[str, Any]], Any]
    """Does the work, with checked arguments, on a thread of its own. What it returns is written as
    JSON for the model, a text as it is; an exception becomes one line for the model."""
    check: Check | None = None
    """Checks the arguments; None holds them to ``parameters``."""

    def __post_init__(self) -> None:
        """Check the name, which is the only field that a model could not be given."""
        if not TOOL_NAME.fullmatch(self.name):
            raise ConfigError(
                f"a tool is named {self.name!r}; a name has 1 to 64 of the characters a-z, A-Z, "
                "0-9, _ and -."
            )

    def checked(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments as ``run`` takes them.

        Raises:
            ArgumentsError: They are not what the schema says.
        """
        if self.check is not None:
            return self.check(arguments)
        return checked_by_schema(arguments, self.parameters)

    def as_openai(self) -> dict[str, Any]:
        """Return the tool as a request spells it."""
        return openai_tool(self.name, self.description, self.parameters)


def by_name(tools: Sequence[Tool]) -> dict[str, Tool]:
    """Return tools by their names, in their order.

    Raises:
        ConfigError: Two have the same name, or there are too many.
    """
    if len(tools) > MAX_TOOLS:
        raise ConfigError(f"there are {len(tools)} tools; an agent may have {MAX_TOOLS}.")
    named: dict[str, Tool] = {}
    for tool in tools:
        if tool.name in named:
            raise ConfigError(
                f"two tools are named {tool.name!r}; each needs a name of its own: rename one, or "
                "give the tools of a server a prefix."
            )
        named[tool.name] = tool
    return named


def allowed_name(name: str) -> str:
    """Return a name that a tool may have: other characters replaced, and at most 64.

    >>> allowed_name("text.reverse")
    'text_reverse'
    """
    return re.sub(r"[^a-zA-Z0-9_-]", "_", name)[:64] or "_"


def parse_arguments(text: str) -> dict[str, Any]:
    """Read the arguments of a call, a JSON object; an empty text is an object without members.

    Raises:
        ArgumentsError: They are something else, or hold what no conversation can: NaN, Infinity,
            or half of a surrogate pair.
    """
    try:
        arguments = json.loads(text, parse_constant=_refuse_constant) if text.strip() else {}
        check_strings(arguments, name="the text")
    except (ValueError, RecursionError) as error:
        raise ArgumentsError(f"the arguments are not JSON: {error}") from None
    if not isinstance(arguments, dict):
        kind = type(arguments).__name__
        raise ArgumentsError(f"the arguments are a {kind}; they must be a JSON object")
    return arguments


def checked_by_schema(
    arguments: Mapping[str, Any], parameters: Mapping[str, Any]
) -> dict[str, Any]:
    """Return arguments that a JSON schema allows, as they are.

    Raises:
        ArgumentsError: It does not, or it is no schema.
    """
    # Imported here: it takes longer than everything else that an agent imports.
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import SchemaError, best_match
    from jsonschema.validators import validator_for
    from jsonschema_specifications import REGISTRY

    try:
        kind = validator_for(parameters, Draft202012Validator)
        # With a registry of its own, nothing that a schema refers to is fetched from an address.
        validator = kind(parameters, registry=REGISTRY)
        error = best_match(validator.iter_errors(dict(arguments)))
    except SchemaError as problem:
        raise ArgumentsError(f"the tool's own schema is wrong: {problem.message}") from None
    if error is not None:
        where = ".".join(str(part) for part in error.absolute_path)
        raise ArgumentsError(f"{where}: {error.message}" if where else error.message)
    return dict(arguments)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")
