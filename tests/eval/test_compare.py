"""Runs side by side: differences against numbers worked by hand, and what is refused."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from mixtral.cli.eval import app
from mixtral.errors import ConfigError
from mixtral.eval.chance import chance_verdict
from mixtral.eval.compare import Comparison, Difference, compare_runs, mcnemar
from mixtral.eval.compare_picture import quality_picture, side_by_side
from mixtral.eval.compare_runs import read_runs
from mixtral.eval.guide_table import read_guide_table
from mixtral.eval.outcomes import Outcomes
from mixtral.reports.pictures import draw


def benchmark(name: str = "piqa", *, right: str = "1" * 60 + "0" * 40, **changes: Any) -> Any:
    """Return a benchmark as a report has it; ``right`` has a digit for each question."""
    questions = Outcomes.of((f"{name} {place}", digit == "1") for place, digit in enumerate(right))
    fields = {
        "name": name,
        "metric": "acc",
        "shots": 0,
        "right": right.count("1"),
        "asked": len(right),
        "guess": 0.5,
        "outcomes": {name: questions.as_dict()},
    }
    return fields | changes


def settings(**changes: Any) -> dict[str, Any]:
    fields = {
        "model": {"name": "nano", "fingerprint": "0" * 64},
        "preset": "mixtral-paper",
        "limit": None,
        "chat_template": False,
        "lm_eval": "0.4.13",
        "data_sha256": {"piqa/valid.jsonl": "a"},
    }
    return fields | changes


WEIGHTS = {
    "parameters": 15_000_000,
    "active_parameters": 6_000_000,
    "format": "bfloat16",
    "weight_bytes": 30_000_000,
    "bits_per_weight": 16.0,
}
SPEED = {"prefill_tokens_per_s": 4321.0, "decode_tokens_per_s": 123.4, "read_gb_per_s": 9.9}


def write(folder: Path, *benchmarks: Any, **changes: Any) -> Path:
    values: dict[str, Any] = {
        "kind": "benchmarks",
        "settings": settings(),
        "weights": WEIGHTS,
        "speed": SPEED,
        "benchmarks": list(benchmarks),
        "bbq": [],
    }
    folder.mkdir()
    (folder / "results.json").write_text(json.dumps(values | changes), encoding="utf-8")
    return folder


def compared(tmp_path: Path, first: Any, second: Any, **changes: Any) -> Comparison:
    folders = [write(tmp_path / "a", first), write(tmp_path / "b", second, **changes)]
    return compare_runs(read_runs(folders))


def only(comparison: Comparison) -> Difference:
    (difference,) = comparison.differences
    return difference


def test_paired_difference_counts_the_questions_that_one_run_alone_got_right(
    tmp_path: Path,
) -> None:
    first = "1" * 500 + "0" * 500
    found = only(compared(tmp_path, benchmark(right=first), benchmark(right="1" * 512 + "0" * 488)))
    assert found.is_paired
    assert found.change == pytest.approx(0.012)
    assert found.error == pytest.approx(math.sqrt(12 - 144 / 1000) / 1000)
    assert found.p_value == pytest.approx(2 / 2**12)
    assert found.verdict == "better"


def test_same_shares_of_other_questions_are_not_paired_and_say_less(tmp_path: Path) -> None:
    other = benchmark(right="1" * 512 + "0" * 488)
    other["outcomes"]["piqa"]["questions_sha256"] = "f" * 64
    found = only(compared(tmp_path, benchmark(right="1" * 500 + "0" * 500), other))
    assert not found.is_paired
    # Pooled share 0.506 of 1,000 each.
    z = 0.012 / math.sqrt(0.506 * 0.494 * 2 / 1000)
    assert found.p_value == pytest.approx(math.erfc(z / math.sqrt(2)))
    assert found.verdict == "no clear difference"


@pytest.mark.parametrize(
    ("lost", "won", "p_value"),
    [(0, 0, 1.0), (0, 6, 1 / 32), (6, 0, 1 / 32), (1, 5, 2 * 7 / 64), (5, 5, 1.0)],
)
def test_mcnemar_is_the_tail_of_a_fair_coin(lost: int, won: int, p_value: float) -> None:
    assert mcnemar(lost, won) == pytest.approx(p_value)
    assert mcnemar(9000, 9001) == 1.0


@pytest.mark.parametrize(
    ("second", "changes", "reason"),
    [
        (benchmark(shots=5), {}, "shots (0 and 5)"),
        (benchmark(metric="acc_norm"), {}, "metric (acc and acc_norm)"),
        (benchmark(), {"settings": settings(limit=10)}, "limit (none and 10)"),
        (benchmark(), {"settings": settings(lm_eval="0.4.9")}, "lm-eval (0.4.13 and 0.4.9)"),
        (benchmark(), {"settings": settings(data_sha256={"piqa/valid.jsonl": "b"})}, "in data."),
    ],
)
def test_tasks_that_were_measured_in_other_ways_are_flagged_and_not_compared(
    tmp_path: Path, second: Any, changes: dict[str, Any], reason: str
) -> None:
    comparison = compared(tmp_path, benchmark(), second, **changes)
    assert not comparison.differences
    (line,) = comparison.mismatches
    assert line.startswith("piqa of a and b is not compared: they differ in ")
    assert reason in line
    assert "\n" not in line


def test_data_of_another_benchmark_does_not_keep_two_from_being_compared(tmp_path: Path) -> None:
    more = settings(data_sha256={"piqa/valid.jsonl": "a", "mmlu/test.jsonl": "b"})
    assert compared(tmp_path, benchmark(), benchmark(), settings=more).differences


def perplexity(folder: Path, losses: list[float], *, tokens: int = 100, **changes: Any) -> Path:
    mean = sum(losses) / len(losses)
    values = {
        "kind": "perplexity",
        "settings": {
            "model": {"name": "nano"},
            "texts_sha256": "c" * 64,
            "context": 512,
            "stride": None,
        },
        "perplexity": math.exp(mean),
        "standard_error": 0.05 * math.exp(mean),
        "tokens": tokens * len(losses),
        "documents": [
            {"name": f"{place}", "tokens": tokens, "perplexity": math.exp(loss)}
            for place, loss in enumerate(losses)
        ],
    }
    folder.mkdir()
    (folder / "results.json").write_text(json.dumps(values | changes), encoding="utf-8")
    return folder


def test_perplexities_are_compared_document_by_document(tmp_path: Path) -> None:
    losses = [2.0 + 0.1 * place for place in range(20)]
    # Every document is a little worse, by 1 or 3 %, though documents differ far more.
    worse = [loss + 0.01 * (1 + 2 * (place % 2)) for place, loss in enumerate(losses)]
    folders = [perplexity(tmp_path / "a", losses), perplexity(tmp_path / "b", worse)]
    found = only(compare_runs(read_runs(folders)))
    assert (found.is_paired, found.verdict) == (True, "worse")
    assert found.change == pytest.approx(math.exp(0.02) - 1)
    assert found.error == pytest.approx(math.exp(0.02) * 0.01 / math.sqrt(19))


def test_perplexities_of_few_documents_are_judged_by_their_own_errors(tmp_path: Path) -> None:
    folders = [perplexity(tmp_path / "a", [2.0] * 3), perplexity(tmp_path / "b", [2.02] * 3)]
    found = only(compare_runs(read_runs(folders)))
    assert (found.is_paired, found.verdict) == (False, "no clear difference")
    assert found.p_value == pytest.approx(math.erfc(0.02 / 0.05 / 2))


def test_perplexities_over_other_tokens_are_not_compared(tmp_path: Path) -> None:
    folders = [
        perplexity(tmp_path / "a", [2.0] * 3),
        perplexity(tmp_path / "b", [2.0] * 3, tokens=90),
    ]
    comparison = compare_runs(read_runs(folders))
    assert comparison.mismatches == [
        "perplexity, windows of 512 of a and b is not compared: "
        "they differ in tokens (300 and 270)."
    ]


def test_same_texts_in_another_folder_are_compared_document_by_document(tmp_path: Path) -> None:
    losses = [2.0 + 0.1 * place for place in range(20)]
    first = perplexity(tmp_path / "a", losses)
    moved = [
        {"name": f"elsewhere/{place}", "tokens": 100, "perplexity": math.exp(loss + 0.01)}
        for place, loss in enumerate(losses)
    ]
    second = perplexity(tmp_path / "b", [loss + 0.01 for loss in losses], documents=moved)
    assert only(compare_runs(read_runs([first, second]))).is_paired


def curve(folder: Path, contexts: tuple[int, ...], targets: str | None, **model: str) -> Path:
    """Write a curve, with the hash of its targets or, as earlier versions did, without."""
    values: dict[str, Any] = {
        "kind": "perplexity",
        "settings": {
            "model": {"name": "nano", **model},
            "texts_sha256": "c" * 64,
            "by_context": list(contexts),
            "seed": 0,
        },
        "num_windows": 40,
        "num_scored": 256,
        "points": [{"context": c, "perplexity": 9.0, "low": 8.0, "high": 10.0} for c in contexts],
    }
    if targets is not None:
        values["targets_sha256"] = targets
    folder.mkdir()
    (folder / "results.json").write_text(json.dumps(values), encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    ("first", "second", "reason"),
    [
        (((512, 1024), "a"), ((512, 1024), "a"), None),
        (((512, 1024), "a"), ((512, 2048), "b"), "ids of the scored tokens."),
        (((512, 1024), None), ((512, 1024), "a"), None),
        (((512, 1024), None), ((512, 2048), "a"), "longest context (1024 and 2048)."),
        (((512, 1024), None), ((512, 2048), None), "longest context (1024 and 2048)."),
    ],
)
def test_curves_are_compared_only_over_the_same_tokens(
    tmp_path: Path, first: Any, second: Any, reason: str | None
) -> None:
    runs = read_runs([curve(tmp_path / "a", *first), curve(tmp_path / "b", *second)])
    comparison = compare_runs(runs)
    assert bool(comparison.differences) == (reason is None)
    assert all(line.endswith(f"they differ in {reason}") for line in comparison.mismatches)


def test_curves_of_earlier_versions_need_the_same_tokenizer(tmp_path: Path) -> None:
    folders = [curve(tmp_path / "a", (512,), None), curve(tmp_path / "b", (512,), None)]
    assert compare_runs(read_runs(folders)).differences
    other = curve(tmp_path / "c", (512,), None, tokenizer="v1")
    (line,) = compare_runs(read_runs([folders[0], other])).mismatches
    assert line.endswith("they differ in tokenizer (none and v1).")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "is not there; name a folder that"),
        ("{", "is no file of results"),
        ("[]", "holds no kind of report; what can be compared is benchmarks, "),
        ('{"kind": "routing"}', "holds routing; what can be compared is"),
        ('{"kind": ["x"]}', "holds .'x'.; what can be compared is"),
        ("[" * 100_000, "is no file of results"),
        ('{"kind": "benchmarks"}', "is damaged or of another version"),
        ('{"kind": "passkey", "settings": 3}', "is damaged or of another version"),
    ],
)
def test_what_is_no_report_is_named_in_one_line(
    tmp_path: Path, content: str | None, message: str
) -> None:
    if content is not None:
        (tmp_path / "results.json").write_text(content)
    with pytest.raises(ConfigError, match=message) as caught:
        read_runs([tmp_path])
    assert "\n" not in str(caught.value)


def test_a_run_is_named_once_and_folders_of_one_name_by_their_paths(tmp_path: Path) -> None:
    for name in ("x", "y"):
        (tmp_path / name).mkdir()
    folders = [write(tmp_path / name / "run", benchmark()) for name in ("x", "y")]
    assert [run.name for run in read_runs(folders)] == list(map(str, folders))
    with pytest.raises(ConfigError, match="a run is named twice"):
        read_runs([folders[0], folders[0] / "results.json"])


def test_table_of_the_guides_has_twelve_benchmarks_of_six_models() -> None:
    table = read_guide_table()
    assert [len(model.percent) for model in table] == [12] * 6
    mixtral = table[-1]
    assert (mixtral.name, mixtral.active_parameters) == ("Mixtral 8x7B", 13_000_000_000)
    assert (mixtral.percent["mmlu"], mixtral.percent["gsm8k"]) == (70.6, 74.4)
    # The numbers that stand in our own reports are of the same table.
    from mixtral.eval.benchmarks import BENCHMARKS

    own = {each.name: each.paper for each in BENCHMARKS if each.paper is not None}
    assert own == dict(mixtral.percent)


def test_models_of_one_size_stand_side_by_side_in_the_picture(tmp_path: Path) -> None:
    folders = [write(tmp_path / name, benchmark(), benchmark("mmlu")) for name in "ab"]
    picture = quality_picture(read_runs(folders), read_guide_table())
    assert picture is not None
    assert "mmlu, piqa" in picture.alt
    assert draw([picture], tmp_path)
    places = side_by_side([7, 7, 13, 7], step=1.5)
    assert len(set(places)) == 4
    assert places[0] * places[3] == pytest.approx(49)


def test_no_picture_without_a_benchmark_of_the_guides_or_without_parameters(
    tmp_path: Path,
) -> None:
    table = read_guide_table()
    other = write(tmp_path / "a", benchmark("commonsenseqa"))
    unknown = write(tmp_path / "b", benchmark(), weights=None)
    assert quality_picture(read_runs([other, unknown]), table) is None


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["compare", *map(str, arguments)])


def test_command_shows_what_is_known_and_dashes_for_what_is_not(tmp_path: Path) -> None:
    first = write(tmp_path / "a", benchmark(), benchmark("mmlu", right="1" * 26 + "0" * 74))
    second = write(tmp_path / "b", benchmark(right="1" * 70 + "0" * 30), weights=None, speed=None)
    result = call(first, second, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.exception
    lines = result.stdout.splitlines()
    cost = next(line for line in lines if line.startswith("| a | benchmarks | nano |"))
    assert "| bfloat16 | 15 M | 6 M | 30 MB | 16.00 | 4,321 | 123.4 | 9.9 |" in cost
    unknown = next(line for line in lines if line.startswith("| b | benchmarks | nano |"))
    assert unknown.count("| - ") == 8
    assert "| mmlu | 100 | 26.0 \u00b1 4.3 % | - |" in result.stdout
    assert "| piqa | +10.0 \u00b1 3.0 points: better, paired |" in result.stdout
    assert "| Mixtral 8x7B | 13 B | 83.6 % | 70.6 % |" in result.stdout
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"results.json", "report.md", "index.html", "quality.png", "quality.svg"}


def test_command_says_at_chance_beside_the_number(tmp_path: Path) -> None:
    folder = write(tmp_path / "a", benchmark(right="1" * 52 + "0" * 48))
    assert "| piqa | 100 | 52.0 \u00b1 4.9 % (at chance) |" in call(folder).stdout


def test_command_refuses_the_folder_of_a_run_as_its_own(tmp_path: Path) -> None:
    folder = write(tmp_path / "a", benchmark())
    error = call(folder, "--out", folder).exception
    assert isinstance(error, ConfigError)
    assert "has a report of benchmarks; name another folder for comparison" in str(error)


@pytest.mark.parametrize(
    ("interval", "guess", "verdict"),
    [
        ((0.2, 0.3), 0.25, "at chance"),
        ((0.26, 0.3), 0.25, ""),
        ((0.1, 0.24), 0.25, ""),  # below chance is no chance
        ((0.0, 0.1), None, "none right"),
        ((0.01, 0.1), None, ""),
        (None, 0.25, ""),
    ],
)
def test_at_chance_means_that_the_interval_holds_the_guess(
    interval: tuple[float, float] | None, guess: float | None, verdict: str
) -> None:
    assert chance_verdict(interval, guess) == verdict
