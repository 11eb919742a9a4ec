"""The ``response_format`` of a request, checked down to its last field."""

from collections.abc import Mapping
from typing import Any, Literal, cast

from mixtral.errors import InvalidRequest

Kind = Literal["text", "json_object", "json_schema", "regex", "choice"]

KINDS: tuple[Kind, ...] = ("text", "json_object", "json_schema", "regex", "choice")
"""Values of ``response_format.type``."""

_SCHEMA_FIELDS = ("name", "description", "schema", "schema_definition", "strict")


def read_response_format(response_format: Mapping[str, Any]) -> tuple[Kind, Any]:
    """Return what kind of answer is wanted, and its schema, pattern or choice, not yet checked.

    A field that is null counts as left out: Mistral's client sends all it knows.

    Raises:
        InvalidRequest: A field is missing, unknown, or of a wrong type.
    """
    fields = _object(response_format, "response_format")
    kind = fields.pop("type", None)
    if kind not in KINDS:
        raise InvalidRequest(
            f"response_format.type is {str(kind)[:60]!r}; it must be one of {', '.join(KINDS)}"
        )
    value = fields.pop(kind, None)
    if fields:
        raise InvalidRequest(
            f"response_format has {sorted(map(str, fields))[0][:60]!r}, which has no meaning "
            f"beside type {kind!r}; leave it out"
        )
    if kind in ("text", "json_object"):
        if value is not None:
            raise InvalidRequest(f"response_format has {kind!r}, which is no field; leave it out")
        return cast(Kind, kind), None
    if value is None:
        raise InvalidRequest(f"response_format has type {kind!r}, so it needs the field {kind!r}")
    return cast(Kind, kind), _schema_of(value) if kind == "json_schema" else value


def _schema_of(value: Any) -> Any:
    """Return the schema in ``json_schema``; ``schema_definition`` is Mistral's Python name."""
    name = "response_format.json_schema"
    fields = _object(value, name)
    unknown = sorted(str(key) for key in fields if key not in _SCHEMA_FIELDS)
    if unknown:
        raise InvalidRequest(
            f"{name} has {unknown[0][:60]!r}; its fields are name, description, schema and strict"
        )
    for key, kind in (("name", str), ("description", str), ("strict", bool)):
        if key in fields and not isinstance(fields[key], kind):
            raise InvalidRequest(
                f"{name}.{key} has type {type(fields[key]).__name__}; it must be a {kind.__name__}"
            )
    schemas = [fields[key] for key in ("schema", "schema_definition") if key in fields]
    if len(schemas) != 1:
        raise InvalidRequest(f"{name} needs one schema, in its field 'schema'")
    return schemas[0]


def _object(value: Any, name: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise InvalidRequest(f"{name} has type {type(value).__name__}; it must be an object")
    return {key: item for key, item in value.items() if item is not None}
