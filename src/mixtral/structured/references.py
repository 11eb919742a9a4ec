"""Where the references of a JSON schema lead, within the schema itself.

``$ref`` is a URI: ``#/$defs/a`` and ``#a`` stay in the same resource, others name a resource by its
``$id``. Nothing is ever fetched, so a reference to anywhere else is an error. The index is made in
one pass over the places where JSON Schema has subschemas: a property that happens to be called
``$id`` or a schema inside ``enum`` is none.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urldefrag, urljoin

from mixtral.errors import InvalidRequest

_ONE = frozenset(
    (
        "additionalItems",
        "additionalProperties",
        "contains",
        "contentSchema",
        "else",
        "if",
        "items",
        "not",
        "propertyNames",
        "then",
        "unevaluatedItems",
        "unevaluatedProperties",
    )
)
_LISTS = frozenset(["allOf", "anyOf", "items", "oneOf", "prefixItems"])
_MAPS = frozenset(["$defs", "definitions", "dependentSchemas", "patternProperties", "properties"])


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """A schema and where it stands."""

    schema: Any
    """The schema: an object or a boolean, if it is a valid one."""
    pointer: str
    """JSON pointer from the root."""
    base: str
    """URI that references in it are relative to."""


class References:
    """The resources and anchors of one schema."""

    def __init__(self, root: Any, *, is_draft4: bool) -> None:
        """Index a schema whose size ``check_size`` found fit."""
        self._id_keyword = "id" if is_draft4 else "$id"
        self.root = Place(schema=root, pointer="", base="")
        self._resources: dict[str, Place] = {"": self.root}
        self._anchors: dict[str, Place] = {}
        self._bases: dict[int, str] = {}
        self._index()

    def resolve(self, reference: str, place: Place) -> Place:
        """Return the schema that ``$ref`` at ``place`` names.

        Raises:
            InvalidRequest: There is none in this schema.
        """
        base = self._bases.get(id(place.schema), place.base)
        uri, fragment = urldefrag(_join(base, reference))
        resource = self._resources.get(uri)
        where = f"{place.pointer}/$ref"
        if resource is None:
            raise InvalidRequest(
                f"$ref {reference[:200]!r} at {where} leads out of the schema; only references "
                "within it can be followed: copy what it names into $defs"
            )
        fragment = unquote(fragment)
        if fragment.startswith("/"):
            return _at_pointer(resource, fragment, reference, where)
        found = self._anchors.get(f"{uri}#{fragment}") if fragment else resource
        if found is None:
            raise InvalidRequest(f"$ref {reference[:200]!r} at {where}: there is no such anchor")
        return found

    def _index(self) -> None:
        stack = [self.root]
        while stack:
            place = stack.pop()
            if not isinstance(place.schema, dict):
                continue
            place = self._named(place)
            self._bases[id(place.schema)] = place.base
            stack.extend(
                Place(schema=schema, pointer=place.pointer + path, base=place.base)
                for path, schema in _subschemas(place.schema)
            )

    def _named(self, place: Place) -> Place:
        """Note the names of a schema; return it with the base that holds inside."""
        name = place.schema.get(self._id_keyword)
        if isinstance(name, str) and name:
            uri, fragment = urldefrag(_join(place.base, name))
            if not fragment:
                place = Place(schema=place.schema, pointer=place.pointer, base=uri)
                self._resources[uri] = place
            elif name.startswith("#"):
                self._anchors[f"{place.base}#{fragment}"] = place
        for keyword in ("$anchor", "$dynamicAnchor"):
            anchor = place.schema.get(keyword)
            if isinstance(anchor, str):
                self._anchors[f"{place.base}#{anchor}"] = place
        return place


def escape(key: str) -> str:
    """Return a key as a step of a JSON pointer."""
    return key.replace("~", "~0").replace("/", "~1")


def _subschemas(schema: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in schema.items():
        if key in _ONE and isinstance(value, (dict, bool)):
            yield f"/{escape(key)}", value
        elif key in _LISTS and isinstance(value, list):
            yield from ((f"/{key}/{i}", item) for i, item in enumerate(value))
        elif key in _MAPS and isinstance(value, dict):
            yield from ((f"/{key}/{escape(name)}", item) for name, item in value.items())


def _join(base: str, reference: str) -> str:
    # urljoin does not know how to keep a urn: in front of a fragment.
    return base + reference if reference.startswith("#") else urljoin(base, reference)


def _at_pointer(resource: Place, fragment: str, reference: str, where: str) -> Place:
    value = resource.schema
    for step in fragment[1:].split("/"):
        key = step.replace("~1", "/").replace("~0", "~")
        if isinstance(value, dict) and key in value:
            value = value[key]
        elif isinstance(value, list) and key.isdecimal() and int(key) < len(value):
            value = value[int(key)]
        else:
            raise InvalidRequest(f"$ref {reference[:200]!r} at {where}: there is no such place")
    return Place(schema=value, pointer=resource.pointer + fragment, base=resource.base)
