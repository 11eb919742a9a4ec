"""Streaming: joined deltas are the whole text, and a stop string is cut wherever it falls."""

import random
from collections.abc import Sequence

import pytest

from mixtral.errors import InvalidRequest
from mixtral.tokenizer import StopChecker, StreamDecoder, Tokenizer, load_tokenizer


def stream(
    tokenizer: Tokenizer, token_ids: list[int], prompt_ids: list[int] | None = None
) -> list[str]:
    decoder = StreamDecoder(tokenizer, prompt_ids or [])
    return [*(decoder.push(i) for i in token_ids), decoder.flush()]


def byte_ids(tokenizer: Tokenizer, data: bytes) -> list[int]:
    first = {"v1": 3, "v3": 771}[tokenizer.version]
    return [first + value for value in data]


def random_ids(tokenizer: Tokenizer, rng: random.Random) -> list[int]:
    """Mix any ids with control tokens and with bytes that often form, or break, a character."""
    token_ids: list[int] = []
    for _ in range(rng.randrange(1, 30)):
        kind = rng.randrange(5)
        if kind == 0:
            token_ids.append(rng.choice([0, 1, 2, max(tokenizer.control_ids)]))
        elif kind == 1:
            token_ids += byte_ids(tokenizer, rng.randbytes(rng.randrange(1, 5)))
        elif kind == 2:
            character = chr(rng.choice([0x20AC, 0x1F600, 0xE9, 0xD7FF, 0x10FFFF])).encode()
            token_ids += byte_ids(tokenizer, character[: rng.randrange(1, len(character) + 1)])
        elif kind == 3:
            token_ids += tokenizer.encode(rng.choice(["", " ", "  two", "word", "\n"]), bos=False)
        else:
            token_ids.append(rng.randrange(tokenizer.vocab_size))
    return token_ids


def test_joined_deltas_are_the_whole_text_for_any_ids(tokenizer: Tokenizer) -> None:
    rng = random.Random(0)
    for _ in range(1000):
        token_ids = random_ids(tokenizer, rng)
        assert "".join(stream(tokenizer, token_ids)) == tokenizer.decode(token_ids), token_ids


def test_joined_deltas_continue_the_prompt_for_any_ids(tokenizer: Tokenizer) -> None:
    rng = random.Random(1)
    for _ in range(1000):
        prompt_ids, token_ids = random_ids(tokenizer, rng), random_ids(tokenizer, rng)
        text = "".join(stream(tokenizer, token_ids, prompt_ids))
        whole = tokenizer.decode(prompt_ids + token_ids)
        assert whole.endswith(text)
        before = tokenizer.decode(prompt_ids)
        held_bytes = len(before) - (len(whole) - len(text))
        assert 0 <= held_bytes <= 3
        assert before[len(before) - held_bytes :] == "\ufffd" * held_bytes


def test_no_delta_holds_half_a_character(tokenizer: Tokenizer) -> None:
    text = "\u20ac\U0001f469\u200d\U0001f467 na\u00efve \u4f60\u597d \U0010ffff"
    deltas = stream(tokenizer, tokenizer.encode(text, bos=False))
    assert "".join(deltas) == text
    assert not any("\ufffd" in delta for delta in deltas)


def test_continuation_keeps_the_leading_space_and_an_answer_drops_it(
    tokenizers: dict[str, Tokenizer],
) -> None:
    tokenizer = tokenizers["v3"]
    hello = tokenizer.encode("Hello", bos=False)
    assert stream(tokenizer, hello) == ["Hello", ""]
    assert stream(tokenizer, hello, [1, *hello]) == [" Hello", ""]
    assert stream(tokenizer, hello, [1, 3]) == ["Hello", ""]
    assert stream(tokenizer, [1, *hello]) == ["", "Hello", ""]


def test_character_begun_in_the_prompt_is_finished_in_the_stream(tokenizer: Tokenizer) -> None:
    first, *rest = byte_ids(tokenizer, "\u20ac".encode())
    prompt_ids = [*tokenizer.encode("x"), first]
    assert stream(tokenizer, rest, prompt_ids) == ["", "\u20ac", ""]


class CountingTokenizer(Tokenizer):
    """A tokenizer that counts the ids it decodes."""

    num_decoded = 0

    def decode(self, token_ids: Sequence[int]) -> str:
        """Count, then decode."""
        self.num_decoded += len(token_ids)
        return super().decode(token_ids)

    def decode_continuation(self, token_ids: Sequence[int]) -> str:
        """Count, then decode."""
        self.num_decoded += len(token_ids)
        return super().decode_continuation(token_ids)


@pytest.mark.parametrize("kind", ["random", "lone continuation bytes", "lead bytes"])
def test_20000_tokens_are_each_decoded_once(kind: str) -> None:
    tokenizer = load_tokenizer("v3")
    tokenizer.__class__ = CountingTokenizer
    assert isinstance(tokenizer, CountingTokenizer)
    rng = random.Random(2)
    data = {"random": b"", "lone continuation bytes": b"\x80", "lead bytes": b"\xf0"}[kind]
    ids = byte_ids(tokenizer, data * 20_000) or [rng.randrange(32768) for _ in range(20_000)]
    decoder = StreamDecoder(tokenizer)
    for token_id in ids:
        decoder.push(token_id)
    decoder.flush()
    assert tokenizer.num_decoded == 20_000


def naive_stop(text: str, stops: list[str]) -> tuple[str, str | None]:
    """Look at the whole text: the stop that ends first wins, of two the one that begins first."""
    found = [(text.find(s) + len(s), text.find(s), s) for s in stops if s in text]
    if not found:
        return text, None
    _, start, stop = min(found)
    return text[:start], stop


def test_stop_is_the_same_for_any_cut_of_the_text() -> None:
    rng = random.Random(3)
    for _ in range(5000):
        stops = ["".join(rng.choices("ab", k=rng.randrange(1, 6))) for _ in range(rng.randrange(4))]
        text = "".join(rng.choices("abc", weights=[4, 4, 1], k=rng.randrange(30)))
        checker, shown, rest = StopChecker(stops), "", text
        while rest:
            size = rng.randrange(0, 6)
            shown += checker.push(rest[:size])
            rest = rest[size:]
            assert text.startswith(shown)
        shown += checker.flush()
        assert (shown, checker.stopped) == naive_stop(text, stops), (text, stops)


def test_only_the_possible_beginning_of_a_stop_is_held_back() -> None:
    checker = StopChecker(["\nUser:"])
    assert [checker.push(t) for t in ("Hi", "!\n", "Us", "a", "ge\n")] == [
        "Hi",
        "!",
        "",
        "\nUsa",
        "ge",
    ]
    assert checker.flush() == "\n"
    assert checker.stopped is None


def test_nothing_follows_a_stop() -> None:
    checker = StopChecker("END")
    assert checker.push("one END two") == "one "
    assert (checker.stopped, checker.push("three"), checker.flush()) == ("END", "", "")


def test_no_stop_strings_pass_everything_on() -> None:
    checker = StopChecker([])
    assert (checker.push("abc"), checker.flush(), checker.stopped) == ("abc", "", None)


@pytest.mark.parametrize("stop", ["", ["a", ""], [3]])
def test_empty_stop_strings_are_refused(stop: list[str]) -> None:
    with pytest.raises(InvalidRequest, match="non-empty string"):
        StopChecker(stop)
