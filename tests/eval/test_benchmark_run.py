"""Benchmarks from local rows: asked as the paper does, counted, and every wrong row named."""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("lm_eval", reason="needs the extra eval")

from mixtral.errors import ConfigError, UnsupportedError
from mixtral.eval.benchmark_report import BenchmarkReport, draw_shares
from mixtral.eval.benchmark_run import BenchmarkResult, RunSettings, check_plan, run_benchmark
from mixtral.eval.benchmarks import BENCHMARKS, Benchmark, find_benchmarks
from mixtral.eval.harness_tasks import make_tasks
from mixtral.eval.lm_eval_model import EngineLM
from mixtral.eval.local_data import LAYOUTS
from mixtral.llm import LLM
from tests.eval.tiny_llm import load, write_data, write_model, write_rows


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LLM]:
    folder = tmp_path_factory.mktemp("model") / "tiny"
    return load(write_model(folder, max_position_embeddings=1024))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"))


def find(name: str) -> Benchmark:
    (benchmark,) = find_benchmarks([name])
    if name == "mmlu":  # One subject of 57.
        return dataclasses.replace(benchmark, tasks="mmlu/default/mmlu_abstract_algebra.yaml")
    if name == "nq_open":  # Short answers, because a random model never stops.
        return dataclasses.replace(benchmark, generation={"max_gen_toks": 8})
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


@pytest.mark.parametrize(
    ("name", "line", "message"),
    [
        ("hellaswag/val", "{", "hellaswag/val.jsonl, line 2 is no JSON object"),
        ("hellaswag/val", "[]", "line 2 is no JSON object"),
        ("hellaswag/val", '{"ctx": "a"}', "line 2: endings is None; it must be a list"),
        (
            "hellaswag/val",
            '{"ctx": "a", "endings": ["b", "c"], "label": 2}',
            "line 2: the answer is 2; it must be from 0 to 1",
        ),
        ("arc_easy/test", '{"question": ""}', "line 2: question is ''; it must be a str"),
    ],
)
def test_malformed_row_is_named_before_a_model_is_loaded(
    tmp_path: Path, name: str, line: str, message: str
) -> None:
    path = write_data(tmp_path) / f"{name}.jsonl"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], line, *lines[1:]]))
    with pytest.raises(ConfigError, match=message) as caught:
        check_plan([name.partition("/")[0]], RunSettings(data=tmp_path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("names", "changes", "message"),
    [
        (["hellaswag", "mmmlu"], {}, "there is no benchmark 'mmmlu'; there are mmlu, "),
        (["winogrande"], {}, "winogrande is not in .*: download allenai/winogrande"),
        (["hellaswag"], {"limit": 0}, "limit is 0; it must be at least 1"),
        (["hellaswag"], {"data": Path("nowhere")}, "data is nowhere, which is no folder"),
        (["bbq"], {"data": None}, "bbq is read from a folder; give it with --data"),
        (["piqa"], {}, "valid.jsonl has no row for piqa"),
    ],
)
def test_wrong_plan_is_one_line(
    tmp_path: Path, names: list[str], changes: dict[str, Any], message: str
) -> None:
    write_rows(write_data(tmp_path) / "piqa/valid.jsonl", [])
    with pytest.raises(ConfigError, match=message):
        check_plan(names, RunSettings(**({"data": tmp_path} | changes)))


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
    assert "piqa: 3 prompts were longer than the context" in report.table()
    for path in draw_shares(report, tmp_path, title="tiny"):
        assert path.stat().st_size > 1000
