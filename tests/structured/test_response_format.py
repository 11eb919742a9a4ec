"""What a client may send as response_format."""

from typing import Any

import pytest

from mixtral.errors import InvalidRequest
from mixtral.structured import GrammarCompiler
from tests.structured.answers_for_tests import is_derivable

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}


def test_text_needs_no_grammar(compiler: GrammarCompiler) -> None:
    assert compiler.compile({"type": "text"}) is None
    assert compiler.compile({"type": "text", "json_schema": None}) is None


@pytest.mark.parametrize(
    "response_format",
    [
        {"type": "json_object"},
        {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA, "strict": True}},
        {"type": "json_schema", "json_schema": {"name": "n", "schema_definition": SCHEMA}},
        {
            "type": "json_schema",
            "json_schema": {"name": "n", "schema": SCHEMA, "description": None},
        },
        {"type": "regex", "regex": r'\{"a": \d\}'},
        {"type": "choice", "choice": ['{"a": 1}', "no"]},
    ],
)
def test_every_kind_holds_its_text(
    compiler: GrammarCompiler, response_format: dict[str, Any]
) -> None:
    grammar = compiler.compile(response_format)
    assert grammar is not None
    assert is_derivable(grammar, '{"a": 1}')
    assert not is_derivable(grammar, '{"a": "x"}') or response_format["type"] == "json_object"
    assert not is_derivable(grammar, "text")


@pytest.mark.parametrize(
    ("response_format", "message"),
    [
        ("json_object", "must be an object"),
        ({}, "response_format.type is 'None'"),
        ({"type": "xml"}, "must be one of text, json_object"),
        ({"type": "json_object", "schema": {}}, "response_format has 'schema'"),
        ({"type": "json_object", "json_object": {}}, "is no field"),
        ({"type": "json_schema"}, "needs the field 'json_schema'"),
        ({"type": "json_schema", "json_schema": []}, "must be an object"),
        ({"type": "json_schema", "json_schema": {"name": "n"}}, "needs one schema"),
        ({"type": "json_schema", "json_schema": {"schema": {}, "strikt": 1}}, "strikt"),
        ({"type": "json_schema", "json_schema": {"schema": {}, "strict": "yes"}}, "strict has"),
        ({"type": "json_schema", "json_schema": {"schema": 5}}, "type int"),
        ({"type": "json_schema", "json_schema": {"schema": False}}, "no answer fits"),
        ({"type": "regex"}, "needs the field 'regex'"),
        ({"type": "regex", "regex": 5}, "must be a string"),
        ({"type": "regex", "regex": "("}, "no regular expression"),
        ({"type": "regex", "regex": "a(?=b)"}, "look-ahead"),
        ({"type": "regex", "regex": "\ud800"}, "UTF-8"),
        ({"type": "choice", "choice": []}, "non-empty strings"),
        ({"type": "choice", "choice": "yes"}, "non-empty strings"),
        ({"type": "choice", "choice": ["a", 1]}, "non-empty strings"),
        ({"type": "choice", "choice": ["x"] * 10_001}, "10,000"),
        ({"type": "text", "regex": "a"}, "response_format has 'regex'"),
    ],
)
def test_malformed_format_is_refused_with_a_reason(
    compiler: GrammarCompiler, response_format: Any, message: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        compiler.compile(response_format)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
