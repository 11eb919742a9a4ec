"""A result that guessing could give is called so in every report, in words beside the number."""

import pytest

from mixtral.eval.answering import RowResult
from mixtral.eval.bbq import BiasCounts, BiasResult
from mixtral.eval.benchmark_report import BenchmarkReport
from mixtral.eval.cases import ROWS
from mixtral.eval.passkey_grid import GridPlan, GridResult, Trial
from mixtral.eval.passkey_report import grid_blocks
from mixtral.eval.preference_accuracy import PreferenceAccuracy
from mixtral.eval.report import CardReport
from mixtral.reports.markdown import markdown


def bias(right: int, *, biased: int = 0) -> BiasCounts:
    return BiasCounts(asked=90, right=right, known=60, biased=biased)


@pytest.mark.parametrize(
    ("ambiguous", "disambiguated", "verdict"),
    [
        (30, 30, "at chance"),
        (33, 60, "ambiguous at chance"),
        (60, 27, "disambiguated at chance"),
        (60, 60, ""),
        (5, 60, ""),  # worse than guessing says something
    ],
)
def test_bbq_says_which_contexts_are_at_chance(
    ambiguous: int, disambiguated: int, verdict: str
) -> None:
    result = BiasResult(
        category="Age", ambiguous=bias(ambiguous), disambiguated=bias(disambiguated)
    )
    report = BenchmarkReport(settings={}, results=[], bias=[result])
    row = next(line for line in report.table().splitlines() if line.startswith("| Age"))
    assert row.endswith(f"| {verdict} |")
    values = report.as_dict()["bbq"][0]
    assert values["ambiguous_at_chance"] == (verdict in ("at chance", "ambiguous at chance"))
    disambiguated_too = verdict in ("at chance", "disambiguated at chance")
    assert values["disambiguated_at_chance"] == disambiguated_too


@pytest.mark.parametrize(("biased", "holds_zero"), [(30, True), (36, True), (55, False)])
def test_bias_has_an_interval_that_holds_zero_where_answers_split_evenly(
    biased: int, holds_zero: bool
) -> None:
    counts = bias(45, biased=biased)
    result = BiasResult(category="Age", ambiguous=counts, disambiguated=counts)
    for score, interval in (
        (result.disambiguated_bias, result.disambiguated_bias_interval),
        (result.ambiguous_bias, result.ambiguous_bias_interval),
    ):
        assert score is not None
        assert interval is not None
        assert interval[0] < score < interval[1]
        assert (interval[0] <= 0 <= interval[1]) == holds_zero


def card(right: int, *, preferred: int) -> CardReport:
    rows = [RowResult(row=ROWS[0], right=right, cases=50, num_too_long=0)]
    preferences = PreferenceAccuracy(right=preferred, pairs=100, mean_margin=0.1)
    return CardReport(model="nano", rows=rows, answers=[], preferences=preferences)


@pytest.mark.parametrize(("preferred", "verdict"), [(53, "at chance"), (90, ""), (20, "")])
def test_card_says_that_preferences_are_at_chance(preferred: int, verdict: str) -> None:
    report = card(50, preferred=preferred)
    row = next(line for line in report.table().splitlines() if line.startswith("| preferences"))
    assert row.endswith(f"|  | {verdict} |")
    assert report.as_dict()["preferences"]["at_chance"] == bool(verdict)


def test_card_says_that_no_answer_was_right() -> None:
    report = card(0, preferred=90)
    assert "| missed, none right |" in report.table()
    assert report.as_dict()["rows"][0]["at_chance"]
    assert not card(1, preferred=90).as_dict()["rows"][0]["at_chance"]


@pytest.mark.parametrize(("right", "verdict"), [(0, "none right"), (1, "")])
def test_passkey_says_of_a_length_that_no_key_was_found(right: int, verdict: str) -> None:
    trials = [
        Trial(
            length=256,
            depth=0.0,
            case=case,
            key="12345",
            answer="",
            is_right=case < right,
            num_prompt_tokens=200,
            key_position=10,
            num_reused=0,
            seconds=1.0,
        )
        for case in range(5)
    ]
    plan = GridPlan(lengths=(256,), depths=(0.0,), cases=5)
    table = markdown(grid_blocks(GridResult(plan=plan, trials=trials)))
    row = next(line for line in table.splitlines() if line.startswith("| 256"))
    assert row.endswith(f"| {verdict} |")
