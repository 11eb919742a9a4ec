"""Which schemas are refused, with what words, and what is written for the others."""

from typing import Any

import numpy as np
import pytest

from mixtral.errors import InvalidRequest
from mixtral.structured import GrammarCompiler
from mixtral.structured.schema_check import check_schema
from mixtral.structured.vocabulary import unpack
from mixtral.tokenizer import Tokenizer
from tests.structured.answers_for_tests import is_derivable, is_json_derivable

CAT = {"type": "object", "properties": {"kind": {"const": "cat"}}, "required": ["kind"]}
DOG = {"type": "object", "properties": {"kind": {"const": "dog"}}, "required": ["kind"]}


@pytest.mark.parametrize(
    ("schema", "keyword"),
    [
        ({"properties": {"a": {"not": {"type": "string"}}}}, "not at /properties/a/not"),
        ({"items": {"if": {}, "then": {}}}, "if at /items/if"),
        ({"dependentRequired": {"a": ["b"]}}, "dependentRequired at /dependentRequired"),
        ({"dependentSchemas": {"a": {}}}, "dependentSchemas at"),
        ({"dependencies": {"a": ["b"]}}, "dependencies at /dependencies"),
        ({"contains": {"type": "null"}}, "contains at /contains"),
        ({"propertyNames": {"pattern": "a"}}, "propertyNames at"),
        (
            {"$ref": "#/$defs/a~1b", "$defs": {"a/b": {"uniqueItems": True}}},
            "/$defs/a~1b/uniqueItems",
        ),
        ({"unevaluatedProperties": False}, "unevaluatedProperties at"),
        ({"unevaluatedItems": {"type": "null"}}, "unevaluatedItems at"),
        ({"$dynamicRef": "#a"}, "$dynamicRef at /$dynamicRef"),
        ({"minProperties": 2}, "minProperties at /minProperties"),
        ({"properties": {"a": {}, "b": {}}, "minProperties": 1}, "minProperties at /minProperties"),
        ({"multipleOf": 0.01}, "multipleOf at /multipleOf is 0.01"),
        ({"multipleOf": 7, "minimum": 1, "maximum": 6}, "multipleOf at"),
        ({"allOf": [{"multipleOf": 65536}, {"multipleOf": 65537}]}, "multipleOf at /allOf/0"),
        ({"format": "regex"}, "format at /format is 'regex'"),
        ({"patternProperties": {"a": {}, "b": {}}}, "patternProperties at /patternProperties"),
        ({"oneOf": [{"type": "integer"}, {"minimum": 2}]}, "oneOf at /oneOf"),
        ({"anyOf": [{"oneOf": [CAT, {"type": "object"}]}]}, "oneOf at /anyOf/0/oneOf"),
        ({"items": [{}, {}]}, "items at /items is a list"),
        ({"prefixItems": [{}], "additionalItems": False}, "additionalItems at"),
        ({"pattern": "a(?!b)"}, "pattern at /pattern"),
        ({"minLength": 5001, "type": "string"}, "minLength at /minLength is 5,001"),
        ({"minItems": 10**9, "type": "array"}, "minItems at"),
        ({"const": 2**60}, "const at /const"),
        ({"const": 0.1234567890123456}, "const at /const"),
        ({"enum": ["\x00"]}, "enum at /enum has the character U+0000"),
    ],
)
def test_keyword_that_cannot_be_held_is_named_with_its_place(
    compiler: GrammarCompiler, schema: dict[str, Any], keyword: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        compiler.json_schema(schema)
    assert keyword in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        (5, "type int"),
        ({"type": "strnig"}, 'type at /type is "strnig"'),
        ({"type": []}, "type at /type"),
        ({"properties": {"a": {"type": ["string", 3]}}}, "/properties/a/type"),
        ({"properties": []}, "properties at /properties"),
        ({"properties": {"a": 5}}, "has 5 at /properties/a"),
        ({"required": "a"}, "required at /required"),
        ({"required": [1]}, "required at /required"),
        ({"enum": []}, "enum at /enum"),
        ({"enum": "ab"}, "enum at /enum"),
        ({"anyOf": []}, "anyOf at /anyOf"),
        ({"allOf": {}}, "allOf at /allOf"),
        ({"minimum": "1"}, "minimum at /minimum"),
        ({"minimum": True}, "minimum at /minimum"),
        ({"exclusiveMinimum": True, "minimum": 1}, "exclusiveMinimum at"),
        ({"maximum": float("inf")}, "maximum at /maximum"),
        ({"multipleOf": 0}, "multipleOf at /multipleOf"),
        ({"minLength": -1}, "minLength at /minLength"),
        ({"maxItems": 1.5}, "maxItems at /maxItems"),
        ({"pattern": "["}, "pattern at /pattern"),
        ({"pattern": 5}, "pattern at /pattern"),
        ({"format": 5}, "format at /format"),
        ({"uniqueItems": 1}, "uniqueItems at /uniqueItems"),
        ({"$ref": 5}, "$ref at /$ref"),
        ({"$ref": "#/nope"}, "no such place"),
        ({"$ref": "#nope"}, "no such anchor"),
        ({"$ref": "http://example.com/a.json"}, "leads out of the schema"),
        ({"$schema": "http://json-schema.org/draft-03/schema#"}, "draft-03"),
        ({"const": "\ud800"}, "UTF-8"),
        ({"type": "string", "const": 5}, "cannot be enforced"),
        ({"allOf": [{"pattern": "^a+$"}, {"pattern": "^b+$"}], "type": "string"}, "be enforced"),
    ],
)
def test_invalid_schema_is_refused_with_one_line(
    compiler: GrammarCompiler, schema: Any, words: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        compiler.json_schema(schema)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "schema",
    [
        {"properties": {"not": {"type": "null"}, "if": {}, "$ref": {"type": "string"}}},
        {"title": "t", "description": "d", "default": 1, "examples": [], "deprecated": True},
        {"$comment": "c", "readOnly": True, "x-any": {"not": 1}, "nullable": True, "unknown": [1]},
        {"type": "string", "format": "int32", "contentEncoding": "base64"},
        {"type": "integer", "uniqueItems": True, "contains": {}, "minLength": 3, "format": "regex"},
        {"not": False, "propertyNames": {}, "dependentRequired": {}, "uniqueItems": False},
        {"if": {"type": "null"}, "minContains": 2},
        {"uniqueItems": True, "maxItems": 1, "type": "array"},
        {"enum": [{"$ref": "#/x", "not": 1}, {"a": 1}]},
        {"default": {"$id": "x", "$ref": "nowhere"}},
        True,
    ],
)
def test_annotations_and_keywords_without_effect_are_no_obstacle(
    compiler: GrammarCompiler, schema: Any
) -> None:
    assert compiler.json_schema(schema)


