"""The keywords of JSON Schema that need no look at other schemas, one function each.

What llguidance does differently from validators, and what is written for it instead:

==================  ===============================================================================
keyword             why it is not passed on as it is
==================  ===============================================================================
exclusiveMinimum,   0.99999999999999999999 is below 1, but read as a double it is 1. Fractions are
exclusiveMaximum    kept short then, see ``numbers``.
minimum, maximum    Bounds beyond 2**63 stop it; a narrower one is written.
multipleOf          Validators divide doubles: 0.07 / 0.01 is not whole. Only whole numbers and
                    fractions such as 0.5, which doubles hold exactly, can be promised.
minProperties       It counts a repeated free key twice. At most one free key can be demanded.
format, pattern     See ``formats`` and ``patterns``.
uniqueItems, ...    It has no way to hold them; refused here, with their place.
==================  ===============================================================================

A keyword that cannot apply, such as ``minLength`` beside ``"type": "integer"``, is left out.
"""

import math
from collections.abc import Callable
from decimal import ROUND_HALF_EVEN
from typing import Any

from mixtral.errors import InvalidRequest
from mixtral.structured.formats import FORMATS, REFUSED_FORMATS
from mixtral.structured.node import EXAMPLES, TYPES, Node, refuse, show
from mixtral.structured.numbers import (
    MAX_EXACT,
    has_multiple,
    read_bound,
    read_multiple_of,
    read_number,
    rounded,
)
from mixtral.structured.patterns import Pattern, PatternError, read_pattern

MAX_ITEMS = 10_000
"""Largest minItems, and items of an array with a maxItems, also where that is larger."""

MAX_MIN_LENGTH = 5_000
"""Largest minLength."""

MAX_LENGTH = 20_000
"""Characters of a string with a maxLength, also where that is larger."""

MAX_ENUM = 10_000
"""Values of an enumeration."""


def whole(regex: str) -> str:
    """Return a pattern of whole texts as the ``pattern`` that llguidance searches for."""
    return f"^(?:{regex})$"


def pattern_of(node: Node, key: str, pattern: Any) -> Pattern:
    """Read a pattern of a schema."""
    if not isinstance(pattern, str):
        refuse(node, key, f"is {show(pattern)}; it must be a string")
    try:
        return read_pattern(pattern)
    except PatternError as error:
        refuse(node, key, f"has {show(pattern)}, which {error}")


def types_of(schema: dict[str, Any], pointer: str) -> frozenset[str]:
    """Return the types that a schema's ``type`` allows, all where it has none."""
    value = schema.get("type", list(TYPES))
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list) or not names or any(name not in TYPES for name in names):
        raise InvalidRequest(
            f"the schema's type at {pointer}/type is {show(value)}; it must be one or a list of "
            f"{', '.join(TYPES)}"
        )
    return frozenset(names)


def read(node: Node, key: str, value: Any) -> None:
    """Read one keyword; one that JSON Schema does not know is an annotation."""
    reader = _READERS.get(key)
    if reader is not None:
        reader(node, key, value)


def finish(node: Node) -> None:
    """Check what depends on several keywords, and give plain texts a type."""
    out = node.out
    low = out.get("minProperties", 0)
    if low - len(out.get("required", ())) > 1:
        refuse(
            node,
            "minProperties",
            f"is {low}; beside the required properties at most one more can "
            "be demanded, because an answer may repeat a name",
        )
    if "multipleOf" in out:
        if set(out) & {"const", "enum", "allOf", "anyOf", "oneOf", "$ref"}:
            refuse(node, "multipleOf", "cannot be enforced beside const, enum, anyOf or $ref")
        if not has_multiple(out):
            refuse(node, "multipleOf", "has no multiple between the bounds")


def _type(node: Node, key: str, value: Any) -> None:
    node.out[key] = value


def _const(node: Node, key: str, value: Any) -> None:
    node.out[key] = _constant(node, key, value)


def _enum(node: Node, key: str, value: Any) -> None:
    if not isinstance(value, list) or not value:
        refuse(node, key, f"is {show(value)}; it must be a list of values")
    if len(value) > MAX_ENUM:
        refuse(node, key, f"has {len(value):,} values; {MAX_ENUM:,} are allowed")
    node.out[key] = [_constant(node, key, item) for item in value]


def _constant(node: Node, key: str, value: Any) -> Any:
    """Return a value in the spelling that llguidance writes exactly."""
    if isinstance(value, dict):
        return {_text(node, key, k): _constant(node, key, v) for k, v in value.items()}
    if isinstance(value, list):
        return [_constant(node, key, item) for item in value]
    if isinstance(value, str):
        return _text(node, key, value)
    if isinstance(value, (bool, type(None))):
        return value
    number = read_number(node, key, value, limit=MAX_EXACT)
    if isinstance(number, float) and rounded(number, ROUND_HALF_EVEN) != number:
        refuse(node, key, f"has {number}; fractions of up to 15 digits can be held")
    return number


def _text(node: Node, key: str, text: str) -> str:
    """Return a string that JSON can spell without naming characters by number."""
    for character in text:
        code = ord(character)
        is_control = (code < 32 and character not in "\b\f\n\r\t") or code == 127
        if is_control or 0xD800 <= code <= 0xDFFF:
            refuse(node, key, f"has the character U+{code:04X}, which answers cannot have")
    return text


