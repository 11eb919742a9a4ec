"""Guess the shortest text of a schema, and what the parts of it cost.

The closing of an answer (``grammar``) starts from the shortest text, and ``max_jump`` from the
price of the largest part that one token can begin. Both are guesses from the checked schema: the
text is tried on the grammar before it is used. Recursive schemas are solved by repetition: at first
no definition has a text, then those that need no other have one, and so on. A definition that never
gets one demands itself, so it has no finite text at all. Keywords beside ``$ref`` are joined anew
at each place, which can be exponential, so the work is counted and given up in time.
"""

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from mixtral.structured.node import EXAMPLES, TYPES

_MAX_ROUNDS = 40
_MAX_DEPTH = 80
_MAX_LENGTH = 20_000
_MAX_WORK = 20_000


class ShortestTexts:
    """Short texts of one checked schema and of all schemas inside it."""

    def __init__(self, schema: Mapping[str, Any]) -> None:
        """Solve the definitions."""
        self._schema = schema
        self._work_left = _MAX_WORK
        self._definitions: Mapping[str, Any] = schema.get("$defs", {})
        self._texts: dict[str, str] = {}
        for _ in range(_MAX_ROUNDS):
            if not self._improve():
                break
        self._is_solved = self._work_left > 0
        self._work_left = _MAX_WORK

    @property
    def is_complete(self) -> bool:
        """Whether there was time for all parts; known when they have been asked for."""
        return self._is_solved and self._work_left > 0

    def whole(self) -> str | None:
        """Return a short text of the schema, or None when none was found."""
        return self._text(self._schema, 0)

    def parts(self) -> Iterator[str]:
        """Return what an answer may have to write once one token of it was chosen."""
        stack: list[Any] = [self._schema, *self._definitions.values()]
        while stack:
            node = stack.pop()
            if not isinstance(node, dict):
                continue
            text = self._text(node, 0)
            if text is not None:
                yield text
            if "enum" in node:
                yield max((_dump(value) for value in node["enum"]), key=len)
            for name, inner in node.get("properties", {}).items():
                yield f"{_dump(name)}:{self._text(inner, 0) or ''}"
            stack.extend(inner_schemas(node))

    def examples(self) -> list[str]:
        """Return texts of the strings that have a pattern, each pattern's shortest first."""
        found: dict[str, None] = {}
        stack: list[Any] = [self._schema, *self._definitions.values()]
        while stack:
            node = stack.pop()
            if isinstance(node, dict):
                found.update(dict.fromkeys(node.get(EXAMPLES, ())))
                stack.extend(inner_schemas(node))
        return list(found)

    def _improve(self) -> bool:
        is_better = False
        for name, node in self._definitions.items():
            text = self._text(node, 0)
            known = self._texts.get(name)
            if text is not None and (known is None or len(text) < len(known)):
                self._texts[name] = text
                is_better = True
        return is_better

    def _text(self, node: Any, depth: int) -> str | None:
        self._work_left -= 1
        if self._work_left <= 0:
            return None
        for _ in range(_MAX_DEPTH - depth):
            if node is True or node == {}:
                return "0"
            if node is False:
                return None
            if "$ref" in node:
                name = node["$ref"].removeprefix("#/$defs/")
                rest = {k: v for k, v in node.items() if k not in ("$ref", "$defs")}
                if not rest:
                    return self._texts.get(name)
                node = _both(rest, self._definitions.get(name, True))
            elif "allOf" in node:
                first, *others = node["allOf"]
                rest = {k: v for k, v in node.items() if k != "allOf"}
                node = _both({**rest, "allOf": others} if others else rest, first)
            else:
                return self._plain_text(node, depth)
        return None

    def _plain_text(self, node: dict[str, Any], depth: int) -> str | None:
        types = _types(node)
        if "const" in node or "enum" in node:
            values = [node["const"]] if "const" in node else node["enum"]
            return _least(_dump(value) for value in values if _type_of(value) in types)
        for key in ("anyOf", "oneOf"):
            if key in node:
                rest = {k: v for k, v in node.items() if k not in (key, "$defs")}
                return _least(self._text(_both(rest, inner), depth + 1) for inner in node[key])
        return _least(self._of_type(name, node, depth) for name in sorted(types))

    def _of_type(self, name: str, node: dict[str, Any], depth: int) -> str | None:
        if name == "object":
            return self._object(node, depth)
        if name == "array":
            return self._array(node, depth)
        if name == "string":
            return _string(node)
        if name == "number":
            return _number(node)
        return {"null": "null", "boolean": "true"}[name]

    def _object(self, node: dict[str, Any], depth: int) -> str | None:
        properties = node.get("properties", {})
        names = [name for name in properties if name in node.get("required", ())]
        names += [name for name in node.get("required", ()) if name not in properties]
        others = node.get("additionalProperties", True)
        if len(names) < node.get("minProperties", 0):
            names += [name for name in [*properties, "a", "b"] if name not in names][:1]
        parts, length = [], 0
        for name in names:
            text = self._text(properties.get(name, others), depth + 1)
            if text is None:
                return None
            parts.append(f"{_dump(name)}:{text}")
            length += len(parts[-1])
            if length > _MAX_LENGTH:
                return None
        return "{" + ",".join(parts) + "}"

    def _array(self, node: dict[str, Any], depth: int) -> str | None:
        prefix = node.get("prefixItems", [])
        parts: list[str] = []
        length = 0
        for index in range(node.get("minItems", 0)):
            item = prefix[index] if index < len(prefix) else node.get("items", True)
            text = parts[-1] if index > len(prefix) else self._text(item, depth + 1)
            if text is None:
                return None
            parts.append(text)
            length += len(text)
            if length > _MAX_LENGTH:
                return None
        return "[" + ",".join(parts) + "]"


