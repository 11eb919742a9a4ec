"""Patterns and formats: what the grammar lets through matches in Python too."""

import random
import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from mixtral.structured import GrammarCompiler
from mixtral.structured.formats import FORMATS
from mixtral.structured.patterns import PatternError, quote_pattern, read_pattern
from mixtral.tokenizer import Tokenizer
from tests.structured.answers_for_tests import draw, is_json_derivable

TEXTS = st.text(alphabet="abAB01_ -.@\n\t\u00e9\u0663\u00bd\u212a\u2028/", max_size=8)
PATTERNS = [
    "^a+$",
    "b",
    "^(a|b)",
    "(^a|b$)",
    "^$|^[ab]{2}$",
    r"\d",
    r"^\D+$",
    r"^\w*$",
    r"\W",
    r"^\s\S$",
    r"^[^\d\s]+$",
    r"^[\w.-]+@[\w-]+$",
    r"^[^\W_]+$",
    "^.$",
    "^[^a]$",
    "a{2}|(b|0){1,2}1",
    "^(^a$|b)$",
    r"^(?:a|\/)*?$",
    "^[a-b0-]+$",
    "",
]


@pytest.mark.parametrize("pattern", PATTERNS)
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(text=TEXTS)
def test_what_a_pattern_lets_through_is_found_by_python(
    compiler: GrammarCompiler, pattern: str, text: str
) -> None:
    grammar = compiler.json_schema({"type": "string", "pattern": pattern})
    if is_json_derivable(grammar, text):
        assert re.search(pattern, text)
    elif text.isascii() and "\n" not in text:
        # Python's $ also matches before a final line break; JSON strings have no U+2028 problem.
        assert not re.search(pattern, text)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_examples_match(pattern: str) -> None:
    read = read_pattern(pattern)
    assert read.examples
    assert all(re.search(pattern, example) for example in read.examples)


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("(", "no regular expression"),
        (r"\bword", "anchor"),
        ("a^b", "anchor"),
        ("(a$)?b", "anchor"),
        (r"\Aa", "anchor that is not ^ at its beginning or $ at its end"),
        ("a(?=b)", "look-ahead"),
        ("(?<!a)b", "look-behind"),
        (r"(a)\1", "back-reference"),
        ("(?i)a", "flags"),
        ("(?i:a)", "flags"),
        ("(?>a)", "atomic"),
        (r"\p{L}", "no regular expression"),
        ("(a{1,1000}){1,1000}", "repeats"),
        ("a" * 20_001, "20,001 characters"),
        ("(" * 60 + "a" + ")" * 60, "nested"),
        ("[[a]]", "no regular expression"),
    ],
)
def test_pattern_that_cannot_be_held_says_why(pattern: str, words: str) -> None:
    with pytest.raises(PatternError, match=re.escape(words)):
        read_pattern(pattern)


@given(text=st.text(max_size=20))
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_quoted_text_matches_itself(text: str) -> None:
    pattern = quote_pattern(text)
    assert read_pattern(re.escape(text), is_search=False).regex == pattern


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_format_holds_under_a_validator(
    compiler: GrammarCompiler, tokenizer: Tokenizer, rng: random.Random, name: str
) -> None:
    import json

    schema = {"type": "string", "format": name}
    grammar = compiler.json_schema(schema)
    validator = Draft202012Validator(schema, format_checker=Draft202012Validator.FORMAT_CHECKER)
    for max_tokens in (60, 90, 120):
        validator.validate(json.loads(draw(grammar, tokenizer, max_tokens, rng).text))
    assert all(is_json_derivable(grammar, example) for example in FORMATS[name].examples)


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("date", "2024-02-29", "2023-02-29"),
        ("date", "2000-02-29", "1900-02-29"),
        ("date-time", "2024-12-31T23:59:59.25+01:00", "2024-12-31T24:00:00Z"),
        ("date-time", "1999-01-01T00:00:00Z", "1999-01-01 00:00:00Z"),
        ("time", "12:30:00Z", "12:30:00"),
        ("duration", "P3Y6M4DT12H30M5S", "P"),
        ("email", "a.b+c@example-site.org", "a@b@c"),
        ("hostname", "xn.example.com", "-a.com"),
        ("ipv4", "255.0.10.1", "256.0.0.1"),
        ("ipv6", "2001:db8::ff00:42:8329", "1:2:3"),
        ("uuid", "123e4567-e89b-12d3-a456-426614174000", "123e4567e89b12d3a456426614174000"),
        ("uri", "https://example.com:8080/a/b?c=d#e", "//example.com"),
        ("uri", "mailto:a@b.c", "a b:c"),
        ("uri-reference", "../a/b?c#d", "a b"),
        ("uri-template", "/a/{b}{?c,d*}", "{"),
        ("json-pointer", "/a~1b/0", "a"),
        ("relative-json-pointer", "1/a", "/a"),
    ],
)
def test_format_knows_good_from_bad(
    compiler: GrammarCompiler, name: str, good: str, bad: str
) -> None:
    grammar = compiler.json_schema({"type": "string", "format": name})
    assert is_json_derivable(grammar, good)
    assert not is_json_derivable(grammar, bad)


@pytest.mark.parametrize("pattern", ["a{9998,9999}b{9998,9999}" * 100, "(ab?){5000}", "a{9000}"])
def test_pattern_of_long_texts_has_no_examples(pattern: str) -> None:
    assert read_pattern(pattern).examples == ()