def _length(node: Node, key: str, value: Any) -> None:
    number = _count(node, key, value)
    if not node.is_for("string"):
        return
    if key == "minLength" and number > MAX_MIN_LENGTH:
        refuse(node, key, f"is {number:,}; up to {MAX_MIN_LENGTH:,} can be held")
    node.out[key] = min(number, MAX_LENGTH)


def _item_count(node: Node, key: str, value: Any) -> None:
    number = _count(node, key, value)
    if not node.is_for("array"):
        return
    if key == "minItems" and number > MAX_ITEMS:
        refuse(node, key, f"is {number:,}; up to {MAX_ITEMS:,} can be held")
    node.out[key] = min(number, MAX_ITEMS)


def _property_count(node: Node, key: str, value: Any) -> None:
    number = _count(node, key, value)
    if node.is_for("object"):
        node.out[key] = min(number, MAX_ITEMS)


def _count(node: Node, key: str, value: Any) -> int:
    is_whole = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_whole or value != value or value < 0 or value in (math.inf,) or value != int(value):
        refuse(node, key, f"is {show(value)}; it must be a whole number from 0")
    return int(value)


def _pattern(node: Node, key: str, value: Any) -> None:
    pattern = pattern_of(node, key, value)
    if node.is_for("string"):
        _add_pattern(node, pattern)


def _format(node: Node, key: str, value: Any) -> None:
    if not isinstance(value, str):
        refuse(node, key, f"is {show(value)}; it must be a string")
    if not node.is_for("string"):
        return
    if value in REFUSED_FORMATS:
        refuse(node, key, f"is {value!r}, which cannot be enforced; leave it out")
    if value in FORMATS:
        _add_pattern(node, FORMATS[value])


def _add_pattern(node: Node, pattern: Pattern) -> None:
    facets: dict[str, Any] = {"pattern": whole(pattern.regex)}
    if pattern.examples:
        facets[EXAMPLES] = list(pattern.examples)
    if "pattern" in node.out:
        node.out.setdefault("allOf", []).append(facets)
    else:
        node.out.update(facets)


def _required(node: Node, key: str, value: Any) -> None:
    is_names = isinstance(value, list) and all(isinstance(name, str) for name in value)
    if not is_names:
        refuse(node, key, f"is {show(value)}; it must be a list of property names")
    if node.is_for("object") and value:
        node.out[key] = list(dict.fromkeys(value))


def _unique_items(node: Node, key: str, value: Any) -> None:
    if not isinstance(value, bool):
        refuse(node, key, f"is {show(value)}; it must be true or false")
    most = node.schema.get("maxItems")
    if value and node.is_for("array") and not (isinstance(most, int) and most <= 1):
        refuse(node, key, "cannot be enforced; leave it out and check the answer")


def _never(*types: str) -> Callable[[Node, str, Any], None]:
    """Make the reader of a keyword that cannot be held for answers of these types."""

    def read_never(node: Node, key: str, value: Any) -> None:
        if not node.is_for(*types) or value in _HARMLESS.get(key, ()):
            return
        refuse(
            node, key, "cannot be enforced; leave it out or express it with anyOf, enum or const"
        )

    return read_never


def _conditional(node: Node, key: str, value: Any) -> None:
    if key == "if" and ("then" in node.schema or "else" in node.schema):
        refuse(node, key, "cannot be enforced; write the cases with anyOf")


def _additional_items(node: Node, key: str, value: Any) -> None:
    is_read = isinstance(node.schema.get("items"), list) and node.draft <= 8
    if not is_read and "prefixItems" in node.schema and node.is_for("array"):
        refuse(node, key, "has no meaning beside prefixItems; use items")


def _unevaluated(node: Node, key: str, value: Any) -> None:
    if value is True or value == {} or not node.is_for("object", "array"):
        return
    refuse(node, key, "cannot be enforced; use additionalProperties or items")


# Values with which a keyword demands nothing.
_HARMLESS: dict[str, tuple[Any, ...]] = {
    "not": (False,),
    "propertyNames": (True, {}),
    "dependencies": ({},),
    "dependentRequired": ({},),
    "dependentSchemas": ({},),
}

_READERS: dict[str, Callable[[Node, str, Any], None]] = {
    "type": _type,
    "const": _const,
    "enum": _enum,
    "minimum": read_bound,
    "maximum": read_bound,
    "exclusiveMinimum": read_bound,
    "exclusiveMaximum": read_bound,
    "multipleOf": read_multiple_of,
    "minLength": _length,
    "maxLength": _length,
    "pattern": _pattern,
    "format": _format,
    "minItems": _item_count,
    "maxItems": _item_count,
    "minProperties": _property_count,
    "maxProperties": _property_count,
    "required": _required,
    "uniqueItems": _unique_items,
    "additionalItems": _additional_items,
    "unevaluatedItems": _unevaluated,
    "unevaluatedProperties": _unevaluated,
    "if": _conditional,
    "not": _never(*TYPES),
    "contains": _never("array"),
    "propertyNames": _never("object"),
    "dependencies": _never("object"),
    "dependentRequired": _never("object"),
    "dependentSchemas": _never("object"),
    "extends": _never(*TYPES),
    "disallow": _never(*TYPES),
    "divisibleBy": _never("number", "integer"),
    "$dynamicRef": _never(*TYPES),
    "$recursiveRef": _never(*TYPES),
}

KNOWN = frozenset(_READERS) | {
    "$ref",
    "additionalProperties",
    "allOf",
    "anyOf",
    "items",
    "oneOf",
    "patternProperties",
    "prefixItems",
    "properties",
}
"""Keywords that say something about an answer."""
