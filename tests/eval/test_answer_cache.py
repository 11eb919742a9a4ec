"""Answers on disk: nothing is asked twice, and nothing of another model is used."""

from pathlib import Path

import pytest

from mixtral.errors import ConfigError
from mixtral.eval.answer_cache import AnswerCache, question_key


def test_answers_are_there_in_the_next_run(tmp_path: Path) -> None:
    path, key = tmp_path / "answers.jsonl", question_key("loglikelihood", ["a\u2028b", "c"])
    with AnswerCache(path, {"model": "m"}) as cache:
        cache[key] = {"logprob": -1.25, "text": "line\u2028end"}
    with AnswerCache(path, {"model": "m"}) as again:
        assert again[key] == {"logprob": -1.25, "text": "line\u2028end"}
        assert len(again) == 1


def test_half_line_of_a_killed_run_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    with AnswerCache(path, {}) as cache:
        cache["a"], cache["b"] = 1, 2
    path.write_bytes(path.read_bytes()[:-4])
    with AnswerCache(path, {}) as cache:
        assert "a" in cache
        assert "b" not in cache
        cache["b"] = 3
    with AnswerCache(path, {}) as cache:
        assert (cache["a"], cache["b"]) == (1, 3)


def test_answers_of_another_model_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    AnswerCache(path, {"model": "one"}).__exit__(None, None, None)
    with pytest.raises(ConfigError, match="answers of another model"):
        AnswerCache(path, {"model": "two"})


@pytest.mark.parametrize(
    "content",
    [
        b"not\njson\n",
        b'{"my": "labelled answers, no newline"}',
        b'{"my": 1}\n{"my": 2}',
        b"[" * 5000 + b"\n",
        b'{"asked_of": "me"}\n',
    ],
)
def test_file_of_the_user_is_refused_and_stays_as_it_is(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "answers.jsonl"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="is no file of answers"):
        AnswerCache(path, {"model": "m"})
    assert path.read_bytes() == content


def test_header_that_a_killed_run_left_half_is_written_anew(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    AnswerCache(path, {"model": "m"}).__exit__(None, None, None)
    whole = path.read_bytes()
    path.write_bytes(whole[:9])
    AnswerCache(path, {"model": "m"}).__exit__(None, None, None)
    assert path.read_bytes() == whole


def test_answers_of_another_model_stay_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    with AnswerCache(path, {"model": "one"}) as cache:
        cache["a"] = 1
    path.write_bytes(path.read_bytes()[:-3])
    before = path.read_bytes()
    with pytest.raises(ConfigError, match="answers of another model"):
        AnswerCache(path, {"model": "two"})
    assert path.read_bytes() == before


@pytest.mark.parametrize("line", ["[1]", "[" * 5000, '{"key": "a"}', "oh no"])
def test_damaged_answer_is_named_with_its_line(tmp_path: Path, line: str) -> None:
    path = tmp_path / "answers.jsonl"
    path.write_text(f'{{"asked_of": {{}}}}\n{line}\n')
    with pytest.raises(ConfigError, match="line 2 is damaged"):
        AnswerCache(path, {})