@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        ({"type": ["string", "boolean"], "format": "date"}, "2024-02-29", "true"),
        ({"type": ["string", "boolean"], "pattern": "^[0-9]{5}$"}, True, "true"),
        ({"enum": ["low", "medium"], "pattern": "^m"}, "medium", "low"),
        ({"enum": ["2024-01-01", "n/a"], "format": "date"}, "2024-01-01", "n/a"),
        ({"pattern": "^x", "allOf": [{"enum": ["a", "xyz"]}]}, "xyz", "a"),
        ({"type": "string", "pattern": "^[a-z]+-[0-9]$", "minLength": 6}, "abcd-0", "abc-0"),
    ],
)
def test_pattern_holds_beside_what_has_a_shorter_text(
    compiler: GrammarCompiler, schema: dict[str, Any], good: Any, bad: Any
) -> None:
    grammar = compiler.json_schema(schema)
    assert is_json_derivable(grammar, good)
    assert not is_json_derivable(grammar, bad)


def test_one_of_holds_where_a_constant_tells_the_branches_apart(compiler: GrammarCompiler) -> None:
    schema = {
        "oneOf": [{"$ref": "#/$defs/Cat"}, {"$ref": "#/$defs/Dog"}],
        "$defs": {
            "Cat": {**CAT, "properties": {"kind": {"$ref": "#/$defs/CatKind"}}},
            "CatKind": {"enum": ["cat", "lion"]},
            "Dog": DOG,
        },
    }
    grammar = compiler.json_schema(schema)
    assert is_json_derivable(grammar, {"kind": "lion"})
    assert is_json_derivable(grammar, {"kind": "dog"})
    assert not is_json_derivable(grammar, {"kind": "cow"})


