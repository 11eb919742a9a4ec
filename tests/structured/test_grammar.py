"""Masks, decoded text, and answers that end in time."""

import json
import random
import re
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from jsonschema import Draft202012Validator

from mixtral.errors import InvalidRequest
from mixtral.structured import Grammar, GrammarCompiler
from mixtral.structured.json_text import MAX_DEPTH, JsonTracker
from mixtral.structured.vocabulary import unpack
from mixtral.tokenizer import Tokenizer
from tests.structured.answers_for_tests import draw, is_derivable

PERSON: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "tags": {"type": "array", "items": {"enum": ["red", "green", "dark blue"]}},
        "mail": {"type": "string", "format": "email"},
    },
    "required": ["name", "tags"],
    "additionalProperties": False,
}
TREE = {
    "type": "object",
    "properties": {
        "value": {"type": ["string", "number", "null"]},
        "children": {"type": "array", "items": {"$ref": "#"}},
    },
    "required": ["value", "children"],
}


def allowed(grammar: Grammar, token_ids: Sequence[int] = ()) -> set[int]:
    """Return the tokens that may follow others, with many tokens left."""
    state = grammar.start()
    for token_id in token_ids:
        state.accept(token_id)
    state.prepare(10_000)
    return set(np.flatnonzero(unpack(state.mask())).tolist())


