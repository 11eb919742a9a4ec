"""Read a JSON schema, refuse what cannot be held, and write the rest for the grammar engine.

llguidance compiles most of JSON Schema exactly, but not all of it: some keywords it refuses
without saying where, some it takes with a meaning that differs in corners from that of validators
(see ``keywords``), and formats of unknown name stop it. So every schema is read here first, keyword
by keyword. What comes out is a schema of few keywords with one meaning, in which every
``$ref`` is ``#/$defs/<number>``; a text that fits it is valid under the schema that came in. Where
that cannot be had, the error names the keyword and its JSON pointer.

The schema is read as Draft 2020-12, or as the older draft that its ``$schema`` names (04 to
2019-09). Keywords that JSON Schema does not know are annotations, as it demands; so are formats
with unknown names.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from mixtral.errors import InvalidRequest
from mixtral.structured import keywords
from mixtral.structured.limits import check_size, check_stack, check_unicode
from mixtral.structured.node import Node, refuse, show
from mixtral.structured.references import Place, References, escape

MAX_SCHEMAS = 20_000
"""Subschemas of one schema, those behind references counted once."""

# Keywords that llguidance may still refuse.
_JUDGED_LATER = (
    "$ref",
    "allOf",
    "maxProperties",
    "minProperties",
    "oneOf",
    "pattern",
    "patternProperties",
)

# Branches of oneOf inside each other that are written out where they are referred to.
_MAX_OPENED = 3

_DRAFT_NAMES = {"draft-04": 4, "draft-06": 6, "draft-07": 7, "2019-09": 8, "2020-12": 9}


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckedSchema:
    """A schema that can be held."""

    schema: dict[str, Any]
    """The same in the keywords that llguidance holds exactly."""
    is_exclusive: bool = False
    """Whether a number has an exclusive bound."""
    places: dict[str, list[tuple[str, dict[str, Any]]]] = field(default_factory=dict)
    """Of keywords that llguidance may still refuse: pointers, and the schemas that have them."""


def check_schema(schema: Mapping[str, Any] | bool, *, name: str = "the schema") -> CheckedSchema:
    """Return a schema that llguidance holds exactly and that allows nothing more.

    Args:
        schema: JSON Schema, as parsed from JSON.
        name: What to call it in errors.

    Raises:
        InvalidRequest: It is no valid schema, or has a keyword that cannot be held.
    """
    if not isinstance(schema, (Mapping, bool)):
        raise InvalidRequest(f"{name} has type {type(schema).__name__}; it must be an object")
    check_size(schema, name=name)
    check_unicode(schema, name=name)
    return _Reader(schema, name=name).read()


class _Reader:
    """Reads one schema."""

    def __init__(self, schema: Any, *, name: str) -> None:
        self._name = name
        self._root = dict(schema) if isinstance(schema, Mapping) else schema
        self.draft = _draft_of(self._root, name)
        self._references = References(self._root, is_draft4=self.draft == 4)
        self._definitions: dict[int, str] = {}
        self._waiting: list[tuple[str, Place]] = []
        self._num_schemas = 0
        self._opening: list[int] = []
        self._has_joins = False
        self._is_exclusive = False
        self._multiples: dict[float, Node] = {}
        self._places: dict[str, list[tuple[str, dict[str, Any]]]] = {}

    def read(self) -> CheckedSchema:
        root = self.schema(self._references.root)
        if root is False:
            raise InvalidRequest(f"{self._name} is false: no answer fits it")
        schema: dict[str, Any] = dict(root) if isinstance(root, dict) else {}
        definitions: dict[str, Any] = {}
        while self._waiting:
            name, place = self._waiting.pop()
            definitions[name] = self.schema(place)
        if definitions:
            schema["$defs"] = definitions
        self._check_multiples()
        check_stack(schema, name=self._name)
        return CheckedSchema(schema=schema, is_exclusive=self._is_exclusive, places=self._places)

    def schema(self, place: Place) -> dict[str, Any] | bool:
        """Read one schema and those inside it."""
        self._num_schemas += 1
        if self._num_schemas > MAX_SCHEMAS:
            raise InvalidRequest(f"{self._name} has more than {MAX_SCHEMAS:,} subschemas")
        value = place.schema
        if isinstance(value, bool):
            return value
        if not isinstance(value, dict):
            raise InvalidRequest(
                f"{self._name} has {json.dumps(value)[:60]} at {place.pointer or '/'}; a schema is "
                "an object, true or false"
            )
        node = Node(place=place, draft=self.draft, types=keywords.types_of(value, place.pointer))
        for key, argument in value.items():
            reader = _READERS.get(key)
            if reader is not None:
                reader(self, node, argument)
            else:
                keywords.read(node, key, argument)
        keywords.finish(node)
        self._note(node)
        return node.out

    def _note(self, node: Node) -> None:
        """Remember what is judged by the schema as a whole."""
        for key in _JUDGED_LATER:
            if key in node.out and (key != "$ref" or len(node.out) > 1):
                self._places.setdefault(key, []).append((node.place.pointer, node.out))
        self._has_joins |= "allOf" in node.out or ("$ref" in node.out and len(node.out) > 1)
        self._is_exclusive |= bool({"exclusiveMinimum", "exclusiveMaximum"} & set(node.out))
        step = node.out.get("multipleOf")
        if step is not None:
            self._multiples.setdefault(step, node)

    def _check_multiples(self) -> None:
        """Refuse multiples that llguidance would have to join with other keywords.

        It joins them in 32 bits without a check, and does not see when nothing is left.
        """
        product = 1.0
        for step, node in self._multiples.items():
            product *= step if isinstance(step, int) else step * 1024
            if self._has_joins or product >= 2**32:
                refuse(
                    node,
                    "multipleOf",
                    "cannot be enforced beside other multiples, allOf, or $ref with keywords "
                    "beside it",
                )

    def inner(self, node: Node, path: str, value: Any) -> dict[str, Any] | bool:
        """Read a schema that stands inside another."""
        place = node.place
        return self.schema(Place(schema=value, pointer=f"{place.pointer}/{path}", base=place.base))

    def one(self, node: Node, key: str, value: Any) -> None:
        """Read a keyword whose value is a schema."""
        node.out[key] = self.inner(node, key, value)

    def map(self, node: Node, key: str, value: Any) -> None:
        """Read a keyword whose value is an object of schemas."""
        if not isinstance(value, dict):
            refuse(node, key, f"is {show(value)}; it must be an object of schemas")
        node.out[key] = {
            name: self.inner(node, f"{key}/{escape(name)}", item) for name, item in value.items()
        }

    def patterns(self, node: Node, key: str, value: Any) -> None:
        """Read ``patternProperties``."""
        if not isinstance(value, dict):
            refuse(node, key, f"is {show(value)}; it must be an object of schemas")
        out: dict[str, Any] = {}
        for pattern, item in value.items():
            inner = self.inner(node, f"{key}/{escape(pattern)}", item)
            out[keywords.whole(keywords.pattern_of(node, key, pattern).regex)] = inner
        if len(out) < len(value):
            refuse(node, key, "has the same pattern twice in different spellings")
        if out:
            node.out[key] = out

    def schemas(self, node: Node, key: str, value: Any) -> None:
        """Read a keyword whose value is a list of schemas."""
        if not isinstance(value, list) or not value:
            refuse(node, key, f"is {show(value)}; it must be a list of schemas")
        schemas = [self.inner(node, f"{key}/{i}", item) for i, item in enumerate(value)]
        node.out.setdefault(key, []).extend(schemas)

    def one_of(self, node: Node, key: str, value: Any) -> None:
        """Read ``oneOf``; its branches without references, so that they can be compared."""
        if not isinstance(value, list) or not value:
            refuse(node, key, f"is {show(value)}; it must be a list of schemas")
        node.out[key] = [
            self._opened(self._at(node, f"{key}/{i}", item)) for i, item in enumerate(value)
        ]

    def items(self, node: Node, key: str, value: Any) -> None:
        """Read ``items``, in older drafts with the meaning of ``prefixItems``."""
        if not isinstance(value, list):
            self.one(node, key, value)
            return
        if self.draft > 8:
            refuse(
                node,
                key,
                "is a list; Draft 2020-12 calls that prefixItems (or name the draft in $schema)",
            )
        if value:
            self.schemas(node, "prefixItems", value)
        if "additionalItems" in node.schema:
            node.out["items"] = self.inner(node, "additionalItems", node.schema["additionalItems"])

    def reference(self, node: Node, key: str, value: Any) -> None:
        """Read ``$ref``."""
        if not isinstance(value, str):
            refuse(node, key, f"is {show(value)}; it must be a string")
        target = self._references.resolve(value, node.place)
        if isinstance(target.schema, bool):
            node.out.setdefault("allOf", []).append(target.schema)
            return
        name = self._definitions.get(id(target.schema))
        if name is None:
            name = self._definitions[id(target.schema)] = str(len(self._definitions))
            self._waiting.append((name, target))
        node.out[key] = f"#/$defs/{name}"

    def _at(self, node: Node, path: str, value: Any) -> Place:
        pointer = f"{node.place.pointer}/{path}"
        return Place(schema=value, pointer=pointer, base=node.place.base)

    def _opened(self, place: Place) -> dict[str, Any] | bool:
        """Read a schema; where it is only a reference, read what that names."""
        num_open = len(self._opening)
        while self._is_reference(place.schema) and len(self._opening) < _MAX_OPENED:
            target = self._references.resolve(place.schema["$ref"], place)
            if id(target.schema) in self._opening:
                break
            self._opening.append(id(target.schema))
            place = target
        schema = self.schema(place)
        del self._opening[num_open:]
        if isinstance(schema, dict) and isinstance(place.schema.get("properties"), dict):
            for name, inner in place.schema["properties"].items():
                if self._is_reference(inner):
                    path = f"{place.pointer}/properties/{escape(name)}"
                    at = Place(schema=inner, pointer=path, base=place.base)
                    self._open_constant(schema["properties"], name, at)
        return schema

    def _is_reference(self, schema: Any) -> bool:
        """Tell whether a schema says nothing but ``$ref``."""
        return (
            isinstance(schema, dict)
            and isinstance(schema.get("$ref"), str)
            and not set(schema) & keywords.KNOWN - {"$ref"}
        )

    def _open_constant(self, properties: dict[str, Any], name: str, place: Place) -> None:
        """Put the values of an enumeration in the place of a reference to it."""
        target = self._references.resolve(place.schema["$ref"], place)
        if isinstance(target.schema, dict) and {"const", "enum"} & set(target.schema):
            properties[name] = self.schema(target)


_READERS: dict[str, Callable[[_Reader, Node, Any], None]] = {
    "$ref": lambda reader, node, value: reader.reference(node, "$ref", value),
    "properties": lambda reader, node, value: reader.map(node, "properties", value),
    "patternProperties": lambda reader, node, value: reader.patterns(
        node, "patternProperties", value
    ),
    "additionalProperties": lambda reader, node, value: reader.one(
        node, "additionalProperties", value
    ),
    "items": lambda reader, node, value: reader.items(node, "items", value),
    "prefixItems": lambda reader, node, value: reader.schemas(node, "prefixItems", value),
    "allOf": lambda reader, node, value: reader.schemas(node, "allOf", value),
    "anyOf": lambda reader, node, value: reader.schemas(node, "anyOf", value),
    "oneOf": lambda reader, node, value: reader.one_of(node, "oneOf", value),
}


def _draft_of(schema: Any, name: str) -> int:
    dialect = schema.get("$schema") if isinstance(schema, dict) else None
    if dialect is None:
        return 9
    if not isinstance(dialect, str):
        raise InvalidRequest(f"{name} has $schema {dialect!r}; it must be a string")
    if "draft-03" in dialect:
        raise InvalidRequest(f"{name} has $schema {dialect!r}; drafts 04 to 2020-12 can be read")
    return next((draft for text, draft in _DRAFT_NAMES.items() if text in dialect), 9)