def test_references_with_escapes_anchors_and_ids_are_followed(compiler: GrammarCompiler) -> None:
    schema = {
        "$id": "https://example.com/root.json",
        "prefixItems": [
            {"$ref": "#/$defs/a~1b%25"},
            {"$ref": "#there"},
            {"$ref": "https://example.com/root.json#/$defs/a~1b%25"},
            {"$ref": "inner.json#/$defs/deep"},
        ],
        "type": "array",
        "minItems": 4,
        "$defs": {
            "a/b%": {"const": 1},
            "x": {"$anchor": "there", "const": 2},
            "y": {"$id": "inner.json", "$defs": {"deep": {"const": 3}}},
        },
    }
    grammar = compiler.json_schema(schema)
    assert is_json_derivable(grammar, [1, 2, 1, 3])
    assert not is_json_derivable(grammar, [1, 2, 1, 4])


def test_older_drafts_keep_their_meaning(compiler: GrammarCompiler) -> None:
    draft7 = {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "type": "array",
        "items": [{"type": "integer"}, {"type": "null"}],
        "additionalItems": False,
    }
    grammar = compiler.json_schema(draft7)
    assert is_json_derivable(grammar, [1, None])
    assert not is_json_derivable(grammar, [1, None, 1])
    draft4 = {
        "$schema": "http://json-schema.org/draft-04/schema#",
        "type": "integer",
        "minimum": 3,
        "exclusiveMinimum": True,
    }
    assert not is_json_derivable(compiler.json_schema(draft4), 3)
    assert is_json_derivable(compiler.json_schema(draft4), 4)


def test_rounding_cannot_cross_a_bound(compiler: GrammarCompiler, tokenizer: Tokenizer) -> None:
    schema = {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1}
    grammar = compiler.json_schema(schema)
    assert is_derivable(grammar, "0.9")
    assert not is_derivable(grammar, "0")
    assert not is_derivable(grammar, "1.0")
    for wish in ("9", "0"):
        state = grammar.start()
        text = ""
        for k in range(100):
            state.prepare(1000 - k)
            tokens = np.flatnonzero(unpack(state.mask())).tolist()
            digits = {tokenizer.token_bytes(i).decode(): i for i in tokens if i != tokenizer.eos_id}
            if not digits:
                break
            character = next(
                c for c in ("." if text == "0" else wish, *sorted(digits)) if c in digits
            )
            state.accept(digits[character])
            text += character
        assert 0 < float(text) < 1
        assert len(text) > 10


def test_a_narrower_bound_stands_for_one_too_large(compiler: GrammarCompiler) -> None:
    checked = check_schema({"type": "integer", "minimum": -(10**30), "maximum": 2**64 - 1})
    assert checked.schema["maximum"] < 2**63
    assert is_json_derivable(compiler.json_schema({"maximum": 1e300, "type": "number"}), 12.5)


def test_properties_come_in_their_order_and_once(compiler: GrammarCompiler) -> None:
    schema = {"properties": {"b": {"type": "null"}, "a": {"type": "null"}}, "type": "object"}
    grammar = compiler.json_schema(schema)
    assert is_derivable(grammar, '{"b":null,"a":null,"c":1}')
    assert not is_derivable(grammar, '{"a":null,"b":null}')
    assert not is_derivable(grammar, '{"b":null,"b":null}')


def test_recursive_schema_holds(compiler: GrammarCompiler) -> None:
    schema = {"anyOf": [{"type": "null"}, {"type": "array", "items": {"$ref": "#"}, "maxItems": 2}]}
    grammar = compiler.json_schema(schema)
    assert is_json_derivable(grammar, [None, [[None], []]])
    assert not is_json_derivable(grammar, [None, [None, None, None]])
