"""Benchmarks from local rows: asked as the paper does, counted, and every wrong row named."""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("lm_eval", reason="needs the extra eval")

from mixtral.errors import ConfigError, ContextLengthExceeded, UnsupportedError
from mixtral.eval.benchmark_report import BenchmarkReport, shares_picture
from mixtral.eval.benchmark_run import BenchmarkResult, RunSettings, check_plan, run_benchmark
from mixtral.eval.benchmarks import BENCHMARKS, Benchmark, find_benchmarks
from mixtral.eval.harness_tasks import make_tasks
from mixtral.eval.lm_eval_model import EngineLM
from mixtral.eval.local_layouts import LAYOUTS
from mixtral.llm import LLM
from mixtral.reports.pictures import draw
from tests.eval.local_rows import good_rows, write_rows_of
from tests.eval.tiny_llm import load, write_data, write_model, write_rows

GENERATED = {"nq_open", "triviaqa", "humaneval", "mbpp", "hendrycks_math", "gsm8k"}


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LLM]:
    folder = tmp_path_factory.mktemp("model") / "tiny"
    return load(write_model(folder, max_position_embeddings=1024))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"))


def find(name: str) -> Benchmark:
    (benchmark,) = find_benchmarks([name])
    one_subject = {
        "mmlu": "mmlu/default/mmlu_abstract_algebra.yaml",
        "hendrycks_math": "hendrycks_math/hendrycks_math_algebra.yaml",
    }
    benchmark = dataclasses.replace(benchmark, tasks=one_subject.get(name, benchmark.tasks))
    if name in GENERATED:  # Short answers, because a random model never stops.
        short = {**benchmark.generation, "max_gen_toks": 8}
        return dataclasses.replace(benchmark, generation=short)
    return benchmark


def result(**changes: Any) -> BenchmarkResult:
    fields: dict[str, Any] = {
        "name": "piqa",
        "metric": "acc",
        "shots": 0,
        "right": 50,
        "asked": 100,
        "guess": 0.5,
        "paper": 83.6,
        "num_cut": 0,
        "others": {},
        "subjects": {},
    }
    return BenchmarkResult(**(fields | changes))


@pytest.mark.parametrize(
    ("name", "asked", "guess"),
    [("hellaswag", 4, 0.25), ("arc_easy", 4, 1 / 3), ("mmlu", 8, 0.25), ("nq_open", 8, None)],
)
def test_benchmark_asks_every_row_and_knows_what_guessing_gets(
    llm: LLM, data: Path, name: str, asked: int, guess: float | None
) -> None:
    found = run_benchmark(EngineLM(llm), find(name), RunSettings(data=data))
    assert found.asked == asked
    assert found.guess == (guess if guess is None else pytest.approx(guess))
    assert found.shots == find(name).shots
    assert json.loads(json.dumps(found.as_dict()))["right"] == found.right
    digits = "".join(part.right for part in found.outcomes.values())
    assert (digits.count("1"), len(digits)) == (found.right, found.asked)


@pytest.mark.parametrize("name", sorted(LAYOUTS))
def test_every_benchmark_runs_from_local_rows_to_a_result(
    llm: LLM, tmp_path: Path, name: str
) -> None:
    write_rows_of(tmp_path, name, good_rows(name))
    settings = RunSettings(data=tmp_path, limit=2, allow_code_execution=True)
    found = run_benchmark(EngineLM(llm), find(name), settings)
    assert (found.asked, found.shots, found.metric) == (2, find(name).shots, find(name).metric)
    assert (found.guess is None) == (name in GENERATED)


def test_benchmark_whose_answers_do_not_fit_is_named_in_one_line(tmp_path: Path, llm: LLM) -> None:
    write_rows_of(tmp_path, "humaneval", good_rows("humaneval"))
    (benchmark,) = find_benchmarks(["humaneval"])
    settings = RunSettings(data=tmp_path, allow_code_execution=True)
    with pytest.raises(
        ContextLengthExceeded, match=r"^humaneval: an answer may have 1024"
    ) as error:
        run_benchmark(EngineLM(llm), benchmark, settings)
    assert "\n" not in str(error.value)


def test_limit_asks_the_first_rows(llm: LLM, data: Path) -> None:
    found = run_benchmark(EngineLM(llm), find("hellaswag"), RunSettings(data=data, limit=2))
    assert found.asked == 2


