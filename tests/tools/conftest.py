"""Both built-in tokenizers with a grammar compiler each, and real function definitions."""

import json
from pathlib import Path
from typing import Any

import pytest

from mixtral.structured import GrammarCompiler
from mixtral.tokenizer import Tokenizer, load_tokenizer
from tests.tools.tools_for_tests import as_tool

DATA = Path(__file__).parent / "data"


@pytest.fixture(scope="session")
def tokenizers() -> dict[str, Tokenizer]:
    """The built-in tokenizers by version."""
    return {version: load_tokenizer(version) for version in ("v1", "v3")}


@pytest.fixture(scope="session")
def compilers(tokenizers: dict[str, Tokenizer]) -> dict[str, GrammarCompiler]:
    """A compiler per tokenizer."""
    return {
        version: GrammarCompiler(tokenizer, vocab_size=tokenizer.vocab_size)
        for version, tokenizer in tokenizers.items()
    }


@pytest.fixture(params=["v1", "v3"])
def version(request: pytest.FixtureRequest) -> str:
    """Each version in turn."""
    return str(request.param)


@pytest.fixture
def tokenizer(version: str, tokenizers: dict[str, Tokenizer]) -> Tokenizer:
    """The tokenizer of the version."""
    return tokenizers[version]


@pytest.fixture
def compiler(version: str, compilers: dict[str, GrammarCompiler]) -> GrammarCompiler:
    """The compiler of the version."""
    return compilers[version]


@pytest.fixture(scope="session")
def real_tools() -> list[dict[str, Any]]:
    """Functions of the Berkeley Function Calling Leaderboard (Apache-2.0), as tools."""
    functions = json.loads((DATA / "bfcl_functions.json").read_text(encoding="utf-8"))
    return [as_tool(function) for function in functions]
