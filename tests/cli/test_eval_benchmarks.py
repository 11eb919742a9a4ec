"""``mixtral eval TASKS``: one command to a whole report, and one line for what is wrong."""

import json
from pathlib import Path

import pytest

pytest.importorskip("lm_eval", reason="needs the extra eval")

from tests.cli.conftest import Run
from tests.eval.tiny_llm import bbq_row, write_data, write_rows


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = write_data(tmp_path / "data")
    clear = bbq_row(context_condition="disambig", label=0)
    write_rows(folder / "bbq/Age.jsonl", [bbq_row(), clear] * 3)
    return folder


def test_report_folder_has_numbers_table_and_pictures_and_a_second_run_asks_nothing(
    run: Run, tiny: Path, data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    command = ["eval", "hellaswag,bbq", "--model", tiny, "--data", data, "--out", out]
    first = run(*command)
    assert first.exit_code == 0, first.stderr
    assert "| hellaswag | 0 | acc_norm | 4 |" in first.stdout
    assert "| Age |" in first.stdout
    results = json.loads((out / "results.json").read_text(encoding="utf-8"))
    assert results["benchmarks"][0]["asked"] == 4
    assert len(results["settings"]["model"]["fingerprint"]) == 64
    assert set(results["settings"]["data_sha256"]) == {"hellaswag/val.jsonl", "bbq/Age.jsonl"}
    assert results["bbq"][-1]["category"] == "all"
    assert (out / "report.md").read_text(encoding="utf-8") == first.stdout
    assert (out / "benchmarks.png").stat().st_size > 1000
    assert (out / "benchmarks.svg").stat().st_size > 1000
    answers = (out / "answers.jsonl").read_text(encoding="utf-8")
    assert len(answers.splitlines()) == 1 + 4 * 4 + 3  # the same question is asked once
    again = run(*command)
    assert again.stdout == first.stdout
    assert (out / "answers.jsonl").read_text(encoding="utf-8") == answers


def test_other_model_in_the_same_folder_is_refused(
    run: Run, tiny: Path, data: Path, tmp_path: Path
) -> None:
    command = ["eval", "bbq", "--model", tiny, "--data", data, "--out", tmp_path / "out"]
    assert run(*command).exit_code == 0
    other = run(*command, "--dtype", "float32")
    assert other.exit_code == 2
    assert "has the answers of another model" in other.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["mmmlu"], "there is no benchmark 'mmmlu'"),
        (["humaneval"], "add --allow-code-execution"),
        (["hellaswag", "--preset", "llama"], "preset is 'llama'; it must be mixtral-paper"),
        (["hellaswag", "--data", "nowhere"], "data is nowhere, which is no folder"),
        (["hellaswag", "--batch", "0"], "batch is 0; it must be at least 1"),
    ],
)
def test_wrong_input_is_one_line(run: Run, arguments: list[str], message: str) -> None:
    result = run("eval", *arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1
