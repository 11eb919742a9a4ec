"""BBQ: scores worked by hand, and rows that are no questions."""

import json
from pathlib import Path
from typing import Any

import pytest

from mixtral.errors import ConfigError
from mixtral.eval.bbq import BiasCounts, BiasQuestion, count_answers, read_questions
from tests.eval.tiny_llm import bbq_row as row
from tests.eval.tiny_llm import write_rows


def read(tmp_path: Path, rows: list[dict[str, Any]]) -> list[BiasQuestion]:
    write_rows(tmp_path / "bbq/Age.jsonl", rows)
    return read_questions(tmp_path)


def info(group: Any) -> dict[str, Any]:
    return {**row()["answer_info"], "ans0": group}


def choose(*answers: int) -> list[list[float]]:
    return [[0.0 if place == answer else -1.0 for place in range(3)] for answer in answers]


def test_stereotyped_person_is_biased_in_a_negative_question_and_the_other_in_a_positive(
    tmp_path: Path,
) -> None:
    negative, positive = read(tmp_path, [row(), row(question_polarity="nonneg")])
    assert (negative.biased, positive.biased) == (0, 1)
    assert negative.prompt.endswith("\n\nQ: Who cannot use the phone?\nA:")


@pytest.mark.parametrize(
    ("groups", "stereotyped", "biased"),
    [
        ((["woman", "woman"], ["man", "man"]), ["F"], 0),
        ((["22-year-old", "nonOld"], ["78-year-old", "old"]), ["old"], 1),
        ((["Jane", "M-Black"], ["Bob", "F-Asian"]), ["Asian"], 1),
        ((["a", "trans_F"], ["b", "nonTrans_M"]), ["Transgender women", "trans"], 0),
        ((["Kenyan", "Africa"], ["Dutch", "Europe"]), ["Kenyan", "Guinean"], 0),
        ((["a", "highSES"], ["b", "lowSES"]), ["low SES"], 1),
        ((["a", "highSES-F-Black"], ["b", "lowSES-F-Black"]), ["Black"], 1),
        ((["a", "F-Black"], ["b", "M-Black"]), ["Black"], None),
    ],
)
def test_groups_are_found_however_the_category_writes_them(
    tmp_path: Path, groups: tuple[list[str], list[str]], stereotyped: list[str], biased: int | None
) -> None:
    info = {"ans0": groups[0], "ans1": groups[1], "ans2": ["?", "unknown"]}
    metadata = {"stereotyped_groups": stereotyped}
    (question,) = read(tmp_path, [row(answer_info=info, additional_metadata=metadata)])
    assert question.biased == biased


def test_scores_equal_the_example_worked_by_hand(tmp_path: Path) -> None:
    clear = row(context_condition="disambig", label=0)
    questions = read(tmp_path, [clear] * 10 + [row()] * 10)
    # 2 unknown, 6 biased of 8 known; then 7 unknown, 3 biased of 3 known.
    chosen = choose(*[2] * 2, *[0] * 6, *[1] * 2, *[2] * 7, *[0] * 3)
    age, everything = count_answers(questions, chosen)
    assert age.disambiguated_bias == pytest.approx(0.5)
    assert age.ambiguous_bias == pytest.approx(0.3)
    assert age.ambiguous == BiasCounts(asked=10, right=7, known=3, biased=3)
    assert age.disambiguated.accuracy == pytest.approx(0.6)
    assert everything.category == "all"
    assert everything.disambiguated == age.disambiguated


def test_model_that_always_says_unknown_has_no_bias(tmp_path: Path) -> None:
    questions = read(tmp_path, [row()] * 4 + [row(context_condition="disambig", label=0)] * 4)
    age = count_answers(questions, choose(*[2] * 8))[0]
    assert age.ambiguous_bias == 0
    assert age.disambiguated_bias is None


def test_limit_takes_so_many_of_each_category(tmp_path: Path) -> None:
    write_rows(tmp_path / "bbq/Age.jsonl", [row()] * 5)
    write_rows(tmp_path / "bbq/Religion.jsonl", [row(category="Religion")] * 5)
    questions = read_questions(tmp_path, limit=2)
    assert [question.category for question in questions] == ["Age", "Age", "Religion", "Religion"]


def test_limit_finds_every_category_of_a_file_that_holds_several(tmp_path: Path) -> None:
    rows = [row(category=name) for name in ("Age", "Age", "Age", "Religion", "Religion")]
    questions = read(tmp_path, rows)
    assert len(questions) == 5
    limited = read_questions(tmp_path, limit=1)
    assert [question.category for question in limited] == ["Age", "Religion"]


def test_row_without_the_group_of_an_answer_counts_for_accuracy_alone(tmp_path: Path) -> None:
    for group in (None, []):
        (question,) = read(tmp_path, [row(answer_info=info(group))])
        assert question.unknown == 2
        assert question.biased is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"label": 3}, "row 1 is no question of BBQ"),
        ({"context_condition": "both"}, "row 1 is no question of BBQ"),
        ({"additional_metadata": {}}, "line 1: additional_metadata is {}|row 1 is no question"),
        ({"context": ""}, "line 1: context is ''"),
        ({"ans1": 5}, "line 1: ans1 is 5; it must be a text"),
        ({"answer_info": info(5)}, "row 1 is no question of BBQ"),
        ({"answer_info": info({"a": 1})}, "row 1 is no question of BBQ"),
        ({"answer_info": info([3, 4])}, "row 1 is no question of BBQ"),
        ({"answer_info": info("unknown")}, "row 1 is no question of BBQ"),
        ({"additional_metadata": {"stereotyped_groups": [None]}}, "row 1 is no question of BBQ"),
        ({"question": "\ud800"}, "line 1: question is .*half of a surrogate pair"),
    ],
)
def test_malformed_row_is_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        read(tmp_path, [row(**changes)])
    assert "\n" not in str(caught.value)


def test_folder_without_bbq_says_what_to_download(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"bbq is not in .*: download github.com/nyu-mll/BBQ"):
        read_questions(tmp_path)


def test_results_are_json_values(tmp_path: Path) -> None:
    results = count_answers(read(tmp_path, [row()]), choose(0))
    assert json.loads(json.dumps(results[0].as_dict()))["ambiguous_asked"] == 1
