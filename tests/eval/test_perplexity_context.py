"""Perplexity by context: same targets, honest bands, what is said of the steps."""

import json
import math
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

from mixtral.cli import perplexity as command
from mixtral.errors import ConfigError
from mixtral.eval.answer_cache import AnswerCache
from mixtral.eval.context_curve import ContextCurve, measure_curve
from mixtral.eval.perplexity_report import curve_blocks, curve_picture
from mixtral.eval.token_scores import KeptScores
from mixtral.reports.markdown import markdown
from mixtral.reports.pictures import draw

BOS = 1
CONTEXTS = (16, 32, 64)
DOCUMENTS = [[1000 * d + i for i in range(150)] for d in range(10)]


def measure(
    loss: Callable[[Sequence[int]], float],
    *,
    documents: Sequence[Sequence[int]] = DOCUMENTS,
    contexts: Sequence[int] = CONTEXTS,
    num_windows: int = 20,
) -> ContextCurve:
    def log_probs(token_ids: Sequence[int], first: int) -> Tensor:
        return torch.full((len(token_ids) - first,), -loss(token_ids))

    return measure_curve(
        log_probs,
        documents,
        bos_id=BOS,
        contexts=contexts,
        num_windows=num_windows,
        num_scored=8,
    )


def test_every_context_scores_the_same_tokens_after_more_of_the_document() -> None:
    asked: dict[int, list[list[int]]] = {}

    def log_probs(token_ids: Sequence[int], first: int) -> Tensor:
        assert token_ids[0] == BOS
        assert len(token_ids) - first == 8
        asked.setdefault(len(token_ids), []).append(list(token_ids))
        return torch.zeros(8)

    measure_curve(log_probs, DOCUMENTS, bos_id=BOS, contexts=CONTEXTS, num_windows=25, num_scored=8)
    assert list(asked) == list(CONTEXTS)
    assert all(len(windows) == 25 for windows in asked.values())
    for short, long in zip(asked[16], asked[64], strict=True):
        assert short[1:] == long[-15:]
        assert long[1:] == list(range(long[1], long[1] + 63))  # one piece of one document


def test_windows_cover_each_document_from_its_start_to_its_end() -> None:
    seen: set[int] = set()
    measure(lambda ids: float(seen.update(ids[1:]) or 0), contexts=(64,), num_windows=40)
    assert seen == {token for document in DOCUMENTS for token in document}


def test_mean_is_exact_and_a_fall_is_called_a_fall() -> None:
    curve = measure(lambda ids: 1 + 16 / len(ids))
    assert [point.perplexity for point in curve.points] == pytest.approx(
        [math.exp(2), math.exp(1.5), math.exp(1.25)], rel=1e-6
    )
    assert [step.change for step in curve.steps] == pytest.approx(
        [math.exp(-0.5) - 1, math.exp(-0.25) - 1], rel=1e-5
    )
    assert [step.verdict for step in curve.steps] == ["falls", "falls"]
    assert curve.statement == "Perplexity falls with every step, beyond chance."


def test_a_rise_and_chance_are_called_so() -> None:
    chance = random.Random(0)
    curve = measure(lambda ids: 2 + (len(ids) == 64) + 0.5 * chance.random())
    assert [step.verdict for step in curve.steps] == ["no clear change", "rises"]
    assert "rises from 32 to 64" in curve.statement
    assert "no clear change from 16 to 32" in curve.statement
    assert "nowhere" in curve.statement


