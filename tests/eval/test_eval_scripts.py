"""The scripts behind docs/evaluation.md: what is compared, what is refused, what the page says."""

import importlib.util
import json
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from typer.main import get_command

from mixtral.cli.main import app
from mixtral.errors import EngineError

ROOT = Path(__file__).resolve().parents[2]
QUESTIONS = [[([1, 5], [7]), ([1, 5], [8, 9])], [([1, 6, 6], [4]), ([1, 6, 6], [3])]]
RunSide = Callable[[str, int, Sequence[int]], dict[str, Any]]


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """Load scripts of benchmarks/, which find each other by name."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))

    def load(name: str) -> ModuleType:
        spec = importlib.util.spec_from_file_location(name, ROOT / f"benchmarks/{name}.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, name, module)
        spec.loader.exec_module(module)
        return module

    return load


def likelihood(pair: tuple[list[int], list[int]]) -> float:
    return -float(sum(pair[0]) * len(pair[1]) + pair[1][0])


def fake_side(
    script: Any, folder: Path, tasks: Sequence[str], *, error: float = 0.0, logit: float = 0.0
) -> tuple[RunSide, list[tuple[str, int, tuple[int, ...]]]]:
    """Return a side that answers at once, the other one with errors, and a list of its calls."""
    calls: list[tuple[str, int, tuple[int, ...]]] = []

    def run(side: str, round_: int, batches: Sequence[int]) -> dict[str, Any]:
        calls.append((side, round_, tuple(batches)))
        is_ours = side == "mixtral"
        np.save(folder / f"{side}.npy", np.ones((3, 4)) + (0.0 if is_ours else logit))

        def score(pairs: Any, batch: int) -> list[tuple[float, bool]]:
            return [(likelihood(pair) * (1.0 if is_ours else 1.0 + error), False) for pair in pairs]

        found = {}
        for batch in [0] if is_ours else batches:
            found[str(batch)] = {t: script.time_questions(score, batch, QUESTIONS) for t in tasks}
            for task in found[str(batch)].values():
                # Ours takes a second, the other side three, or four in batches of 1.
                task |= {"seconds": 1.0 if is_ours else 4.0 if batch == 1 else 3.0}
        return {"batches": found, "peak_rss_bytes": 5, "matmul_gflops": [1.0, 2.0]}

    return run, calls


def a_case(script: Any) -> Any:
    return replace(script.CASES["nano"], questions={"a": 2, "b": 2}, rounds=2, batches=(1, 8))


def test_sides_take_turns_and_the_best_batch_of_the_first_round_goes_on(
    scripts: Callable[[str], Any], tmp_path: Path
) -> None:
    script = scripts("eval_speed")
    run, calls = fake_side(script, tmp_path, "ab")
    found = script.measure_case(a_case(script), tmp_path, run)
    assert calls == [
        ("mixtral", 0, (1, 8)),
        ("lm-eval", 0, (1, 8)),
        ("mixtral", 1, (8,)),
        ("lm-eval", 1, (8,)),
    ]
    assert found["batch"] == 8
    assert [task["task"] for task in found["tasks"]] == ["a", "b", "all"]
    assert [task["questions_per_round"] for task in found["tasks"]] == [2, 2, 4]
    assert all(task["ratio"] == {"median": 3, "min": 3, "max": 3} for task in found["tasks"])
    assert found["tasks"][2]["seconds"]["lm-eval"]["median"] == 6.0
    assert found["tasks"][0]["tokens"] == 2 * sum(
        len(context) + len(target) for question in QUESTIONS for context, target in question
    )
    # Both batch sizes of the first round, then one: three times two tasks of two questions.
    assert found["gate"]["same_choice"] == "12 of 12"


@pytest.mark.parametrize("wrong", [{"error": 0.5}, {"error": float("nan")}, {"logit": 1.0}])
def test_sides_that_disagree_have_no_speed(
    scripts: Callable[[str], Any], tmp_path: Path, wrong: dict[str, float]
) -> None:
    script = scripts("eval_speed")
    run, _ = fake_side(script, tmp_path, "ab", **wrong)
    with pytest.raises(EngineError, match="disagree, nothing counts"):
        script.measure_case(a_case(script), tmp_path, run)


def test_one_other_choice_in_float32_is_a_disagreement(
    scripts: Callable[[str], Any], tmp_path: Path
) -> None:
    script = scripts("eval_speed")
    run, _ = fake_side(script, tmp_path, "ab")
    runs = {side: [run(side, 0, (8,))] for side in script.SIDES}
    batches = runs["lm-eval"][0]["batches"]["8"]
    batches["a"]["logprobs"][0] = batches["a"]["logprobs"][0][::-1]
    with pytest.raises(EngineError, match="3 of 4"):
        script._require_agreement(a_case(script), tmp_path, runs)


def test_page_says_what_was_measured(scripts: Callable[[str], Any], tmp_path: Path) -> None:
    speed, page = scripts("eval_speed"), scripts("measured_parts")
    run, _ = fake_side(speed, tmp_path, "ab")
    report = conditions() | {
        "eval_speed": [speed.measure_case(a_case(speed), tmp_path, run)],
    }
    text = page.write_speed(report)
    assert "| nano | all | 4 | 2.00 | 6.00 | 3.0x (3.0..3.0) |" in text
    assert "in batches of 8, the fastest of 1, 8" in text
    assert "12 of 12" in text


def test_every_place_is_on_its_page_once_with_the_committed_numbers(
    scripts: Callable[[str], Any],
) -> None:
    page = scripts("measured_parts")
    for place in page.PLACES:
        file = ROOT / f"benchmarks/results/{place.script}.json"
        written = place.write(json.loads(file.read_text(encoding="utf-8")))
        text = (ROOT / "docs" / place.page).read_text(encoding="utf-8")
        assert text.count(place.mark) == 1, place.mark
        assert page.fill(text, place.mark, written) == text, place.page


def test_filling_a_place_keeps_the_rest_and_a_page_without_it_is_refused(
    scripts: Callable[[str], Any],
) -> None:
    page = scripts("measured_parts")
    text = "before\n<!-- here -->\nold\n<!-- end -->\nafter\n"
    filled = page.fill(text, "<!-- here -->\n", "new\n\n")
    assert filled == text.replace("old", "new")
    for wrong in ("nothing\n", "<!-- here -->\nno end\n"):
        with pytest.raises(ValueError, match="the page lacks the line"):
            page.fill(wrong, "<!-- here -->\n", "new")


@pytest.mark.parametrize("is_tiny", [True, False])
def test_commands_of_the_page_exist(scripts: Callable[[str], Any], is_tiny: bool) -> None:
    script = scripts("evaluation")
    sizes = script.sizes_for(8192, is_tiny=is_tiny)
    for part in script.parts_for("nano", sizes):
        for command in part.commands:
            program, *words = shlex.split(command)
            assert program == "mixtral"
            group: Any = get_command(app)
            while hasattr(group, "get_command"):
                context = group.make_context(words[0], [], resilient_parsing=True)
                _, group, words = group.resolve_command(context, words)
            known = {option for parameter in group.params for option in parameter.opts}
            assert {word for word in words if word.startswith("-")} <= known
        assert shlex.split(part.commands[-1])[-2:] == ["--out", part.name]


def test_report_is_cut_behind_its_tables_and_loses_its_headings(
    scripts: Callable[[str], Any],
) -> None:
    script = scripts("evaluation")
    report = "# Title\n\nwords\n\n| a |\n|---|\n| 1 |\n\nmore\n\n| b |\n|---|\n\nend\n"
    assert script.first_tables(report, 1) == "words\n\n| a |\n|---|\n| 1 |"
    assert script.first_tables(report, None).endswith("| b |\n|---|\n\nend")


def conditions() -> dict[str, Any]:
    return {
        "machine": {"cpu": "X", "cores": 2, "torch": "2"},
        "notes": {"threads": 2, "other_processes": 0.1, "lm_eval": "1", "transformers": "5"},
        "date": "2026-01-01T00:00:00+00:00",
    }


def test_a_wrong_folder_of_rows_is_one_line(
    scripts: Callable[[str], Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        scripts("eval_speed").main(["--data", str(tmp_path / "none"), "--models", "nano"])
    assert stop.value.code == 2
    assert "it must be the folder of the rows." in capsys.readouterr().err
