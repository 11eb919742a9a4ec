"""Prompts of the passkey task: exact lengths, the key where it should be, prefixes in common."""

import random
from itertools import pairwise

import pytest

from mixtral.errors import ConfigError
from mixtral.eval.lengths import doubling_lengths, parse_depths, parse_lengths
from mixtral.eval.passkey import (
    COMPLETION_QUESTION,
    KEY_LINE,
    QUESTION,
    SENTENCES,
    TASK,
    PromptWriter,
    RepeatedSentences,
    Style,
    TextFiller,
)
from mixtral.tokenizer import Tokenizer, load_tokenizer

DEPTHS = (0.0, 10.0, 50.0, 90.0, 100.0)
NOVEL = " ".join(f"Chapter {n} went by, and nobody (not even Bo) knew why! Or did they?" for n in
                 range(300))  # fmt: skip


@pytest.fixture(scope="module", params=["v1", "v3"])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return load_tokenizer(request.param)


def writer_for(
    tokenizer: Tokenizer, *, style: Style = "completion", text: str = "", seed: int = 0
) -> PromptWriter:
    filler = TextFiller(tokenizer, text, name="novel") if text else RepeatedSentences(tokenizer)
    return PromptWriter(tokenizer, filler, style=style, seed=seed)


@pytest.mark.parametrize("style", ["chat", "completion"])
@pytest.mark.parametrize("text", ["", NOVEL])
def test_prompt_and_answer_have_exactly_the_length(
    tokenizer: Tokenizer, style: Style, text: str
) -> None:
    writer = writer_for(tokenizer, style=style, text=text)
    lengths = (writer.shortest, writer.shortest + 1, 300, 301, 1024)
    for length in lengths:
        for depth in DEPTHS:
            prompt = writer.write(length, depth, case=1)
            assert len(prompt.token_ids) + writer.answer_tokens == length


@pytest.mark.parametrize("style", ["chat", "completion"])
@pytest.mark.parametrize("text", ["", NOVEL])
def test_prompt_says_what_the_paper_says_with_the_key_once(
    tokenizer: Tokenizer, style: Style, text: str
) -> None:
    prompt = writer_for(tokenizer, style=style, text=text).write(400, 50, case=0)
    first, before, key_line, after, last = tokenizer.decode(prompt.token_ids).split("\n")
    assert TASK in first
    assert key_line == KEY_LINE.format(key=prompt.key)
    # The filler goes on where the key interrupts it.
    assert before + after in (text or " ".join([SENTENCES] * 30))
    assert (QUESTION if style == "chat" else COMPLETION_QUESTION) in last
    assert last.endswith("is") is (style == "completion")
    assert before.endswith((".", "!", "?"))


def test_tokens_are_those_of_the_text(tokenizer: Tokenizer) -> None:
    # So the model reads what it would read if a user typed the prompt.
    for length in (300, 311, 400):
        ids = writer_for(tokenizer).write(length, 50, case=0).token_ids
        assert tokenizer.encode(tokenizer.decode(ids)) == ids


@pytest.mark.parametrize("text", ["", NOVEL])
def test_key_goes_to_the_sentence_end_nearest_to_its_depth(tokenizer: Tokenizer, text: str) -> None:
    writer = writer_for(tokenizer, text=text)
    prompts = [writer.write(2000, depth, case=0) for depth in DEPTHS]
    places = [prompt.key_position for prompt in prompts]
    filler = places[-1] - places[0]
    for depth, place in zip(DEPTHS, places, strict=True):
        # No sentence of these texts has 24 tokens.
        assert abs(place - places[0] - filler * depth / 100) < 13
    assert all(a < b for a, b in pairwise(places))


@pytest.mark.parametrize("text", ["", NOVEL])
def test_prompts_of_all_depths_agree_up_to_the_first_key(tokenizer: Tokenizer, text: str) -> None:
    writer = writer_for(tokenizer, text=text)
    prompts = [writer.write(700, depth, case=2) for depth in DEPTHS]
    for a, b in pairwise(prompts):
        # The line end before the earlier key is the first token that may differ.
        shared = a.key_position - 1
        assert a.token_ids[:shared] == b.token_ids[:shared]


def test_same_seed_gives_same_prompts_and_another_gives_others(tokenizer: Tokenizer) -> None:
    first = writer_for(tokenizer, text=NOVEL).write(500, 50, 3)
    assert writer_for(tokenizer, text=NOVEL).write(500, 50, 3) == first
    other = writer_for(tokenizer, text=NOVEL, seed=1).write(500, 50, 3)
    assert (other.key, other.filler_start) != (first.key, first.filler_start)


def test_each_case_has_another_key_and_another_piece_of_the_text(tokenizer: Tokenizer) -> None:
    writer = writer_for(tokenizer, text=NOVEL)
    prompts = [writer.write(500, 50, case) for case in range(8)]
    assert len({prompt.key for prompt in prompts}) == 8
    assert len({prompt.filler_start for prompt in prompts}) > 4
    assert all(len(prompt.key) == 5 for prompt in prompts)


def test_what_does_not_fit_is_named(tokenizer: Tokenizer) -> None:
    with pytest.raises(ConfigError, match=r"length is 40; .* below 1"):
        writer_for(tokenizer).write(40, 50, 0)
    with pytest.raises(ConfigError, match=r"novel has .* tokens, and .* are to be filled"):
        writer_for(tokenizer, text="Too short.").write(500, 50, 0)


def test_text_without_sentences_is_cut_at_the_depth_itself(tokenizer: Tokenizer) -> None:
    words = " ".join(random.Random(0).choices(("red", "blue", "green"), k=2000))
    writer = writer_for(tokenizer, text=words)
    low, middle, high = (writer.write(500, depth, 0).key_position for depth in (0, 50, 100))
    assert abs((middle - low) - (high - low) / 2) <= 1


@pytest.mark.parametrize("text", ["", "0", "1k,", "1.3", "-5", "k", "1kk", "1e3", "9" * 20, "ä"])
def test_wrong_lengths_are_named(text: str) -> None:
    with pytest.raises(ConfigError, match="lengths is"):
        parse_lengths("lengths", text)


@pytest.mark.parametrize("text", ["", ",", "-1,5", "0,101", "0", "102", "2.5", "a,b", "nan,1"])
def test_wrong_depths_are_named(text: str) -> None:
    with pytest.raises(ConfigError, match="depths is"):
        parse_depths(text)


def test_lengths_double_up_to_the_whole_context() -> None:
    assert doubling_lengths(2048) == (512, 1024, 2048)
    assert doubling_lengths(511) == (511,)
