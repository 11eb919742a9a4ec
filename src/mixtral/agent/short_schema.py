"""The schema of a tool without what a model need not read: it goes into every prompt."""

from collections.abc import Mapping
from typing import Any

# Schemas are inside these by name, so "title" there is a property and not an annotation.
_MAPS_OF_SCHEMAS = frozenset(
    {
        "$defs",
        "definitions",
        "dependencies",
        "dependentRequired",
        "dependentSchemas",
        "patternProperties",
        "properties",
    }
)
_DATA = frozenset({"const", "default", "enum", "examples"})
# Titles repeat names. Duplicates are for the check of a call: no grammar can count them, and an
# answer held to this schema must be one that a grammar can hold.
_LEFT_OUT = frozenset({"title", "uniqueItems"})


def short_schema(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return a schema without titles and ``uniqueItems``; everything else stays.

    >>> short_schema({"title": "F", "properties": {"title": {"title": "Title", "type": "string"}}})
    {'properties': {'title': {'type': 'string'}}}
    """
    short: dict[str, Any] = {}
    for key, value in schema.items():
        if key in _MAPS_OF_SCHEMAS and isinstance(value, Mapping):
            short[key] = {name: _part(part) for name, part in value.items()}
        elif key not in _LEFT_OUT:
            short[key] = value if key in _DATA else _part(value)
    return short


def _part(value: Any) -> Any:
    if isinstance(value, list):
        return [_part(part) for part in value]
    return short_schema(value) if isinstance(value, Mapping) else value
