"""What is too large, too deep, or no JSON, found before anything works on it by recursion."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from mixtral.errors import InvalidRequest
from mixtral.structured.shortest import inner_schemas

MAX_DEPTH = 100
"""Levels of objects and arrays in a schema; llguidance's parser stops at 128."""

MAX_VALUES = 100_000
"""Objects, arrays, strings and numbers in a schema."""

MAX_CHARACTERS = 2_000_000
"""Characters of all strings in a schema."""

MAX_NESTED = 200
"""Subschemas inside each other, references followed; llguidance's stack holds about 600."""

MAX_NAMES = 1_500
"""Properties of one object."""

MAX_REQUIRED = 5_000
"""Names in all ``required`` together."""


def check_size(schema: Any, *, name: str) -> None:
    """Refuse a schema that is too deep or too large to be worked on.

    Raises:
        InvalidRequest: It is.
    """
    num_values = num_characters = 0
    level = [schema]
    for depth in range(MAX_DEPTH + 1):
        following: list[Any] = []
        for value in level:
            num_values += 1
            if isinstance(value, Mapping):
                following.extend(value.values())
                num_characters += sum(len(key) for key in value if isinstance(key, str))
            elif isinstance(value, list):
                following.extend(value)
            elif isinstance(value, str):
                num_characters += len(value)
        if num_values > MAX_VALUES or num_characters > MAX_CHARACTERS:
            raise InvalidRequest(
                f"{name} is too large; up to {MAX_VALUES:,} values and {MAX_CHARACTERS:,} "
                "characters are allowed"
            )
        if not following:
            return
        level = following
        assert depth <= MAX_DEPTH
    raise InvalidRequest(f"{name} is nested deeper than {MAX_DEPTH} levels")


def check_unicode(value: Any, *, name: str) -> None:
    """Refuse what JSON can write and UTF-8 cannot.

    Raises:
        InvalidRequest: A string holds half of a surrogate pair, or a value is none of JSON.
    """
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except (UnicodeEncodeError, TypeError, ValueError) as error:
        raise InvalidRequest(f"{name} is no JSON that UTF-8 can write: {error}") from None


def check_stack(schema: dict[str, Any], *, name: str) -> None:
    """Refuse what would overflow the stack of llguidance, which works by recursion.

    It follows each reference where it meets it first.

    Raises:
        InvalidRequest: It would.
    """
    definitions = schema.get("$defs", {})
    followed: set[str] = set()
    num_required = 0
    levels: list[Iterator[Any]] = [iter([schema])]
    while levels:
        node = next(levels[-1], None)
        if node is None:
            levels.pop()
            continue
        if not isinstance(node, dict):
            continue
        inner = list(inner_schemas(node))
        target = node.get("$ref", "").removeprefix("#/$defs/")
        if target and target not in followed:
            followed.add(target)
            inner.append(definitions[target])
        names = {*node.get("properties", ()), *node.get("required", ())}
        num_required += len(node.get("required", ()))
        if len(names) > MAX_NAMES or num_required > MAX_REQUIRED:
            raise InvalidRequest(
                f"{name} has too many properties; an object can have {MAX_NAMES:,}, and "
                f"{MAX_REQUIRED:,} can be required in the whole schema"
            )
        levels.append(iter(inner))
        if len(levels) > MAX_NESTED:
            raise InvalidRequest(
                f"{name} nests schemas deeper than {MAX_NESTED} levels, references followed"
            )
