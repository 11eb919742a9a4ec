"""Masks around the calls: none while the answer is text, one token inside a marker."""

import numpy as np
import pytest

from mixtral.structured import GrammarCompiler
from mixtral.tokenizer import Tokenizer
from mixtral.tools.constraint import CallGrammar, CallState, NoCallGrammar
from mixtral.tools.markers import CALLS_MARKER, marker_token_ids, tokens_of_rest
from tests.tools.tools_for_tests import allowed_ids


@pytest.fixture
def grammar(tokenizer: Tokenizer, compiler: GrammarCompiler) -> CallGrammar:
    return CallGrammar(
        tokenizer,
        vocab_size=tokenizer.vocab_size,
        calls=compiler.choice(["one", "two"]),
        is_forced=False,
    )


def say(state: CallState, token_ids: list[int]) -> None:
    for token_id in token_ids:
        state.prepare(50)
        mask = state.mask()
        assert mask is None or token_id in allowed_ids(mask)
        state.accept(token_id)
    state.prepare(50)


def test_text_costs_no_mask(grammar: CallGrammar, tokenizer: Tokenizer) -> None:
    state = grammar.start()
    for token_id in tokenizer.encode("It is sunny [TOOL] in [TO Paris [TOOLS", bos=False):
        assert state.mask() is None
        state.accept(token_id)
    assert not state.is_complete
    assert not state.was_shortened


@pytest.mark.parametrize("before", ["", "Let me look.\n\n", "A \u20ac ["])
def test_grammar_begins_behind_the_marker(
    before: str, grammar: CallGrammar, tokenizer: Tokenizer
) -> None:
    state = grammar.start()
    say(state, tokenizer.encode(before, bos=False) + marker_token_ids(tokenizer))
    say(state, tokenizer.encode("one", bos=False))
    assert state.is_complete


def test_forced_answer_begins_with_the_tokens_of_the_marker(tokenizer: Tokenizer) -> None:
    inner = NoCallGrammar(vocab_size=tokenizer.vocab_size)
    forced = CallGrammar(tokenizer, vocab_size=tokenizer.vocab_size, calls=inner, is_forced=True)
    state = forced.start()
    for token_id in marker_token_ids(tokenizer):
        state.prepare(10)
        assert allowed_ids(state.mask()) == [token_id]
        state.accept(token_id)
    assert len(allowed_ids(state.mask())) > 1000
    assert [tokenizer.version, marker_token_ids(tokenizer)] in (
        ["v3", [5]],
        ["v1", tokenizer.encode(CALLS_MARKER, bos=False)],
    )


def test_marker_that_is_surely_one_is_finished_in_any_spelling(
    tokenizers: dict[str, Tokenizer],
) -> None:
    tokenizer = tokenizers["v1"]
    inner = NoCallGrammar(vocab_size=tokenizer.vocab_size)
    grammar = CallGrammar(tokenizer, vocab_size=tokenizer.vocab_size, calls=inner, is_forced=False)
    state = grammar.start()
    letters = tokenizer.encode("\n" + "\n".join("[TOOL_"), bos=False)
    say(state, [i for i in letters if tokenizer.decode_token(i) != "\n"])
    assert state.mask() is not None
    say(state, tokens_of_rest(tokenizer, len("[TOOL_")))
    assert state.mask() is inner.start().mask()
    for length in range(len("[TOOL_"), len(CALLS_MARKER)):
        rest = tokens_of_rest(tokenizer, length)
        assert "".join(map(tokenizer.decode_token, rest)) == CALLS_MARKER[length:]


def test_rest_of_the_marker_has_the_tokens_that_the_prompt_shows(
    tokenizers: dict[str, Tokenizer],
) -> None:
    tokenizer = tokenizers["v1"]
    whole = tokenizer.encode(CALLS_MARKER, bos=False)
    assert tokens_of_rest(tokenizer, len("[TOOL_")) == whole[-3:]


def test_no_token_of_v1_can_jump_over_the_forced_part(tokenizers: dict[str, Tokenizer]) -> None:
    tokenizer = tokenizers["v1"]
    tokens = [tokenizer.token_bytes(i) for i in range(tokenizer.vocab_size)]
    decisive = b"TOOL_"
    assert not [token for token in tokens if decisive + b"CALLS]" in token]
    assert not [token for token in tokens if b"CALLS]" in token]


def test_mask_without_calls_lacks_one_token(tokenizers: dict[str, Tokenizer]) -> None:
    vocab_size = tokenizers["v3"].vocab_size
    state = NoCallGrammar(vocab_size=vocab_size).start()
    for _ in range(3):
        state.prepare(5)
        mask = state.mask()
        assert sorted({*range(vocab_size)} - {*allowed_ids(mask)}) == [5]
        state.accept(700)
    assert mask.dtype == np.uint32
    assert not state.is_complete
    assert not state.was_shortened