def test_paper_preset_asks_gsm8k_eight_times_with_eight_shots(data: Path) -> None:
    (task,) = make_tasks(find("gsm8k"), preset="mixtral-paper", data=data).values()
    task.build_all_requests(limit=1)
    (request,) = task.instances
    assert request.repeats == 8
    assert request.args[0].count("Q: ") == 9
    assert request.args[1]["do_sample"]
    (plain,) = make_tasks(find("gsm8k"), preset="harness", data=data).values()
    assert plain.config.repeats == 64


def test_shots_are_never_the_question_itself(data: Path) -> None:
    (task,) = make_tasks(find("nq_open"), preset="mixtral-paper", data=data).values()
    task.build_all_requests()
    for request in task.instances:
        assert request.args[0].count("efficientqa") == 5
        assert request.args[0].count("NQ-open.dev?") == 1


def test_every_layout_has_a_benchmark_and_the_other_way_round() -> None:
    assert set(LAYOUTS) == {benchmark.name for benchmark in BENCHMARKS}


def test_code_is_judged_by_running_it_and_only_when_allowed(tmp_path: Path) -> None:
    rows = [
        {"task_id": number, "prompt": "Add.", "code": "def add(a, b):\n  return a + b"}
        | {"test_list": ["assert add(1, 2) == 3"], "test_imports": []}
        for number in (2, 3, 4, 11, 12)
    ]
    write_rows(tmp_path / "mbpp/sanitized-mbpp.jsonl", rows)
    with pytest.raises(UnsupportedError, match="--allow-code-execution"):
        check_plan(["mbpp"], RunSettings(data=tmp_path))
    assert check_plan(["mbpp"], RunSettings(data=tmp_path, allow_code_execution=True))
    (task,) = make_tasks(find("mbpp"), preset="mixtral-paper", data=tmp_path).values()
    doc = task.eval_docs[0]
    assert doc["task_id"] == 11
    assert task.process_results(doc, ["def add(a, b):\n  return a + b"]) == {"pass@1": 1.0}
    assert task.process_results(doc, ["def add(a, b):\n  return a - b"]) == {"pass@1": 0.0}
    task.build_all_requests(limit=1)
    assert task.instances[0].args[0].count("[DONE]") == 3


def test_subject_that_the_harness_does_not_know_is_named(tmp_path: Path) -> None:
    path = write_data(tmp_path) / "mmlu/test.jsonl"
    row = json.loads(path.read_text(encoding="utf-8").splitlines()[0])
    for split in ("dev", "test"):
        write_rows(tmp_path / f"mmlu/{split}.jsonl", [row | {"subject": "alchemy"}] * 5)
    (benchmark,) = find_benchmarks(["mmlu"])
    few = dataclasses.replace(benchmark, tasks="mmlu/default/mmlu_a*.yaml")
    with pytest.raises(ConfigError, match="has no row of abstract_algebra in its dev split"):
        make_tasks(few, preset="mixtral-paper", data=tmp_path)
    rows = [row | {"subject": s} for s in ("abstract_algebra", "anatomy", "astronomy", "alchemy")]
    for split in ("dev", "test"):
        write_rows(tmp_path / f"mmlu/{split}.jsonl", rows * 5)
    with pytest.raises(ConfigError, match="rows of alchemy, which is none of its subjects; they"):
        make_tasks(few, preset="mixtral-paper", data=tmp_path)


def test_result_whose_interval_holds_the_guess_is_at_chance() -> None:
    assert result(right=55).is_at_chance
    assert not result(right=75).is_at_chance
    assert result(right=0, guess=None).is_at_chance
    assert not result(right=1, guess=None).is_at_chance


def test_report_says_at_chance_and_what_was_cut(tmp_path: Path) -> None:
    report = BenchmarkReport(
        settings={"seed": 0},
        results=[
            result(right=52, num_cut=3),
            result(name="arc_easy", right=90, guess=0.25),
            result(name="nq_open", right=0, guess=None, paper=None),
        ],
    )
    chance, good, none = report.table().splitlines()[2:5]
    assert chance.endswith("| at chance |")
    assert good.endswith("| 90.0 % | 82.6 to 94.5 % | 25.0 % | 83.6 % |  |")
    assert none.endswith("| none right |")
    assert "piqa: 3 questions were longer than the context" in report.table()
    (picture,) = draw([shares_picture(report, title="tiny")], tmp_path) or ()
    assert b"<svg" in picture.svg
    assert "nq_open 0 %" in picture.alt
