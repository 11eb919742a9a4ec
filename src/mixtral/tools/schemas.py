"""Moves the schema of a function's arguments to its place inside the schema of all calls.

Three things change on the way, none of which lets in arguments that the client's schema forbids:

* a ``$ref`` to the root of the parameters, ``#/$defs/city``, is led to its new place;
* what JSON Schema before draft 2020-12 spelled otherwise is spelled anew, because a schema has one
  draft and tools of several makers have several (``$schema`` of each tells);
* JSON Schema lets an object have members that it does not mention. A function that names its
  arguments cannot use others, so they are forbidden wherever that is certain to leave valid
  arguments: in objects that name all that they require and have no other keyword about members.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

_ONE_SCHEMA = frozenset(
    {
        "additionalItems",
        "additionalProperties",
        "contains",
        "else",
        "if",
        "items",
        "not",
        "propertyNames",
        "then",
        "unevaluatedItems",
        "unevaluatedProperties",
    }
)
_LIST_OF_SCHEMAS = frozenset({"allOf", "anyOf", "oneOf", "prefixItems", "items"})
_MAP_OF_SCHEMAS = frozenset(
    {
        "$defs",
        "definitions",
        "dependencies",
        "dependentSchemas",
        "patternProperties",
        "properties",
    }
)
# Beside these, members that are not named are certain to be no part of the object.
_CLOSABLE_KEYWORDS = frozenset(
    {
        "$comment",
        "$defs",
        "$id",
        "$schema",
        "default",
        "definitions",
        "description",
        "examples",
        "properties",
        "required",
        "title",
        "type",
    }
)
_LAST_WITHOUT_REF_SIBLINGS = 7
_LAST_WITH_ITEMS_LIST = 8


def moved_schema(schema: Mapping[str, Any], root: str) -> dict[str, Any]:
    """Return a schema of draft 2020-12 that may stand at the JSON pointer ``root``.

    Args:
        schema: The parameters as the client wrote them.
        root: Where they will be, such as ``#/items/anyOf/0/properties/arguments``.

    Raises:
        RecursionError: It is nested too deeply.
    """
    is_self_contained = all(
        reference.startswith(("#/$defs/", "#/definitions/")) for reference in _references(schema)
    )
    closed = _closed(schema) if is_self_contained else schema
    moved: dict[str, Any] = _moved(closed, root, _draft_of(schema))
    return {key: value for key, value in moved.items() if key not in ("$schema", "$id", "id")}


def _draft_of(schema: Mapping[str, Any]) -> int:
    """Return 4, 6 or 7, 8 for 2019-09, or 9 for 2020-12, which is also that of no ``$schema``."""
    named = str(schema.get("$schema", ""))
    found = re.search(r"draft-0([467])\b", named)
    if found:
        return int(found[1])
    return 8 if "2019-09" in named else 9


def _moved(schema: Any, root: str, draft: int) -> Any:
    if not isinstance(schema, Mapping):
        return schema
    moved = _map_subschemas(schema, lambda subschema: _moved(subschema, root, draft))
    reference = moved.get("$ref")
    if isinstance(reference, str) and (reference == "#" or reference.startswith("#/")):
        moved["$ref"] = root + reference[1:]
    return _as_2020(moved, draft)


def _as_2020(schema: dict[str, Any], draft: int) -> dict[str, Any]:
    """Spell one schema of an older draft as 2020-12 does."""
    if draft <= _LAST_WITHOUT_REF_SIBLINGS and "$ref" in schema:
        return {k: v for k, v in schema.items() if k in ("$ref", "$defs", "definitions")}
    if draft <= _LAST_WITH_ITEMS_LIST and isinstance(schema.get("items"), list):
        schema["prefixItems"] = schema.pop("items")
        if "additionalItems" in schema:
            schema["items"] = schema.pop("additionalItems")
    if draft <= _LAST_WITHOUT_REF_SIBLINGS and isinstance(schema.get("dependencies"), Mapping):
        for name, needed in schema.pop("dependencies").items():
            is_list = isinstance(needed, Sequence)
            keyword = "dependentRequired" if is_list else "dependentSchemas"
            schema[keyword] = {**schema.get(keyword, {}), name: needed}
    for exclusive, bound in (("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum")):
        if draft == 4 and isinstance(schema.get(exclusive), bool):
            is_exclusive = schema.pop(exclusive)
            if is_exclusive and bound in schema:
                schema[exclusive] = schema.pop(bound)
    return schema


def _references(schema: Any) -> list[str]:
    """Return every ``$ref`` of a schema."""
    found: list[str] = []

    def look(subschema: Any) -> Any:
        if isinstance(subschema, Mapping):
            if isinstance(subschema.get("$ref"), str):
                found.append(subschema["$ref"])
            _map_subschemas(subschema, look)
        return subschema

    look(schema)
    return found


def _closed(schema: Any) -> Any:
    """Forbid members that are not named, in objects that name all they require."""
    if not isinstance(schema, Mapping):
        return schema
    closed = dict(schema)
    properties = schema.get("properties")
    if isinstance(properties, Mapping):
        closed["properties"] = {name: _closed(value) for name, value in properties.items()}
        required = schema.get("required")
        names = required if isinstance(required, Sequence) else ()
        if schema.keys() <= _CLOSABLE_KEYWORDS and all(
            isinstance(name, str) and name in properties for name in names
        ):
            closed["additionalProperties"] = False
    if isinstance(schema.get("items"), Mapping):
        closed["items"] = _closed(schema["items"])
    return closed


def _map_subschemas(schema: Mapping[str, Any], change: Callable[[Any], Any]) -> dict[str, Any]:
    """Return a schema with every schema right inside it changed; data such as enum stays."""
    changed = dict(schema)
    for key, value in schema.items():
        if key in _MAP_OF_SCHEMAS and isinstance(value, Mapping):
            changed[key] = {name: change(subschema) for name, subschema in value.items()}
        elif key in _LIST_OF_SCHEMAS and isinstance(value, list | tuple):
            changed[key] = [change(subschema) for subschema in value]
        elif key in _ONE_SCHEMA:
            changed[key] = change(value)
    return changed
