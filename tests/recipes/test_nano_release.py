"""The card says what preference training changed, by the numbers of two evaluations."""

import importlib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def release(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "recipes/nano"))
    return importlib.import_module("release")


def results(pairs: float, **right: int) -> dict[str, Any]:
    rows = [
        {"task": task, "right": n, "cases": 100, "share": n / 100, "goal": 0.9}
        for task, n in right.items()
    ]
    rows.append({"task": "code", "right": 1, "cases": 100, "share": 0.01, "goal": None})
    return {"preferences": {"share": pairs}, "rows": rows}


def test_gains_and_losses_are_held_against_their_goals(release: Any) -> None:
    before = results(0.7, json=50, talk=40)
    before["rows"][-1]["right"] = 90  # a row without a goal may lose
    good = release.preference_table(before, results(0.85, json=49, talk=60))
    assert "70.0 % of the pairs before preference training and in 85.0 % after it: +15.0" in good
    assert "goal +15, met." in good
    assert "the most is 1 (json): met." in good
    assert "| talk | 40 of 100 | 60 of 100 |" in good
    bad = release.preference_table(before, results(0.84, json=48, talk=40))
    assert "+14.0 points, goal +15, missed." in bad
    assert "the most is 2 (json): missed." in bad


def test_nothing_lost_names_no_row(release: Any) -> None:
    table = release.preference_table(results(0.5, json=1), results(0.9, json=2))
    assert "the most is 0: met." in table