def _least(texts: Iterable[str | None]) -> str | None:
    return min((text for text in texts if text is not None), key=len, default=None)


def _dump(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _type_of(value: Any) -> str:
    if value is None:
        return "null"
    names = {bool: "boolean", dict: "object", list: "array", str: "string"}
    return names.get(type(value), "number")


def _types(node: Mapping[str, Any]) -> set[str]:
    """Return the allowed types; a whole number counts as a number."""
    names = node.get("type", TYPES)
    types = {names} if isinstance(names, str) else set(names)
    return {"number" if name == "integer" else name for name in types}


def _both(one: Mapping[str, Any], other: Any) -> dict[str, Any]:
    """Join two schemas; where both say the same keyword, guess the stricter."""
    if not isinstance(other, dict):
        return {**one, "enum": []} if other is False else dict(one)
    joined = dict(one)
    for key, value in other.items():
        mine = joined.get(key)
        if mine is None:
            joined[key] = value
        elif key in ("required", "allOf"):
            joined[key] = [*mine, *(item for item in value if item not in mine)]
        elif key == "properties":
            joined[key] = {
                **mine,
                **{k: {"allOf": [mine[k], v]} if k in mine else v for k, v in value.items()},
            }
        elif key in ("minimum", "minLength", "minItems", "minProperties"):
            joined[key] = max(mine, value)
        elif key in ("maximum", "maxLength", "maxItems", "maxProperties"):
            joined[key] = min(mine, value)
        elif key == "type":
            joined[key] = sorted(_types({"type": mine}) & _types({"type": value}))
        elif key in ("anyOf", "oneOf"):
            joined["allOf"] = [*joined.get("allOf", []), {key: value}]
    return joined


def _string(node: Mapping[str, Any]) -> str | None:
    low, high = int(node.get("minLength", 0)), node.get("maxLength", math.inf)
    examples = node.get(EXAMPLES, [""])
    text = next((e for e in examples if low <= len(e) <= high), str(examples[-1]))
    if len(text) < low:
        text += (text[-1:] or "a") * (low - len(text))
    return _dump(text) if len(text) <= high else None


def _number(node: Mapping[str, Any]) -> str | None:
    low = node.get("minimum", -math.inf)
    high = node.get("maximum", math.inf)
    if "exclusiveMinimum" in node:
        low = max(low, math.floor(node["exclusiveMinimum"]) + 1)
    if "exclusiveMaximum" in node:
        high = min(high, math.ceil(node["exclusiveMaximum"]) - 1)
    step = node.get("multipleOf", 1)
    if low <= 0 <= high:
        return "0"
    value = math.ceil(low / step) * step if low > 0 else math.floor(high / step) * step
    return _dump(value if low <= value <= high else low)


def inner_schemas(node: Mapping[str, Any]) -> Iterator[Any]:
    """Return the schemas right inside a checked schema, those behind references left out."""
    for key in ("additionalProperties", "items"):
        if key in node:
            yield node[key]
    for key in ("allOf", "anyOf", "oneOf", "prefixItems"):
        yield from node.get(key, ())
    for key in ("patternProperties", "properties"):
        yield from node.get(key, {}).values()
