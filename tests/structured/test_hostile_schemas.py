"""Schemas that want all the time, memory or stack there is."""

import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from mixtral.errors import InvalidRequest
from mixtral.structured import GrammarCompiler

MAX_SECONDS = 20.0
"""Far above what is needed, for a machine that does much else."""


def chain(length: int, link: Callable[[str], Any]) -> dict[str, Any]:
    """Return definitions that lead from one to the next."""
    definitions = {f"d{i}": link(f"#/$defs/d{i + 1}") for i in range(length)}
    return {"$ref": "#/$defs/d0", "$defs": {**definitions, f"d{length}": {"type": "integer"}}}


def nested(length: int) -> dict[str, Any]:
    """Return a schema inside a schema inside a schema."""
    schema: dict[str, Any] = {}
    for _ in range(length):
        schema = {"items": schema}
    return schema


REFUSED: dict[str, Callable[[], Any]] = {
    "10,000 levels": lambda: nested(10_000),
    "3,000 references": lambda: chain(3000, lambda to: {"$ref": to}),
    "3,000 objects": lambda: chain(3000, lambda to: {"properties": {"a": {"$ref": to}}}),
    "2**40 texts": lambda: chain(
        40,
        lambda to: {
            "type": "object",
            "properties": {"a": {"$ref": to}, "b": {"$ref": to}},
            "required": ["a", "b"],
        },
    ),
    "2**40 branches": lambda: chain(
        40, lambda to: {"oneOf": [{"$ref": to}, {"type": "array", "items": {"$ref": to}}]}
    ),
    "2**40 joins": lambda: chain(
        40,
        lambda to: {
            "anyOf": [{"$ref": to, "title": "a", "minLength": 1}, {"$ref": to, "required": ["b"]}]
        },
    ),
    "itself": lambda: {"$ref": "#"},
    "50,000 required": lambda: {"type": "object", "required": [f"p{i}" for i in range(50_000)]},
    "20,000 properties": lambda: {"properties": {f"p{i}": {} for i in range(20_000)}},
    "20,000 values": lambda: {"enum": list(range(20_000))},
    "a million repeats": lambda: {"pattern": "^((a{1,100}){1,100}){1,100}$"},
    "huge intersections": lambda: {
        "allOf": [
            {"anyOf": [{"properties": {f"k{j}{i}": {}}} for i in range(4)]} for j in range(12)
        ]
    },
    "3 MB": lambda: {"description": "x" * 3_000_000},
    "many bad oneOf": lambda: {
        "prefixItems": [{"oneOf": [{"type": "object"}, {"minProperties": 0}]} for _ in range(300)]
    },
}
HELD: dict[str, Callable[[], Any]] = {
    "10,000 values": lambda: {"enum": [f"value {i}" for i in range(10_000)]},
    "10**9 items": lambda: {"type": "array", "maxItems": 10**9, "items": nested(20)},
    "10**9 characters": lambda: {"type": "string", "maxLength": 10**9, "minLength": 1000},
    "1,000 properties": lambda: {"properties": {f"p{i}": {"type": "string"} for i in range(1000)}},
    "exponential pattern": lambda: {"type": "string", "pattern": "^(a|b)*a(a|b){30}$"},
}


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_explosive_schema_is_refused_soon(compiler: GrammarCompiler, name: str) -> None:
    schema = REFUSED[name]()
    start = time.perf_counter()
    with pytest.raises(InvalidRequest) as caught:
        compiler.json_schema(schema)
    assert time.perf_counter() - start < MAX_SECONDS
    assert len(str(caught.value)) < 700


@pytest.mark.parametrize("name", sorted(HELD))
def test_large_schema_is_held_soon(compiler: GrammarCompiler, name: str) -> None:
    start = time.perf_counter()
    grammar = compiler.json_schema(HELD[name]())
    state = grammar.start()
    state.prepare(len(grammar.closing) + 100)
    assert state.mask().any()
    assert time.perf_counter() - start < MAX_SECONDS


def test_text_of_a_pattern_that_explodes_ends_honestly(
    compiler: GrammarCompiler, caplog: pytest.LogCaptureFixture
) -> None:
    grammar = compiler.regex("(?:[ab]*a[ab]{14}|[bc]*b[bc]{14}|[abc]*c[abc]{14})*")
    state = grammar.start()
    rng_bytes = json.dumps("abc" * 300).encode()
    for k, byte in enumerate(rng_bytes[1:400]):
        state.prepare(1000 - k)
        words = state.mask()
        token_id = grammar.tools.vocabulary.byte_ids[byte]
        if not int(words[token_id // 32]) >> token_id % 32 & 1:
            assert words.any()
            break
        state.accept(token_id)
