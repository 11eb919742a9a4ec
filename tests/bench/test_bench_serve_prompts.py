"""What the load generator sends."""

import random
from pathlib import Path

import pytest

from mixtral.bench.serve_prompts import (
    BodyOptions,
    Prompt,
    PromptOptions,
    random_prompts,
    read_prompts,
)
from mixtral.errors import ConfigError, InvalidRequest


def test_random_prompts_differ_after_the_shared_prefix() -> None:
    wanted = PromptOptions(prompt_tokens=10, shared_prefix_tokens=6, vocab_size=32000, seed=1)
    prompts = [p.content for salt in "ab" for p in random_prompts(wanted, 20, salt=salt)]
    assert {len(prompt) for prompt in prompts} == {10}
    assert len({tuple(prompt[:6]) for prompt in prompts}) == 1  # type: ignore[arg-type]
    assert len({tuple(prompt[6:]) for prompt in prompts}) == 40  # type: ignore[arg-type]
    assert prompts[:20] == [p.content for p in random_prompts(wanted, 20, salt="a")]


def test_random_texts_have_a_word_per_token() -> None:
    prompt = random_prompts(PromptOptions(prompt_tokens=12, form="text"), 1, salt="a")[0]
    assert isinstance(prompt.content, str)
    assert len(prompt.content.split(" ")) == 12


@pytest.mark.parametrize("seed", range(3))
def test_random_ids_stay_inside_a_small_vocabulary(seed: int) -> None:
    size = random.Random(seed).randrange(2, 300)
    prompt = random_prompts(PromptOptions(vocab_size=size, seed=seed), 1, salt="a")[0]
    assert all(0 < token_id < size for token_id in prompt.content)  # type: ignore[operator]


def test_chat_takes_texts_and_messages() -> None:
    body = BodyOptions(endpoint="chat", model="m")
    messages = [{"role": "user", "content": "hi"}]
    assert body.write(Prompt(content="hi", max_tokens=1)) == body.write(
        Prompt(content=messages, max_tokens=1)
    )
    with pytest.raises(ConfigError, match="takes no token ids"):
        body.write(Prompt(content=[1, 2], max_tokens=1))
    with pytest.raises(ConfigError, match="messages need --endpoint chat"):
        BodyOptions(model="m").write(Prompt(content=messages, max_tokens=1))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("nonsense", "line 2 is not JSON"),
        ("[1]", "must be an object with either prompt or messages"),
        ('{"prompt": "a", "messages": []}', "either prompt or messages"),
        ('{"prompt": "a", "temperature": 1}', "has 'temperature'"),
        ('{"prompt": "a", "max_tokens": 0}', "max_tokens is 0"),
        ('{"prompt": "a", "max_tokens": true}', "max_tokens is True"),
        ('{"prompt": []}', "a text or a list of token ids"),
        ('{"prompt": [1, "2"]}', "a text or a list of token ids"),
        ('{"messages": "hi"}', "a list of objects"),
    ],
)
def test_a_wrong_line_of_a_file_is_named(tmp_path: Path, line: str, message: str) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text('{"prompt": "a"}\n' + line)
    with pytest.raises(InvalidRequest, match=message):
        read_prompts(file, new_tokens=1)


def test_prompts_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "absent.jsonl"):
        with pytest.raises(InvalidRequest, match=r"cannot be read: .*; name a JSONL file"):
            read_prompts(path, new_tokens=1)
