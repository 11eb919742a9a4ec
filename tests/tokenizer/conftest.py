"""Both built-in tokenizers, read once, and the golden files."""

import json
from pathlib import Path
from typing import Any

import pytest

from mixtral.tokenizer import Tokenizer, load_tokenizer

GOLDEN = Path(__file__).resolve().parents[1] / "data" / "golden"


@pytest.fixture(scope="session")
def tokenizers() -> dict[str, Tokenizer]:
    """The built-in tokenizers by version."""
    return {version: load_tokenizer(version) for version in ("v1", "v3")}


@pytest.fixture(params=["v1", "v3"])
def tokenizer(request: pytest.FixtureRequest, tokenizers: dict[str, Tokenizer]) -> Tokenizer:
    """Each built-in tokenizer in turn."""
    return tokenizers[request.param]


@pytest.fixture(scope="session")
def golden_chat() -> dict[str, Any]:
    """Conversations, raw texts and fill-in-the-middle requests with mistral-common's ids."""
    content: dict[str, Any] = json.loads((GOLDEN / "chat_tokens.json").read_text(encoding="utf-8"))
    return content


@pytest.fixture(scope="session")
def golden_decode() -> list[dict[str, Any]]:
    """Lists of ids with their text and how it streams."""
    content: list[dict[str, Any]] = json.loads((GOLDEN / "decode.json").read_text(encoding="utf-8"))
    return content


@pytest.fixture(scope="session")
def built_in_files() -> dict[str, Path]:
    """The SentencePiece files that mistral-common ships, by version."""
    import mistral_common

    data = Path(mistral_common.__file__).parent / "data"
    return {
        "v1": data / "tokenizer.model.v1",
        "v2": data / "mistral_instruct_tokenizer_240216.model.v2",
        "v3": data / "mistral_instruct_tokenizer_240323.model.v3",
        "v7": data / "mistral_instruct_tokenizer_241114.model.v7",
    }
