"""Rows from a folder: those of the hub come out, and every wrong one is a line with its place."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from mixtral.errors import ConfigError, UnsupportedError
from mixtral.eval.benchmark_run import RunSettings, check_plan
from mixtral.eval.local_data import read_benchmark
from mixtral.eval.local_layouts import LAYOUTS
from tests.eval.local_rows import GOOD, good_rows, write_rows_of


@pytest.mark.parametrize("name", sorted(LAYOUTS))
def test_every_benchmark_is_read_from_its_files(tmp_path: Path, name: str) -> None:
    write_rows_of(tmp_path, name, good_rows(name))
    (splits,) = read_benchmark(tmp_path, name).values()
    assert set(splits) == set(LAYOUTS[name].files)
    assert all(splits.values())
    allowed = RunSettings(data=tmp_path, allow_code_execution=True)
    assert [benchmark.name for benchmark in check_plan([name], allowed)] == [name]


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("arc_easy", {"question": ""}, "question is ''; it must be a text"),
        ("arc_easy", {"choices": "sea"}, "choices is 'sea'; it must be a list of texts"),
        ("arc_easy", {"choices": ["sea", ""]}, "choices is .*, none of them empty"),
        ("arc_easy", {"choices": ["sea", 7]}, "choices is .*, none of them empty"),
        ("arc_easy", {"choices": ["sea"]}, "there are 1 choices; there must be from 2 to 10"),
        ("arc_easy", {"answer": 4}, "the answer is 4; it must be from 0 to 3, a choice"),
        ("arc_easy", {"answer": -1}, "the answer is -1"),
        ("arc_easy", {"answer": True}, "answer is True; it must be a whole number"),
        ("mmlu", {"choices": list("abcde")}, "there are 5 choices; there must be 4"),
        ("commonsenseqa", {"choices": list("abcd")}, "there are 4 choices; there must be 5"),
        ("hellaswag", {"ctx": "A man sits"}, "ctx is 'A man sits'; it must be an activity"),
        ("hellaswag", {"endings": None}, "endings is None; it must be a list"),
        ("winogrande", {"answer": "3"}, "answer is '3'; it must be '1' or '2'"),
        ("winogrande", {"sentence": "It is."}, "the sentence has no _ for the options"),
        ("piqa", {"label": 2}, "label is 2; it must be 0 or 1"),
        ("nq_open", {"answer": []}, "answer is .*; it must be a list of texts"),
        ("mbpp", {"task_id": "2"}, "task_id is '2'; it must be a whole number"),
        ("hendrycks_math", {"solution": "2"}, "the solution has no answer in a"),
        ("mbpp", {"test_imports": 5}, "test_imports is 5; it must be a list of texts, or absent"),
        ("piqa", {"sol1": "\ud800"}, "sol1 is .*, with half of a surrogate pair"),
        ("arc_easy", {"choices": ["a", "\udfff"]}, "choices is .*, with half of a surrogate pair"),
        ("hellaswag", {"activity_label": 5, "ctx_a": "a", "ctx_b": "b", "ctx": "c"}, "ctx is 'c'"),
    ],
)
def test_wrong_row_is_named_with_file_and_line(
    tmp_path: Path, name: str, changes: dict[str, Any], message: str
) -> None:
    write_rows_of(tmp_path, name, [GOOD[name], GOOD[name] | changes])
    file = next(iter(LAYOUTS[name].files.values()))
    with pytest.raises(ConfigError, match=rf"{file}.jsonl, line 2: {message}") as caught:
        check_plan([name], RunSettings(data=tmp_path, allow_code_execution=True))
    assert "\n" not in str(caught.value)


HUB: dict[str, dict[str, Any]] = {
    "hellaswag": {
        "activity_label": "Tennis: doubles",
        "ctx_a": "A man sits. It is late.",
        "ctx_b": "the man",
        "ctx": "A man sits. It is late. the man",
        "endings": ["dives", "flies"],
        "label": "1",
        "ind": 7,
    },
    "arc_easy": {
        "id": "M",
        "question": "What is deep?",
        "choices": {"text": ["sea", "sky", "sun"], "label": ["1", "2", "3"]},
        "answerKey": "2",
    },
    "commonsenseqa": {
        "question": "What is deep?",
        "choices": {"text": ["sea", "sky", "sun", "sand", "salt"], "label": list("ABCDE")},
        "answerKey": "E",
    },
    "triviaqa": {
        "question": "Who?",
        "search_results": {"title": []},
        "answer": {"value": "Ann", "aliases": ["Anna", "Ann"], "type": "WikipediaEntity"},
    },
}


def test_rows_of_the_hub_are_taken_as_they_are(tmp_path: Path) -> None:
    found = {}
    for name, row in HUB.items():
        rows = [row] if name != "triviaqa" else [row | {"question": f"Who {n}?"} for n in range(99)]
        write_rows_of(tmp_path, name, rows)
        found[name] = read_benchmark(tmp_path, name)[None]
    (row,) = found["hellaswag"]["validation"]
    assert row == {
        name: HUB["hellaswag"][name]
        for name in ("activity_label", "ctx_a", "ctx_b", "endings", "label")
    }
    (row,) = found["arc_easy"]["test"]
    assert row["choices"]["text"] == ["sea", "sky", "sun"]
    assert row["choices"]["text"][row["choices"]["label"].index(row["answerKey"])] == "sky"
    assert found["commonsenseqa"]["validation"] == [HUB["commonsenseqa"]]
    rows = [row for split in found["triviaqa"].values() for row in split]
    assert {row["question"] for row in rows} == {f"Who {n}?" for n in range(99)}
    assert set(rows[0]["answer"]["aliases"]) == {"Anna", "Ann"}


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("hellaswag", {"label": ""}, "label is ''; it must be a whole number"),
        ("arc_easy", {"answerKey": "7"}, "answer is '7'; it must be a whole number"),
        ("arc_easy", {"choices": {"label": ["1"]}}, "choices is None; it must be a list"),
        ("triviaqa", {"answer": {"aliases": []}}, "answer is None; it must be a text"),
    ],
)
def test_wrong_row_of_the_hub_is_named(
    tmp_path: Path, name: str, changes: dict[str, Any], message: str
) -> None:
    write_rows_of(tmp_path, name, [HUB[name] | changes])
    with pytest.raises(ConfigError, match=f"line 1: {message}"):
        read_benchmark(tmp_path, name)


@pytest.mark.parametrize("name", sorted(LAYOUTS))
def test_fields_of_the_user_are_dropped_whatever_they_hold(tmp_path: Path, name: str) -> None:
    plain, noted = tmp_path / "plain", tmp_path / "noted"
    rows = good_rows(name)
    notes = [{"note": 1}, {"note": "one"}, {"note": {"a": []}}]
    write_rows_of(plain, name, rows)
    write_rows_of(noted, name, [row | notes[n % 3] for n, row in enumerate(rows)])
    assert read_benchmark(noted, name) == read_benchmark(plain, name)


@pytest.mark.parametrize("line", ["{", "[]", "7", "[" * 100_000])
def test_line_that_is_no_object_is_named(tmp_path: Path, line: str) -> None:
    write_rows_of(tmp_path, "gsm8k", good_rows("gsm8k"))
    path = tmp_path / "gsm8k/test.jsonl"
    path.write_text(f"\n\n{line}\n", encoding="utf-8")  # empty lines count
    with pytest.raises(ConfigError, match=r"test.jsonl, line 3 is no JSON object"):
        read_benchmark(tmp_path, "gsm8k")


# mtime: the time of now would give the case another name in each process that collects tests.
@pytest.mark.parametrize("content", [b"\xff\xfe", gzip.compress(b"{}", mtime=0)[:-4]])
def test_damaged_file_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "gsm8k").mkdir()
    (tmp_path / "gsm8k/test.jsonl.gz").write_bytes(content)
    with pytest.raises(ConfigError, match=r"test.jsonl.gz is damaged; get the file anew"):
        read_benchmark(tmp_path, "gsm8k")


@pytest.mark.parametrize("name", sorted(LAYOUTS))
def test_missing_benchmark_says_what_to_download_and_where_it_goes(
    tmp_path: Path, name: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        read_benchmark(tmp_path, name)
    text = str(caught.value)
    assert text.startswith(f"{name} is not in {tmp_path}: download {LAYOUTS[name].hub} and put")
    assert all(f"{name}/{file}.jsonl" in text for file in LAYOUTS[name].files.values())
    assert all(field in text for field in LAYOUTS[name].fields)
    assert "\n" not in text


@pytest.mark.parametrize(
    ("ctx", "first", "last"),
    [
        (
            "Roof shingle removal: A man is sitting on a roof. he",
            "A man is sitting on a roof.",
            "he",
        ),
        ('High jump: He says "run." the boy', 'He says "run."', "the boy"),
        ("High jump: It is high! Is it? two men", "It is high! Is it?", "two men"),
        ("High jump: First, run. then jump.", "First, run. then jump.", ""),
        ("Sharpening: A logo appears. 2 a guy", "A logo appears. 2 a guy", ""),
        ("Camel ride: a camel ride", "a camel ride", ""),
    ],
)
def test_hellaswag_has_the_begun_sentence_apart_as_on_the_hub(
    tmp_path: Path, ctx: str, first: str, last: str
) -> None:
    write_rows_of(tmp_path, "hellaswag", [GOOD["hellaswag"] | {"ctx": ctx}])
    (row,) = read_benchmark(tmp_path, "hellaswag")[None]["validation"]
    assert (row["ctx_a"], row["ctx_b"]) == (first, last)
    assert row["activity_label"] == ctx.partition(":")[0]


@pytest.mark.parametrize(
    ("name", "count", "message"),
    [
        ("mmlu", 4, r"mmlu has 4 rows of abstract_algebra in its dev split \(mmlu/dev\)"),
        ("nq_open", 5, "nq_open has 5 rows in its train split .* at least 6"),
    ],
)
def test_too_few_worked_examples_are_found_before_a_model_is_loaded(
    tmp_path: Path, name: str, count: int, message: str
) -> None:
    write_rows_of(tmp_path, name, good_rows(name, count))
    with pytest.raises(ConfigError, match=message):
        check_plan([name], RunSettings(data=tmp_path))


def test_subject_without_questions_is_found_before_a_model_is_loaded(tmp_path: Path) -> None:
    write_rows_of(tmp_path, "mmlu", good_rows("mmlu"))
    with (tmp_path / "mmlu/dev.jsonl").open("a", encoding="utf-8") as file:
        file.write((json.dumps(GOOD["mmlu"] | {"subject": "law"}) + "\n") * 5)
    with pytest.raises(ConfigError, match="mmlu has 0 rows of law in its test split"):
        check_plan(["mmlu"], RunSettings(data=tmp_path))


@pytest.mark.parametrize(
    ("names", "changes", "message"),
    [
        ([], {}, "no benchmark is named; name one"),
        (["hellaswag", "mmmlu"], {}, "there is no benchmark 'mmmlu'; there are mmlu, "),
        (["hellaswag"], {"limit": 0}, "limit is 0; it must be at least 1"),
        (["hellaswag"], {"data": Path("nowhere")}, "data is nowhere, which is no folder"),
        (["bbq"], {"data": None}, "bbq is read from a folder; give it with --data"),
        (["piqa"], {}, "valid.jsonl has no row for piqa"),
    ],
)
def test_wrong_plan_is_one_line(
    tmp_path: Path, names: list[str], changes: dict[str, Any], message: str
) -> None:
    write_rows_of(tmp_path, "hellaswag", good_rows("hellaswag"))
    write_rows_of(tmp_path, "piqa", [])
    with pytest.raises(ConfigError, match=message) as caught:
        check_plan(names, RunSettings(**({"data": tmp_path} | changes)))
    assert "\n" not in str(caught.value)


def test_programs_are_refused_unless_allowed(tmp_path: Path) -> None:
    write_rows_of(tmp_path, "humaneval", good_rows("humaneval"))
    with pytest.raises(UnsupportedError, match="--allow-code-execution"):
        check_plan(["humaneval"], RunSettings(data=tmp_path))
