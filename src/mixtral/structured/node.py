"""A schema while it is being read: what came in, and what is written for the grammar engine."""

import json
from dataclasses import dataclass, field
from typing import Any, NoReturn

from mixtral.errors import InvalidRequest
from mixtral.structured.references import Place, escape

TYPES = ("null", "boolean", "object", "array", "number", "integer", "string")
"""Names of types in JSON Schema."""

EXAMPLES = "x-examples"
"""Where texts that a pattern matches are noted; llguidance passes over it."""


@dataclass(kw_only=True, slots=True)
class Node:
    """A schema that is being read."""

    place: Place
    """The schema as it came, and where."""
    draft: int
    """4, 6, 7, 8 for 2019-09, 9 for 2020-12."""
    types: frozenset[str]
    """What an answer may be by ``type`` alone."""
    out: dict[str, Any] = field(default_factory=dict)
    """The schema as it is written for llguidance."""

    @property
    def schema(self) -> dict[str, Any]:
        """The schema as it came."""
        schema: dict[str, Any] = self.place.schema
        return schema

    def is_for(self, *types: str) -> bool:
        """Tell whether an answer may have one of these types."""
        return not self.types.isdisjoint(types)


def refuse(node: Node, key: str, reason: str) -> NoReturn:
    """Raise the error of a keyword.

    Raises:
        InvalidRequest: Always.
    """
    raise InvalidRequest(f"the schema's {key} at {node.place.pointer}/{escape(key)} {reason}")


def show(value: Any) -> str:
    """Return a value for an error message, cut short."""
    return json.dumps(value, ensure_ascii=True, default=repr)[:60]