def test_difference_is_judged_within_documents_that_differ_much() -> None:
    # Documents differ by far more than context does, and every one of them profits.
    curve = measure(lambda ids: ids[-1] // 1000 + (0.1 if len(ids) == 16 else 0.0))
    assert curve.resampled == "documents"
    assert curve.points[0].low < curve.points[1].perplexity < curve.points[0].high
    assert curve.steps[0].verdict == "falls"


def test_band_does_not_shrink_with_more_windows_of_the_same_documents() -> None:
    few, many = (
        measure(lambda ids: float(ids[-1] // 1000), num_windows=count) for count in (10, 60)
    )
    widths = [math.log(curve.points[0].high / curve.points[0].low) for curve in (few, many)]
    assert widths[1] == pytest.approx(widths[0], rel=0.1)


def test_few_documents_are_drawn_by_window_and_short_ones_left_out() -> None:
    documents = [*DOCUMENTS[:2], [5] * 30]
    curve = measure(lambda ids: 1.0, documents=documents)
    assert (curve.resampled, curve.num_documents, curve.num_too_short) == ("windows", 2, 1)
    assert "left out: 1." in markdown(curve_blocks(curve))


def test_no_token_is_a_target_twice_and_short_documents_give_fewer_windows() -> None:
    targets: list[int] = []

    def loss(ids: Sequence[int]) -> float:
        targets.extend(ids[-8:])
        return 1.0

    documents = [list(range(1000 * n, 1000 * n + 63 + room)) for n, room in enumerate((7, 8, 25))]
    curve = measure(loss, documents=documents, contexts=(64,), num_windows=30)
    assert curve.num_windows == 1 + 2 + 4
    assert len(targets) == len(set(targets)) == 7 * 8


def test_windows_fewer_than_documents_are_spread_over_all_of_them() -> None:
    seen: list[int] = []
    measure(lambda ids: float(seen.append(ids[-1] // 1000) or 0), contexts=(64,), num_windows=4)
    assert seen == [0, 2, 5, 7]


def test_noise_in_few_windows_is_not_called_a_change() -> None:
    chance = random.Random(0)
    document = list(range(63 + 6 * 8))
    for _ in range(20):
        curve = measure(lambda ids: chance.random(), documents=[document], contexts=(32, 64))
        assert curve.num_windows == 7
        assert curve.steps[0].verdict == "not judged"
    assert curve.statement == "7 windows are too few to judge a change by; 8 are needed."
    assert curve.as_dict()["steps"][0]["verdict"] == "not judged"


def test_targets_are_told_from_others() -> None:
    one, same, other = (
        measure(lambda ids: 1.0, contexts=contexts).targets_sha256
        for contexts in ((32, 64), (16, 64), (16, 32))
    )
    assert one == same != other


def test_texts_that_give_no_interval_or_no_window_are_named() -> None:
    assert measure(lambda ids: 1.0, documents=[[5] * 71], num_windows=10).num_windows == 2
    with pytest.raises(ConfigError, match="give one window of 64 tokens"):
        measure(lambda ids: 1.0, documents=[[5] * 70], num_windows=10)
    with pytest.raises(ConfigError, match="has 62 tokens, and the longest context is 64"):
        measure(lambda ids: 1.0, documents=[[5] * 62])


def test_killed_run_goes_on_with_the_same_numbers(tmp_path: Path) -> None:
    asked = 0

    def score(token_ids: Sequence[int], first: int) -> Tensor:
        nonlocal asked
        asked += 1
        if asked == 13:
            raise KeyboardInterrupt
        return -torch.arange(first, len(token_ids), dtype=torch.float64) / token_ids[-1] / 3

    def run() -> ContextCurve:
        with AnswerCache(tmp_path / "scores.ndjson") as cache:
            return measure_curve(
                KeptScores(score, cache),
                DOCUMENTS,
                bos_id=BOS,
                contexts=CONTEXTS,
                num_windows=10,
                num_scored=8,
            )

    with pytest.raises(KeyboardInterrupt):
        run()
    found = run()
    assert asked == 1 + 3 * 10
    (tmp_path / "scores.ndjson").unlink()
    assert run() == found


def test_table_and_picture_show_every_length(tmp_path: Path) -> None:
    curve = measure(lambda ids: 1 + 16 / len(ids) + ids[-1] / 1e5)
    table = markdown(curve_blocks(curve))
    assert all(f"\n| {context} |" in table for context in CONTEXTS)
    assert "| falls |" in table
    # Every row has the same number of cells.
    rows = [line.count("|") for line in table.splitlines() if line.startswith("|")]
    assert set(rows) == {7}
    draw([curve_picture(curve, title="a model")], tmp_path)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["perplexity.png", "perplexity.svg"]
    values = json.loads(json.dumps(curve.as_dict()))
    assert [step["verdict"] for step in values["steps"]] == ["falls", "falls"]


def test_command_measures_the_curve_of_a_model(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("The sea was grey, and nobody asked why. " * 30)
    arguments = ["--model", "random:nano", "--layers", "1", "--device", "cpu"]
    arguments += ["--dtype", "float32", "--max-model-len", "128", "--text", str(tmp_path)]
    arguments += ["--by-context", "32,128", "--windows", "3", "--scored", "8", "--json"]
    result = CliRunner().invoke(command.app, [*arguments, "--out", str(tmp_path / "out")])
    assert result.exit_code == 0, result.exception
    values = json.loads(result.stdout)
    assert [point["context"] for point in values["points"]] == [32, 128]
    assert values["num_windows"] == 3
    names = {path.name for path in (tmp_path / "out").iterdir()}
    pictures = {"perplexity.png", "perplexity.svg"}
    assert names == {"results.json", "report.md", "index.html", "scores.ndjson", *pictures}
    scores = (tmp_path / "out/scores.ndjson").read_bytes()
    assert scores.count(b"\n") == 1 + 2 * 3
    again = CliRunner().invoke(command.app, [*arguments, "--out", str(tmp_path / "out")])
    assert json.loads(again.stdout)["points"] == values["points"]
    assert "6 windows were scored by an earlier run" in again.stderr
    assert (tmp_path / "out/scores.ndjson").read_bytes() == scores


@pytest.mark.parametrize("option", ["--windows", "--scored", "--seed"])
def test_option_of_a_curve_is_refused_without_one(tmp_path: Path, option: str) -> None:
    (tmp_path / "text.txt").write_text("The sea was grey.")
    arguments = ["--text", str(tmp_path), "--out", str(tmp_path / "out"), option, "7"]
    error = CliRunner().invoke(command.app, arguments).exception
    assert isinstance(error, ConfigError)
    assert f"{option} is 7; it needs --by-context" in str(error)
    assert not (tmp_path / "out").exists()
