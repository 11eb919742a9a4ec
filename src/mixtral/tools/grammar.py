"""The list of calls as one JSON schema, and what checks arguments against theirs.

The list is an array of one kind of object per function:

    {"type": "array", "minItems": 1, "maxItems": 16, "items": {"anyOf": [
        {"type": "object", "properties": {"name": {"const": "get_weather"}, "arguments": {...}},
         "required": ["name", "arguments"], "additionalProperties": false}, ...]}}

with each function's ``parameters`` in the place of ``arguments`` (``schemas``), so that one grammar
decides the name, holds the arguments to the schema of that name, and closes everything when tokens
run out.
"""

import logging
from collections.abc import Iterator, Sequence
from typing import Any

from mixtral.errors import InvalidRequest
from mixtral.structured import Grammar, GrammarCompiler
from mixtral.tools.definitions import ToolDefinition
from mixtral.tools.reader import ArgumentsValidator
from mixtral.tools.schemas import moved_schema

logger = logging.getLogger(__name__)

MAX_CALLS = 16
"""Calls of one answer, so that a model that repeats itself comes to an end."""


def calls_grammar(
    compiler: GrammarCompiler, tools: Sequence[ToolDefinition], *, is_parallel: bool
) -> Grammar:
    """Return the grammar of a list of calls.

    Args:
        compiler: Makes it, and keeps it for the next request with the same tools.
        tools: At least one function that may be called.
        is_parallel: Whether the list may have up to ``MAX_CALLS`` calls, or exactly one.

    Raises:
        InvalidRequest: A schema has a keyword that cannot be enforced; the message names the tool.
    """
    try:
        items = [_call_schema(tool, f"#/items/anyOf/{i}") for i, tool in enumerate(tools)]
        schema = {
            "type": "array",
            "minItems": 1,
            "maxItems": MAX_CALLS if is_parallel else 1,
            "items": {"anyOf": items},
        }
        return compiler.json_schema(schema)
    except RecursionError:
        raise InvalidRequest("the parameters of a tool are nested too deeply") from None
    except InvalidRequest as error:
        for tool in tools:
            _name_the_tool(compiler, tool)
        raise InvalidRequest(f"tools cannot be called together: {error}") from error


def validator_of(tool: ToolDefinition) -> ArgumentsValidator:
    """Return what checks arguments of a function against the schema that the client wrote.

    It is a second look: the grammar has held the arguments to the schema already. So it does
    nothing that a client could use against others: no pattern runs in Python's ``re``, which some
    keep busy for hours, no reference is fetched from an address, and what cannot be checked passes.
    """
    # Imported here: it takes longer than everything else that a server without tools imports.
    from jsonschema import Draft202012Validator
    from jsonschema.validators import extend, validator_for
    from jsonschema_specifications import REGISTRY

    base = validator_for(tool.schema, Draft202012Validator)
    held = dict.fromkeys(_WITH_PATTERNS, _held_by_the_grammar)
    checked = extend(base, held)  # type: ignore[no-untyped-call]
    return _SecondLook(checked(tool.schema, registry=REGISTRY))


# Keywords that compare with patterns, or with what patterns have left over.
_WITH_PATTERNS = (
    "pattern", "patternProperties", "additionalProperties", "unevaluatedProperties",
)  # fmt: skip


def _held_by_the_grammar(*_: Any) -> Iterator[Any]:
    """Find nothing wrong; jsonschema asks for an iterator of errors."""
    return iter(())


class _SecondLook:
    """A validator that passes what it cannot judge.

    Args:
        validator: jsonschema's.
    """

    def __init__(self, validator: ArgumentsValidator) -> None:
        self._validator = validator

    def is_valid(self, instance: Any) -> bool:
        """Return True where the arguments satisfy the schema, or it makes no sense."""
        try:
            return self._validator.is_valid(instance)
        except Exception:  # Whatever a client's schema makes jsonschema stumble over.
            logger.debug("a schema of a tool cannot be checked", exc_info=True)
            return True


def _name_the_tool(compiler: GrammarCompiler, tool: ToolDefinition) -> None:
    """Compile the schema of one tool alone, for an error whose pointers are the client's."""
    try:
        compiler.json_schema(tool.schema)
    except InvalidRequest as error:
        raise InvalidRequest(f"tools[{tool.index}].function.parameters: {error}") from error


def _call_schema(tool: ToolDefinition, place: str) -> dict[str, Any]:
    arguments = moved_schema(tool.schema, f"{place}/properties/arguments")
    return {
        "type": "object",
        "properties": {"name": {"const": tool.name}, "arguments": {"type": "object", **arguments}},
        "required": ["name", "arguments"],
        "additionalProperties": False,
    }
