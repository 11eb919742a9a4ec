import json
import math
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mixtral import LLM
from mixtral.cli import eval as eval_command
from mixtral.errors import ConfigError
from mixtral.eval.answering import RowResult, measure
from mixtral.eval.cases import ROWS, Case, Pair
from mixtral.eval.context_perplexity import ContextPerplexity, falls, measure_contexts
from mixtral.eval.preference_accuracy import measure_preferences
from mixtral.eval.report import CardReport
from mixtral.reports.pictures import draw


@pytest.fixture(scope="module")
def llm() -> LLM:
    return LLM("nano", max_model_len=512)


def talk(question: str, expected: object, check: str = "mentions") -> Case:
    message = {"role": "user", "content": question}
    return Case(task="talk", messages=[message], expected=expected, check=check)


def test_answers_are_counted_by_row_and_long_cases_apart(llm: LLM) -> None:
    known = llm.chat([{"role": "user", "content": "Hello"}]).text.split()[0]
    cases = [talk("Hello", [known]), talk("Hello", ["xyzzy"]), talk("word " * 600, ["x"])]
    seen: list[tuple[int, int]] = []
    (row,), answers = measure(llm, cases, lambda done, total: seen.append((done, total)))
    assert (row.right, row.cases, row.num_too_long) == (1, 2, 1)
    assert row.verdict == "does not fit"
    assert [answer.is_right for answer in answers] == [True, False]
    assert seen[-1] == (2, 2)


@pytest.mark.parametrize(
    ("right", "verdict"), [(98, "met"), (97, "missed"), (100, "met"), (0, "missed")]
)
def test_a_goal_is_met_by_the_share_itself(right: int, verdict: str) -> None:
    row = next(row for row in ROWS if row.goal == 0.98)
    assert RowResult(row=row, right=right, cases=100, num_too_long=0).verdict == verdict


def test_preferences_compare_sums_of_log_probabilities(llm: LLM) -> None:
    message = [{"role": "user", "content": "Hello"}]
    likely = {"role": "assistant", "content": llm.chat(message).text}
    strange = {"role": "assistant", "content": "xq zzz kkkk"}
    right = Pair(messages=message, chosen=likely, rejected=strange)
    wrong = Pair(messages=message, chosen=strange, rejected=likely)
    measured = measure_preferences(llm, [right, wrong, right])
    assert (measured.right, measured.pairs) == (2, 3)
    alone = measure_preferences(llm, [right])
    assert measured.mean_margin == pytest.approx(alone.mean_margin / 3)


