"""Answers as a model with random weights writes them, and what may be derived by a grammar."""

import json
import random
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from mixtral.structured import Grammar
from mixtral.structured.vocabulary import Vocabulary, Words, unpack
from mixtral.tokenizer import Tokenizer

DATA = Path(__file__).parent / "data"


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What a random model wrote."""

    text: str
    token_ids: list[int]
    has_ended: bool
    was_shortened: bool


def draw(
    grammar: Grammar, tokenizer: Tokenizer, max_tokens: int, rng: random.Random, *, end: float = 0.3
) -> Answer:
    """Choose tokens by lot from the masks, half of them from the single bytes among them."""
    state = grammar.start()
    single = _single_bytes(grammar.tools.vocabulary)
    token_ids: list[int] = []
    has_ended = False
    while len(token_ids) < max_tokens and not has_ended:
        state.prepare(max_tokens - len(token_ids))
        words = state.mask()
        assert words.dtype == np.uint32
        assert words.any()
        is_end_allowed = unpack(words)[tokenizer.eos_id]
        if is_end_allowed and rng.random() < end:
            token_id = tokenizer.eos_id
        else:
            if rng.random() < 0.5 and (words & single).any():
                words = words & single
            token_id = int(rng.choice(np.flatnonzero(unpack(words))))
        state.accept(token_id)
        has_ended = token_id == tokenizer.eos_id
        if not has_ended:
            token_ids.append(token_id)
            has_ended = state.is_complete
    return Answer(
        text=tokenizer.decode(token_ids),
        token_ids=token_ids,
        has_ended=has_ended,
        was_shortened=state.was_shortened,
    )


@cache
def _single_bytes(vocabulary: Vocabulary) -> Words:
    return vocabulary.words(lambda text: len(text) == 1)


def is_derivable(grammar: Grammar, text: str) -> bool:
    """Tell whether a grammar has a text, byte by byte."""
    token_ids = [grammar.tools.vocabulary.byte_ids[byte] for byte in text.encode()]
    matcher = grammar.matcher.deep_copy()
    if matcher.validate_tokens(token_ids) != len(token_ids):
        return False
    return bool(matcher.consume_tokens(token_ids)) and bool(matcher.is_accepting())


def is_json_derivable(grammar: Grammar, value: Any) -> bool:
    """Tell whether a grammar has a value, in one of the usual spellings."""
    return any(
        is_derivable(grammar, json.dumps(value, ensure_ascii=False, separators=separators))
        for separators in ((",", ":"), (", ", ": "))
    )
