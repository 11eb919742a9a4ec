"""One compiler per tokenizer: grammars cost milliseconds, a tokenizer a third of a second."""

import random

import pytest

from mixtral.structured import GrammarCompiler
from mixtral.tokenizer import Tokenizer, load_tokenizer


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    """The tokenizer of Mixtral 8x22B and nano."""
    return load_tokenizer("v3")


@pytest.fixture(scope="session")
def compiler(tokenizer: Tokenizer) -> GrammarCompiler:
    """The compiler for it."""
    return GrammarCompiler(tokenizer, vocab_size=tokenizer.vocab_size)


@pytest.fixture(scope="session")
def v1_tokenizer() -> Tokenizer:
    """The tokenizer of Mixtral 8x7B."""
    return load_tokenizer("v1")


@pytest.fixture(scope="session")
def v1_compiler(v1_tokenizer: Tokenizer) -> GrammarCompiler:
    """The compiler for a model with 100 padding rows."""
    return GrammarCompiler(v1_tokenizer, vocab_size=v1_tokenizer.vocab_size + 100)


@pytest.fixture
def rng() -> random.Random:
    """Random numbers that are the same in each run."""
    return random.Random(0)
