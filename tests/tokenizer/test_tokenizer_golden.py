"""Every vector of tests/data/golden; regenerate.py there makes them with mistral-common alone."""

import runpy
from pathlib import Path
from typing import Any

import pytest

from mixtral.errors import InvalidRequest
from mixtral.tokenizer import StreamDecoder, Tokenizer

GOLDEN = Path(__file__).resolve().parents[1] / "data" / "golden"


def test_chat_ids_are_those_of_mistral_common(
    tokenizer: Tokenizer, golden_chat: dict[str, Any]
) -> None:
    for case in golden_chat["cases"]:
        expected = case[tokenizer.version]
        if "ids" in expected:
            token_ids = tokenizer.encode_chat(case["messages"], tools=case["tools"])
            assert token_ids == expected["ids"], case["name"]
        else:
            with pytest.raises(InvalidRequest) as caught:
                tokenizer.encode_chat(case["messages"], tools=case["tools"])
            assert str(caught.value) == expected["message"], case["name"]


def test_card_pseudocode_is_v1_but_for_the_empty_user_message(
    tokenizers: dict[str, Tokenizer], golden_chat: dict[str, Any]
) -> None:
    differing = [
        case["name"]
        for case in golden_chat["cases"]
        if "card_pseudocode" in case
        and tokenizers["v1"].encode_chat(case["messages"], tools=case["tools"])
        != case["card_pseudocode"]["ids"]
    ]
    assert differing == ["empty_user"]


def test_raw_text_ids_are_those_of_mistral_common(
    tokenizer: Tokenizer, golden_chat: dict[str, Any]
) -> None:
    for case in golden_chat["raw_text"]:
        assert tokenizer.encode(case["text"], bos=False) == case[tokenizer.version], case
        assert tokenizer.encode(case["text"]) == [1, *case[tokenizer.version]]


def test_fim_ids_are_those_of_mistral_common(
    tokenizers: dict[str, Tokenizer], golden_chat: dict[str, Any]
) -> None:
    for case in golden_chat["fim_v3"]:
        assert tokenizers["v3"].encode_fim(case["prompt"], case["suffix"]) == case["ids"]


def test_text_and_stream_deltas_are_the_golden_ones(
    tokenizers: dict[str, Tokenizer], golden_decode: list[dict[str, Any]]
) -> None:
    for case in golden_decode:
        tokenizer = tokenizers[case["tokenizer"]]
        assert tokenizer.decode(case["ids"]) == case["text"]
        decoder = StreamDecoder(tokenizer)
        assert [decoder.push(i) for i in case["ids"]] == case["stream_deltas"]
        assert decoder.flush() == ""


def test_golden_files_are_what_mistral_common_gives() -> None:
    script = runpy.run_path(str(GOLDEN / "regenerate.py"))
    assert script["differences"]() == []