def test_calls_in_pairs_are_scored_as_the_template_writes_them(llm: LLM) -> None:
    call = {"type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}
    tool = {"type": "function", "function": {"name": "f", "description": "", "parameters": {}}}
    calling = {"role": "assistant", "tool_calls": [call]}
    pair = Pair(
        messages=[{"role": "user", "content": "x is 1"}],
        chosen=calling,
        rejected={"role": "assistant", "content": "No."},
        tools=[tool],
    )
    assert math.isfinite(measure_preferences(llm, [pair]).mean_margin)


def test_contexts_beyond_the_model_are_reported_and_not_run(llm: LLM) -> None:
    measured = measure_contexts(llm, contexts=(64, 128, 1024), num_windows=2, num_scored=16)
    assert [each.perplexity is None for each in measured] == [False, False, True]
    assert [each.num_tokens for each in measured] == [32, 32, 0]
    assert falls(measured) is None


def test_the_same_tokens_are_scored_at_every_context(
    llm: LLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[int]] = []
    add_scored = llm.engine.add_scored

    def listen(prompt: list[int], targets: list[int], **options: object) -> int:
        asked.append([*prompt, targets[-1]])
        assert len(targets) == 16
        return add_scored(prompt, targets, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(llm.engine, "add_scored", listen)
    measure_contexts(llm, contexts=(64, 128), num_windows=2, num_scored=16)
    short, long = asked[:2], asked[2:]
    assert [len(ids) for ids in asked] == [64, 64, 128, 128]
    assert all(ids[0] == llm.tokenizer.bos_id for ids in asked)
    assert [ids[1:] for ids in short] == [ids[-63:] for ids in long]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"contexts": (128, 64)}, "ascending"),
        ({"contexts": ()}, "ascending"),
        ({"num_windows": 0}, "num_windows is 0"),
        ({"num_scored": 128}, "num_scored is 128"),
        ({"contexts": (128, 99_999)}, "longer than an excerpt"),
    ],
)
def test_wrong_numbers_are_named(llm: LLM, arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        measure_contexts(llm, **arguments)  # type: ignore[arg-type]


def test_perplexity_falls_only_if_every_step_goes_down() -> None:
    def of(*values: float) -> list[ContextPerplexity]:
        return [
            ContextPerplexity(context=c, perplexity=v, num_tokens=1) for c, v in enumerate(values)
        ]

    assert falls(of(3.0, 2.0, 1.0))
    assert not falls(of(3.0, 2.0, 2.0))
    assert not falls(of(3.0, 1.0, 2.0))


def test_report_names_rows_goals_and_verdicts_and_draws(tmp_path: Path) -> None:
    rows = [RowResult(row=row, right=9, cases=10, num_too_long=0) for row in ROWS]
    rows[0] = RowResult(row=ROWS[0], right=0, cases=0, num_too_long=3)
    perplexities = [ContextPerplexity(context=128, perplexity=30.0, num_tokens=64)]
    report = CardReport(model="nano", rows=rows, answers=[], perplexities=perplexities)
    table = report.table()
    assert table.count("\n| ") >= len(ROWS)
    assert "does not fit" in table
    assert "| 9 of 10 | 60 to 98 % | 85% | met |" in table
    assert json.loads(json.dumps(report.as_dict()))["rows"][1]["verdict"] == "missed"
    pictures = draw(report.pictures(), tmp_path) or ()
    assert all(b"<svg" in picture.svg for picture in pictures)
    assert {path.stem for path in tmp_path.iterdir()} == {"card", "perplexity"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--limit", "0"], "limit is 0"),
        (["--json", "no/such/folder/x.json"], "no folder"),
        (["--json", "."], "--json is ., which is a folder"),
        (["--out", f"{__file__}/sub"], "cannot be written"),
    ],
)
def test_command_refuses_what_cannot_work_before_it_begins(
    arguments: list[str], message: str
) -> None:
    result = CliRunner().invoke(eval_command.app, ["nano-card", *arguments])
    assert isinstance(result.exception, ConfigError)
    assert message in str(result.exception)


def test_command_writes_numbers_table_and_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [RowResult(row=row, right=9, cases=10, num_too_long=0) for row in ROWS]
    perplexities = [ContextPerplexity(context=128, perplexity=30.0, num_tokens=64)]
    report = CardReport(model="nano", rows=rows, answers=[], perplexities=perplexities)
    monkeypatch.setattr("mixtral.llm.LLM", lambda *_, **__: None)
    monkeypatch.setattr(eval_command, "_measure", lambda *_: report)
    monkeypatch.setattr(eval_command, "record_cost", lambda *_, **__: {"weights": {}})
    numbers = tmp_path / "numbers.json"
    command = ["nano-card", "--json", str(numbers), "--out", str(tmp_path / "card")]
    result = CliRunner().invoke(eval_command.app, command)
    assert result.exit_code == 0, result.output
    assert result.stdout == report.table()
    values = json.loads(numbers.read_text())
    assert values.items() >= json.loads(json.dumps(report.as_dict())).items()
    assert len(values["settings"]["model"]["fingerprint"]) == 64
    written = {path.name for path in (tmp_path / "card").iterdir()}
    pictures = {f"{name}.{form}" for name in ("card", "perplexity") for form in ("png", "svg")}
    assert written == {"results.json", "report.md", "index.html", *pictures}
    assert json.loads((tmp_path / "card/results.json").read_text()) == values
