"""A Python function as a tool: its schema from type hints and docstring, its arguments checked.

    def weather(city: str, days: Annotated[int, Field(ge=1, le=7)] = 1) -> dict[str, float]: ...

with a docstring that says under "Args" what the two are, becomes for the model

    {"type": "object", "properties": {"city": {"type": "string", "description": "Name in English."},
     "days": {"type": "integer", "minimum": 1, "maximum": 7, "default": 1,
              "description": "How far ahead."}},
     "required": ["city"], "additionalProperties": false}

pydantic does both: one model of all parameters gives the schema and validates each call, so the two
cannot disagree. What pydantic knows works: ``Annotated``, ``Literal``, ``Optional``, enums, dates,
dataclasses, models within models. Functions with ``async def`` run in an event loop of their own.
"""

import asyncio
import inspect
import json
from collections.abc import Callable, Mapping
from functools import partial
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model
from pydantic.errors import PydanticUndefinedAnnotation, PydanticUserError
from pydantic.fields import FieldInfo
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import PydanticSerializationError

from mixtral.agent.docstrings import read_docstring
from mixtral.agent.short_schema import short_schema
from mixtral.agent.tool import ArgumentsError, Tool
from mixtral.errors import ConfigError

_Kind = inspect.Parameter


class _Schema(GenerateJsonSchema):
    """Leaves a default that JSON cannot spell out of the schema, where pydantic also warns."""

    ignored_warning_kinds = frozenset({"skipped-choice", "non-serializable-default"})  # type: ignore[assignment]

    def encode_default(self, dft: Any) -> Any:
        """Return a default as JSON; infinity and NaN have no form in it."""
        encoded = super().encode_default(dft)
        try:
            json.dumps(encoded, allow_nan=False)
        except ValueError as error:
            raise PydanticSerializationError(f"{error}") from None
        return encoded


def function_tool(function: Callable[..., Any], *, name: str | None = None) -> Tool:
    """Return a function as a tool.

    Args:
        function: Every parameter has a type hint; neither ``*args`` nor ``**kwargs``.
        name: What the model calls it; None takes the function's own name.

    Raises:
        ConfigError: A parameter has no hint, or one that JSON cannot spell; or the name is none
            that a model can say, as that of a lambda.
    """
    if not callable(function):
        kind = type(function).__name__
        raise ConfigError(f"a tool is a {kind}; it must be a function with type hints, or a Tool.")
    called = name or str(getattr(function, "__name__", type(function).__name__))
    docs = read_docstring(inspect.getdoc(function))
    model = _arguments_model(function, called, docs.arguments)
    names = [field.alias or key for key, field in model.model_fields.items()]
    return Tool(
        name=called,
        description=docs.text,
        parameters=_schema(model, called),
        run=partial(_run, function),
        check=partial(_checked, model, names),
    )


def _arguments_model(
    function: Callable[..., Any], name: str, docs: Mapping[str, str]
) -> type[BaseModel]:
    # What is called may be an instance; its hints are those of its method.
    hinted = function if inspect.isroutine(function) else type(function).__call__
    try:
        hints = get_type_hints(hinted, include_extras=True)
        parameters = inspect.signature(function).parameters
    except (NameError, TypeError, ValueError) as error:
        raise ConfigError(f"the type hints of {name} cannot be read: {error}.") from error
    fields: dict[str, Any] = {}
    for place, (key, parameter) in enumerate(parameters.items()):
        _check_parameter(name, parameter, hints)
        default = ... if parameter.default is _Kind.empty else parameter.default
        description = _description(hints[key]) or docs.get(key)
        # Not under its own name: pydantic keeps some, such as "json" and all with an underscore.
        fields[f"p{place}"] = (hints[key], Field(default, alias=key, description=description))
    try:
        config = ConfigDict(extra="forbid")
        return create_model("Arguments", __config__=config, **fields)
    except (PydanticUndefinedAnnotation, PydanticUserError, TypeError) as error:
        raise ConfigError(
            f"the type hints of {name} cannot be checked: {_first_line(error)}"
        ) from error


def _check_parameter(name: str, parameter: inspect.Parameter, hints: Mapping[str, Any]) -> None:
    if parameter.kind in (_Kind.VAR_POSITIONAL, _Kind.VAR_KEYWORD):
        raise ConfigError(
            f"{name} takes {parameter}; a tool names all its arguments, so write them out."
        )
    if parameter.kind is _Kind.POSITIONAL_ONLY:
        raise ConfigError(
            f"{name} takes {parameter.name} by position only; a model gives arguments by name: "
            "leave out the / in its signature."
        )
    if parameter.name not in hints:
        raise ConfigError(
            f"{name} has no type hint for {parameter.name}; a model must be told what it is: "
            f"write {parameter.name}: str, or another type."
        )
    if isinstance(parameter.default, FieldInfo):
        raise ConfigError(
            f"{name} has Field(...) as the default of {parameter.name}, which Python would hand to "
            f"it as it is; write {parameter.name}: Annotated[..., Field(...)]."
        )


def _description(hint: Any) -> str | None:
    """Return the text in ``Annotated[int, "how many"]``, or of a ``Field`` in its place."""
    if get_origin(hint) is not Annotated:
        return None
    for extra in get_args(hint)[1:]:
        text = extra.description if isinstance(extra, FieldInfo) else extra
        if isinstance(text, str):
            return text
    return None


def _schema(model: type[BaseModel], name: str) -> dict[str, Any]:
    try:
        schema = model.model_json_schema(by_alias=True, schema_generator=_Schema)
    except PydanticUserError as error:
        raise ConfigError(
            f"an argument of {name} has a type that JSON cannot spell: {_first_line(error)}"
        ) from error
    return short_schema(schema)


def _checked(
    model: type[BaseModel], names: list[str], arguments: Mapping[str, Any]
) -> dict[str, Any]:
    try:
        valid = model.model_validate(dict(arguments))
    except ValidationError as error:
        raise ArgumentsError(_problems(error)) from None
    # Values, not a dump: an argument that is a model arrives as one.
    return {name: getattr(valid, f"p{place}") for place, name in enumerate(names)}


def _problems(error: ValidationError) -> str:
    lines = []
    for problem in error.errors(include_url=False, include_context=False, include_input=False):
        where = ".".join(str(part) for part in problem["loc"])
        lines.append(f"{where}: {problem['msg']}" if where else problem["msg"])
    return "; ".join(lines)


def _run(function: Callable[..., Any], arguments: dict[str, Any]) -> Any:
    result = function(**arguments)
    return asyncio.run(_awaited(result)) if inspect.isawaitable(result) else result


async def _awaited(result: Any) -> Any:
    return await result


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0].rstrip(".") + "."
