"""A hundred random schemas, random tokens, any ``max_tokens``: each answer ends valid in time."""

import json
import random
import re
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from mixtral.errors import InvalidRequest
from mixtral.structured import GrammarCompiler
from mixtral.tokenizer import Tokenizer
from tests.structured.answers_for_tests import draw

WORDS = [
    "id",
    "name",
    "kind",
    "a",
    "street address",
    "\u00fcber",
    'quo"te',
    "x/y",
    "value",
    "items",
]
PATTERNS = [
    "^[A-Z]{3}-[0-9]{2,4}$",
    "colou?r",
    "^(yes|no|may be)$",
    r"^\w+@\w+\.(org|net)$",
    "[0-9]$",
]


def random_schema(rng: random.Random, depth: int = 0) -> dict[str, Any]:
    """Return a schema of the keywords that can be held."""
    kinds = [leaf] if depth > 2 else [leaf, record, record, series, union, joined, mapping]
    return rng.choice(kinds)(rng, depth)


def leaf(rng: random.Random, depth: int) -> dict[str, Any]:
    low = rng.randint(-20, 900)
    return rng.choice(
        [
            {"type": "string"},
            {"type": "string", "minLength": rng.randint(0, 30), "maxLength": rng.randint(30, 60)},
            {"type": "string", "pattern": rng.choice(PATTERNS)},
            {
                "type": "string",
                "format": rng.choice(["date", "date-time", "email", "uuid", "ipv4"]),
            },
            {"type": "integer", "minimum": low, "maximum": low + rng.randint(0, 5000)},
            {"type": "integer", "multipleOf": 7} if depth == 0 else {"type": "number"},
            {"type": "number", "exclusiveMinimum": low / 7, "maximum": low + 0.25},
            {"type": ["boolean", "null"]},
            {"enum": rng.sample([*WORDS, 1, None, 2.5, {"a": [1]}], 4)},
            {"const": rng.choice([*WORDS, 12, [True, "x"]])},
        ]
    )


def record(rng: random.Random, depth: int) -> dict[str, Any]:
    names = rng.sample(WORDS, rng.randint(1, 5))
    return {
        "type": "object",
        "properties": {name: random_schema(rng, depth + 1) for name in names},
        "required": [name for name in names if rng.random() < 0.6],
        **({"additionalProperties": False} if rng.random() < 0.7 else {}),
    }


def mapping(rng: random.Random, depth: int) -> dict[str, Any]:
    return {
        "type": "object",
        "patternProperties": {"^k[0-9]$": random_schema(rng, depth + 1)},
        "additionalProperties": rng.choice([False, {"type": "integer"}]),
        "minProperties": rng.randint(0, 1),
        "maxProperties": rng.randint(1, 4),
    }


def series(rng: random.Random, depth: int) -> dict[str, Any]:
    low = rng.randint(0, 3)
    return {
        "type": "array",
        "prefixItems": [random_schema(rng, depth + 1)],
        "items": random_schema(rng, depth + 1),
        "minItems": low,
        "maxItems": low + rng.randint(0, 4),
    }


def union(rng: random.Random, depth: int) -> dict[str, Any]:
    return {"anyOf": [random_schema(rng, depth + 1) for _ in range(rng.randint(2, 3))]}


def joined(rng: random.Random, depth: int) -> dict[str, Any]:
    return {"allOf": [{"type": "object", "minProperties": 1}, record(rng, depth)]}


@pytest.mark.parametrize("seed", range(100))
def test_answer_ends_valid_within_any_limit_that_has_room(
    compiler: GrammarCompiler, tokenizer: Tokenizer, seed: int
) -> None:
    rng = random.Random(seed)
    schema = random_schema(rng)
    Draft202012Validator.check_schema(schema)
    try:
        grammar = compiler.json_schema(schema)
    except InvalidRequest:
        return
    validator = Draft202012Validator(schema, format_checker=Draft202012Validator.FORMAT_CHECKER)
    needed = len(grammar.closing)
    for max_tokens in (needed, needed + 1, needed + 7, rng.randint(1, 200), rng.randint(1, 200)):
        answer = draw(grammar, tokenizer, max_tokens, rng, end=0.1)
        assert len(answer.token_ids) <= max_tokens
        if answer.has_ended or max_tokens >= needed:
            value = json.loads(answer.text)
            error = next(iter(validator.iter_errors(value)), None)
            assert error is None, (max_tokens, answer.text, schema)


@pytest.mark.parametrize("end", ["\\", '"', "\n"])
def test_string_whose_pattern_ends_with_an_escape_ends_in_time(
    compiler: GrammarCompiler, tokenizer: Tokenizer, rng: random.Random, end: str
) -> None:
    grammar = compiler.json_schema({"type": "string", "pattern": f"{re.escape(end)}$"})
    for max_tokens in (3, 12, 25):
        answer = draw(grammar, tokenizer, max_tokens, rng, end=0)
        assert json.loads(answer.text).endswith(end)


def test_most_random_schemas_are_held(compiler: GrammarCompiler) -> None:
    num_held = 0
    for seed in range(100):
        try:
            compiler.json_schema(random_schema(random.Random(seed)))
        except InvalidRequest:
            continue
        num_held += 1
    assert num_held >= 95
