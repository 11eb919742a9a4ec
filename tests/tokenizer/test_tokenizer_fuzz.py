"""10,000 hostile strings: no text becomes a control token, and what is encoded comes back."""

import random

import pytest

from mixtral.errors import InvalidRequest
from mixtral.tokenizer import Tokenizer

SPACE_OF_PIECES = "\u2581"
# fmt: off
PARTS = (
    "<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[TOOL_CALLS]", "[AVAILABLE_TOOLS]", "[PREFIX]",
    "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]", "[control_12]", "<0x0A>", "<0xE2>",
    "[REFERENCE_DOC_0]", "[SUFFIX]", "<pad>", "\u2581<s>", "<\u200bs>", "\u2581[INST]", "\u2581",
    " ", "  ", "\n", "\r\n", "\t", "\x00", "\x1b", "\xa0", "\u3000", "\u200b", "\u200d", "\ufeff",
    "\u202e", "\u05e9\u05dc\u05d5\u05dd", "\u0645\u0631\u062d\u0628\u0627", "e\u0301", "\ufffd",
    "\U0001f469\u200d\U0001f467", "\U0001f1eb\U0001f1f7", "\ufdfa", "\u2047", "\ufffe", "\ufb01",
)
# fmt: on


def hostile_text(rng: random.Random) -> str:
    """Splice spellings of control tokens, whole or cut, with any characters and long runs."""
    parts = []
    for _ in range(rng.randrange(1, 12)):
        kind = rng.randrange(6)
        part = rng.choice(PARTS)
        if kind == 0:
            part = "".join(chr(rng.randrange(0x110000)) for _ in range(rng.randrange(8)))
        elif kind == 1:
            cut = rng.randrange(len(part) + 1)
            part = part[:cut] + rng.choice(["", " ", "\u200b", "\0"]) + part[cut:]
        elif kind == 2:
            part = "".join(chr(rng.randrange(0x20, 0x250)) for _ in range(rng.randrange(12)))
        elif kind == 3 and rng.random() < 0.02:
            part *= rng.randrange(100, 2000)
        parts.append(part)
    text = "".join(parts)
    return "".join(c for c in text if not 0xD800 <= ord(c) < 0xE000)


@pytest.mark.parametrize("seed", range(4))
def test_no_text_gives_a_control_id_and_every_text_comes_back(
    tokenizer: Tokenizer, seed: int
) -> None:
    rng = random.Random(seed)
    for _ in range(2500):
        text = hostile_text(rng)
        token_ids = tokenizer.encode(text, bos=False)
        assert tokenizer.control_ids.isdisjoint(token_ids), text
        decoded = tokenizer.decode(token_ids)
        assert decoded == text.replace(SPACE_OF_PIECES, " "), text
        assert tokenizer.encode(decoded, bos=False) == token_ids, text
        assert (
            b"".join(map(tokenizer.token_bytes, token_ids)).removeprefix(b" ") == decoded.encode()
        )


def test_no_chat_of_hostile_texts_has_more_control_ids_than_a_plain_one(
    tokenizer: Tokenizer,
) -> None:
    rng = random.Random(9)

    def controls(texts: list[str]) -> list[int]:
        roles = ("system", "user", "assistant", "user")
        messages = [{"role": r, "content": t} for r, t in zip(roles, texts, strict=True)]
        return [i for i in tokenizer.encode_chat(messages) if i in tokenizer.control_ids]

    expected = controls(["x"] * 4)
    for _ in range(300):
        assert controls(["x" + hostile_text(rng) for _ in range(4)]) == expected


def test_single_characters_of_every_block_come_back(tokenizer: Tokenizer) -> None:
    for code in range(0, 0x110000, 97):
        if not 0xD800 <= code < 0xE000 and chr(code) != SPACE_OF_PIECES:
            token_ids = tokenizer.encode(chr(code), bos=False)
            assert tokenizer.decode(token_ids) == chr(code)
            assert tokenizer.control_ids.isdisjoint(token_ids)


def test_lone_surrogates_are_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(InvalidRequest, match="lone surrogate U\\+DFFF at character 2"):
        tokenizer.encode("ab\udfff")
    with pytest.raises(InvalidRequest, match="has type bytes"):
        tokenizer.encode(b"ab")  # type: ignore[arg-type]


def test_reference_docs_are_text_with_an_id_of_their_own(tokenizers: dict[str, Tokenizer]) -> None:
    assert tokenizers["v3"].encode("[REFERENCE_DOC_0]", bos=False) == [29473, 770]
    assert tokenizers["v3"].decode([29473, 770]) == "[REFERENCE_DOC_0]"
    assert 770 not in tokenizers["v3"].control_ids


def test_names_of_tokens(tokenizers: dict[str, Tokenizer]) -> None:
    tokenizer = tokenizers["v3"]
    names = [tokenizer.decode_token(i) for i in (0, 1, 2, 3, 5, 771, 781, 997, 23325)]
    assert names == [
        "<unk>",
        "<s>",
        "</s>",
        "[INST]",
        "[TOOL_CALLS]",
        "\x00",
        "\n",
        "bytes:\\xe2",
        " Hello",
    ]
    assert [tokenizer.token_bytes(i) for i in (2, 3, 781, 997, 23325)] == [
        b"",
        b"",
        b"\n",
        b"\xe2",
        b" Hello",
    ]


def test_every_token_has_bytes_that_add_up_to_the_text(tokenizer: Tokenizer) -> None:
    for token_id in range(tokenizer.vocab_size):
        data = tokenizer.token_bytes(token_id)
        text = tokenizer.decode_continuation([token_id])
        assert data.decode("utf-8", "replace") == text, token_id
        assert isinstance(tokenizer.decode_token(token_id), str)


@pytest.mark.parametrize("token_id", [-1, 32768 * 2])
def test_ids_outside_the_vocabulary_are_refused(tokenizer: Tokenizer, token_id: int) -> None:
    for decode in (
        lambda i: tokenizer.decode([5, i]),
        tokenizer.token_bytes,
        tokenizer.decode_token,
    ):
        with pytest.raises(InvalidRequest, match=f"token id {token_id} is outside 0.."):
            decode(token_id)
