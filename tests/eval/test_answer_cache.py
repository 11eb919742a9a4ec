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


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    path.write_text("not\njson\n")
    with pytest.raises(ConfigError, match="is no file of answers"):
        AnswerCache(path, {})
