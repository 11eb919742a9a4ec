"""Text files as sequences of token ids."""

import json
from pathlib import Path

import pytest

from mixtral.calibrate import read_sequences
from mixtral.errors import ConfigError
from mixtral.tokenizer import Tokenizer, load_tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return load_tokenizer("v3")


def test_plain_text_comes_in_pieces_that_all_begin_a_sequence(
    tmp_path: Path, tokenizer: Tokenizer
) -> None:
    text = "The quick brown fox jumps over the lazy dog.\n" * 20
    (tmp_path / "a.txt").write_text(text, encoding="utf-8")
    pieces = list(read_sequences(tmp_path / "a.txt", tokenizer, sequence_tokens=50))
    assert all(piece[0] == tokenizer.bos_id for piece in pieces)
    assert {len(piece) for piece in pieces[:-1]} == {50}
    assert [i for piece in pieces for i in piece[1:]] == tokenizer.encode(text, bos=False)


def test_large_text_is_read_in_stretches(tmp_path: Path, tokenizer: Tokenizer) -> None:
    line = "word " * 200 + "\n"
    (tmp_path / "a.txt").write_text(line * 200, encoding="utf-8")
    first = next(read_sequences(tmp_path / "a.txt", tokenizer, sequence_tokens=10))
    assert first == tokenizer.encode(line)[:10]


def test_lines_of_json_are_texts_or_conversations(tmp_path: Path, tokenizer: Tokenizer) -> None:
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]
    lines = [{"text": "One."}, {"messages": messages}, {"messages": messages[:1]}]
    file = tmp_path / "a.jsonl"
    file.write_text("\n".join(json.dumps(line) for line in lines) + "\n\n", encoding="utf-8")
    text, answered, asked = read_sequences(file, tokenizer)
    assert text == tokenizer.encode("One.")
    assert asked == tokenizer.encode_chat(messages[:1])
    assert answered[: len(asked)] == asked
    assert answered[-1] == tokenizer.eos_id
    assert tokenizer.decode(answered[len(asked) :]) == "Hello."


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2 is not JSON"),
        ("[" * 100_000, "line 2 is not JSON"),
        ('{"text": ' + "9" * 5000 + "}", "line 2 is not JSON"),
        ('{"text": "\\ud800"}', "line 2: .*surrogate"),
        ('{"messages": [{"role": "user", "content": "\\ud800"}]}', "line 2: .*surrogate"),
        ('{"prompt": "x"}', 'line 2 must be an object with "text" or "messages"'),
        ('{"text": 5}', "line 2 must be an object"),
        ('{"messages": [{"role": "nobody", "content": "x"}]}', "line 2: "),
        ('{"messages": 7}', "line 2: "),
        ('{"messages": [{"content": "x"}]}', "line 2: "),
        ('{"messages": [5]}', "line 2: "),
    ],
)
def test_line_that_is_neither_is_refused_by_number(
    tmp_path: Path, tokenizer: Tokenizer, line: str, message: str
) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text('{"text": "fine"}\n' + line, encoding="utf-8")
    with pytest.raises(ConfigError, match=message):
        list(read_sequences(file, tokenizer))


def test_file_that_is_no_text_is_refused(tmp_path: Path, tokenizer: Tokenizer) -> None:
    (tmp_path / "a.bin").write_bytes(b"\xff\xfe\x00")
    for name in ("a.bin", "missing.txt"):
        with pytest.raises(ConfigError, match=f"{name} cannot be read as UTF-8 text"):
            list(read_sequences(tmp_path / name, tokenizer))
