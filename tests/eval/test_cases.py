import pytest

from mixtral.errors import ConfigError
from mixtral.eval.cases import EXCERPTS, ROWS, fill, read_cases, read_excerpt, read_pairs


def test_every_row_has_cases_and_every_case_a_row() -> None:
    cases = read_cases()
    assert {case.task for case in cases} == {row.task for row in ROWS}
    for row in ROWS:
        asked = [case for case in cases if case.task == row.task]
        assert len(asked) >= 50
        assert len({str((case.messages, case.tools)) for case in asked}) == len(asked)


def test_cases_end_with_a_question_and_have_no_filler_left() -> None:
    for case in read_cases():
        assert case.messages[-1]["role"] in ("user", "tool")
        assert "{filler}" not in str(case.messages)


def test_a_hidden_key_stands_in_the_text_around_it() -> None:
    for case in read_cases(20):
        if case.task.startswith("passkey"):
            assert str(case.expected) in str(case.messages[-1]["content"])


def test_a_limit_takes_so_many_of_each_row() -> None:
    assert len(read_cases(2)) == 2 * len(ROWS)
    with pytest.raises(ConfigError, match="limit is 0"):
        read_cases(0)


def test_pairs_have_two_different_answers() -> None:
    pairs = read_pairs()
    assert len(pairs) >= 100
    assert all(pair.chosen != pair.rejected for pair in pairs)
    assert len(read_pairs(3)) == 3


def test_excerpts_are_long_enough_for_4096_tokens() -> None:
    assert all(len(read_excerpt(name)) > 50_000 for name in EXCERPTS)


def test_a_filler_keeps_the_text_and_adds_the_insert() -> None:
    filler = {"book": EXCERPTS[0], "start": 100, "length": 50, "at": 20, "insert": "<key>"}
    text = fill("a {filler} b", filler)
    assert text.replace("<key>", "") == f"a {read_excerpt(EXCERPTS[0])[100:150]} b"
    assert text.index("<key>") == 2 + 20