def test_mask_has_one_bit_per_row_of_the_model(
    compiler: GrammarCompiler, tokenizer: Tokenizer
) -> None:
    state = compiler.json_object().start()
    state.prepare(100)
    assert state.mask().shape == (tokenizer.vocab_size // 32,)


def test_padding_and_control_tokens_are_never_allowed(
    v1_compiler: GrammarCompiler, v1_tokenizer: Tokenizer
) -> None:
    ids = allowed(v1_compiler.regex("(.|\n)*"))
    assert max(ids) < v1_tokenizer.vocab_size
    assert ids & v1_tokenizer.control_ids == {v1_tokenizer.eos_id}


def test_end_token_is_allowed_only_where_the_text_may_end(
    compiler: GrammarCompiler, tokenizer: Tokenizer
) -> None:
    grammar = compiler.regex("ab?")
    assert tokenizer.eos_id not in allowed(grammar)
    assert tokenizer.eos_id in allowed(grammar, tokenizer.encode("a", bos=False))


def test_byte_token_of_a_character_with_a_piece_is_left_out(
    compiler: GrammarCompiler, tokenizer: Tokenizer
) -> None:
    assert not any(tokenizer.is_byte(i) for i in allowed(compiler.json_object()))


def test_first_token_may_bring_the_space_that_decode_drops(
    compiler: GrammarCompiler, tokenizer: Tokenizer
) -> None:
    grammar = compiler.choice(["yes", "no"])
    texts = {tokenizer.token_bytes(i) for i in allowed(grammar)}
    assert {b"yes", b" yes", b" no", b"n"} <= texts
    assert not any(text.startswith(b"  ") for text in texts)


def test_lark_grammar_names_a_control_token_by_its_id(
    compiler: GrammarCompiler, tokenizer: Tokenizer
) -> None:
    grammar = compiler.lark('start: <[5]> "[" /[a-z]+/ "]"')
    assert allowed(grammar) == {5}
    assert {tokenizer.token_bytes(i) for i in allowed(grammar, [5])} == {b"["}


@pytest.mark.parametrize(
    "options", [["yes", "no"], [" a", "  b", "c "], ["a", "ab", "abc"], ["\u20ac\u2581x"]]
)
def test_choice_holds_for_the_decoded_text(
    compiler: GrammarCompiler, tokenizer: Tokenizer, rng: random.Random, options: list[str]
) -> None:
    grammar = compiler.choice(options)
    answers = {draw(grammar, tokenizer, 40, rng).text for _ in range(40)}
    assert answers == set(options)


@pytest.mark.parametrize("version", ["v1", "v3"])
def test_regex_holds_for_the_decoded_text(request: Any, rng: random.Random, version: str) -> None:
    prefix = "v1_" if version == "v1" else ""
    compiler = request.getfixturevalue(f"{prefix}compiler")
    tokenizer = request.getfixturevalue(f"{prefix}tokenizer")
    for pattern in (r" ?[a-c]{2,5}\d x", r"(\w+ ){1,3}end", r"\s*\S+", r"[^\d\s]{3}\u00e9?"):
        grammar = compiler.regex(pattern)
        for max_tokens in (12, 30, 60):
            answer = draw(grammar, tokenizer, max_tokens, rng)
            assert re.fullmatch(pattern, answer.text), (pattern, answer)


@pytest.mark.parametrize("pattern", ["^[0-9]{2}$", "^1|23$", "(^45$)|6", "^$"])
def test_anchors_at_the_edges_of_a_regex_say_nothing_new(
    compiler: GrammarCompiler, pattern: str
) -> None:
    grammar = compiler.regex(pattern)
    for text in ("", "1", "23", "45", "6", "123", "234", "456", "1\n"):
        assert is_derivable(grammar, text) == bool(re.fullmatch(pattern, text))


def test_json_object_is_an_object_from_random_weights(
    compiler: GrammarCompiler, tokenizer: Tokenizer, rng: random.Random
) -> None:
    grammar = compiler.json_object()
    for _ in range(30):
        answer = draw(grammar, tokenizer, rng.randint(1, 150), rng)
        assert isinstance(json.loads(answer.text), dict)


@pytest.mark.parametrize("schema", [PERSON, TREE])
@pytest.mark.parametrize("version", ["v1", "v3"])
def test_answer_is_valid_whenever_the_shortest_one_fits(
    request: Any, rng: random.Random, schema: dict[str, Any], version: str
) -> None:
    prefix = "v1_" if version == "v1" else ""
    grammar = request.getfixturevalue(f"{prefix}compiler").json_schema(schema)
    tokenizer = request.getfixturevalue(f"{prefix}tokenizer")
    validator = Draft202012Validator(schema)
    for max_tokens in [*range(1, 50), 80, 120, 200]:
        answer = draw(grammar, tokenizer, max_tokens, rng)
        assert len(answer.token_ids) <= max_tokens
        if max_tokens >= len(grammar.closing):
            validator.validate(json.loads(answer.text))
        else:
            assert not answer.has_ended


def test_answer_that_cannot_fit_is_a_prefix_of_a_valid_one(
    compiler: GrammarCompiler, tokenizer: Tokenizer, rng: random.Random
) -> None:
    grammar = compiler.json_schema(PERSON)
    answer = draw(grammar, tokenizer, 3, rng)
    assert answer.text.startswith('{"')
    assert not answer.has_ended


def test_plenty_of_tokens_leave_the_answer_alone(
    compiler: GrammarCompiler, tokenizer: Tokenizer
) -> None:
    grammar = compiler.json_schema(PERSON)
    state = grammar.start()
    token_ids = tokenizer.encode('{"name": "Ada", "tags": ["red", "dark blue"]}', bos=False)
    for k, token_id in enumerate(token_ids):
        state.prepare(1000 - k)
        assert unpack(state.mask())[token_id]
        state.accept(token_id)
    assert state.is_complete
    assert not state.was_shortened


def test_few_tokens_are_told(compiler: GrammarCompiler, tokenizer: Tokenizer) -> None:
    grammar = compiler.json_schema(PERSON)
    answer = draw(grammar, tokenizer, len(grammar.closing), random.Random(1))
    assert answer.was_shortened
    assert json.loads(answer.text) == {"name": "", "tags": []}


def test_free_string_goes_on_while_the_structure_must_end(
    compiler: GrammarCompiler, tokenizer: Tokenizer
) -> None:
    grammar = compiler.json_schema(
        {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}
    )
    state = grammar.start()
    for token_id in tokenizer.encode('{"a": "Once', bos=False):
        state.accept(token_id)
    state.prepare(6)
    texts = {tokenizer.token_bytes(int(i)) for i in np.flatnonzero(unpack(state.mask()))}
    assert b" upon" in texts
    assert b'"}' in texts
    assert b'",' not in texts


def test_numbers_and_nesting_stay_readable(compiler: GrammarCompiler, tokenizer: Tokenizer) -> None:
    number = compiler.json_schema({"type": "number"})
    state = number.start()
    for _ in range(60):
        state.prepare(10_000)
        ids = set(np.flatnonzero(unpack(state.mask())).tolist())
        nine = tokenizer.encode("9", bos=False)[-1]
        if nine not in ids:
            break
        state.accept(nine)
    else:
        raise AssertionError("a number of 60 digits")
    assert tokenizer.eos_id in ids
    deep = compiler.json_schema(True).start()
    bracket = tokenizer.encode("[", bos=False)[-1]
    for _ in range(MAX_DEPTH):
        deep.accept(bracket)
    deep.prepare(10_000)
    assert not unpack(deep.mask())[bracket]


def test_tracker_knows_strings_depth_and_numbers() -> None:
    tracker = JsonTracker()
    tracker.push(b'{"a}\\"": [1, tru')
    assert (tracker.depth, tracker.is_in_string, tracker.has_enough_digits) == (2, False, False)
    tracker.push(b"e, 1e99")
    assert tracker.has_enough_digits
    tracker.push(b', "1e99')
    assert tracker.is_in_string
    assert not tracker.has_enough_digits


def test_strings_have_no_escapes_by_number(compiler: GrammarCompiler) -> None:
    schema = {"properties": {"a": {"type": "string"}}}
    grammar = compiler.json_schema(schema)
    assert is_derivable(grammar, '{"a": "5"}')
    assert is_derivable(grammar, '{"a":"\\n\\"\u20ac"}')
    assert not is_derivable(grammar, '{"\\u0061": 5}')


def test_whitespace_is_bounded(compiler: GrammarCompiler) -> None:
    grammar = compiler.json_schema(TREE)
    assert is_derivable(grammar, '{"value": 1, "children":[]}')
    assert not is_derivable(grammar, '{"value":  1, "children":[]}')
    assert not is_derivable(grammar, '{ "value": 1, "children":[]}')
    assert not is_derivable(grammar, '{"value": 1,\n"children":[]}')


def test_same_request_compiles_once(compiler: GrammarCompiler) -> None:
    wire = {"type": "json_schema", "json_schema": {"name": "n", "schema": PERSON, "strict": True}}
    assert compiler.compile(wire) is compiler.compile(json.loads(json.dumps(wire)))


def test_states_of_one_grammar_are_independent_across_threads(
    compiler: GrammarCompiler, tokenizer: Tokenizer
) -> None:
    grammar = compiler.json_schema(TREE)
    texts: dict[int, list[str]] = {}

    def work(index: int) -> None:
        rng = random.Random(index % 4)
        texts[index] = [draw(grammar, tokenizer, 60, rng).text for _ in range(5)]

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(texts[i] == texts[i + 4] for i in range(4))


def test_a_mask_is_ready_when_prepare_comes_from_another_thread_pool(
    compiler: GrammarCompiler, tokenizer: Tokenizer
) -> None:
    states = [compiler.json_schema(PERSON).start() for _ in range(32)]
    opening = tokenizer.encode('{"name": "', bos=False)
    for state in states:
        for token_id in opening:
            state.accept(token_id)
        state.prepare(500)
    masks = [state.mask().copy() for state in states]
    assert all(np.array_equal(mask, masks[0]) for mask in masks)


def test_grammar_without_an_end_is_refused(compiler: GrammarCompiler) -> None:
    endless = {"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]}
    with pytest.raises(InvalidRequest, match="no text that ends"):
        compiler.json_schema(endless)
