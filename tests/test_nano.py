"""The model in the package: it is the preset, it is small, it answers, and its card is honest."""

import json
from pathlib import Path

import pytest

from mixtral import LLM, ModelConfig, SamplingParams
from mixtral.checkpoint import open_checkpoint
from mixtral.eval.answering import measure
from mixtral.eval.answers_check import Call, is_right
from mixtral.eval.cases import ROWS, read_cases
from mixtral.model_source import NANO_FOLDER

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "recipes/nano/results"
GREEDY = SamplingParams(temperature=0.0, max_tokens=120)


@pytest.fixture(scope="module")
def nano() -> LLM:
    return LLM("nano", device="cpu")


def test_nano_is_its_preset_and_at_most_30_mb() -> None:
    assert open_checkpoint(NANO_FOLDER).config == ModelConfig.preset("nano")
    assert (NANO_FOLDER / "model.safetensors").stat().st_size <= 30_000_000


def test_nano_answers_what_its_card_says_it_can(nano: LLM) -> None:
    """The same cases, right or wrong as the card has them."""
    evaluation = json.loads((RESULTS / "card.json").read_text(encoding="utf-8"))
    for task in ("talk", "json"):
        cases = [case for case in read_cases() if case.task == task][:12]
        expected = [answer for answer in evaluation["answers"] if answer["task"] == task][:12]
        _, answers = measure(nano, cases)
        same = sum(a.is_right == b["right"] for a, b in zip(answers, expected, strict=True))
        # Another processor rounds bfloat16 differently, which may turn a close answer.
        assert same >= 10, task


def test_nano_says_what_it_is(nano: LLM) -> None:
    answer = nano.chat([{"role": "user", "content": "Who are you?"}], GREEDY).text
    assert "nano" in answer
    assert "small demonstration" in answer
    assert answer.isprintable()


def test_nano_uses_every_expert_of_every_layer(nano: LLM) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    trace = nano.route(nano.tokenizer.encode(text)[:1024])
    for layer in range(nano.config.num_hidden_layers):
        assert len(trace.expert_ids[:, layer].unique()) == nano.config.num_experts


def test_card_and_evaluation_agree() -> None:
    card = (NANO_FOLDER / "README.md").read_text(encoding="utf-8")
    evaluation = json.loads((RESULTS / "card.json").read_text(encoding="utf-8"))
    assert [row["task"] for row in evaluation["rows"]] == [row.task for row in ROWS]
    cases = {task: [c for c in read_cases() if c.task == task] for task in (r.task for r in ROWS)}
    for row in evaluation["rows"]:
        answers = [a for a in evaluation["answers"] if a["task"] == row["task"]]
        counted = 0
        if not answers:  # none of them fits into the context
            assert row["too_long"] == len(cases[row["task"]])
            assert row["verdict"] == "does not fit"
            continue
        for case, answer in zip(cases[row["task"]], answers, strict=True):
            calls = [Call(name=c["name"], arguments=c["arguments"]) for c in answer["calls"]]
            counted += is_right(case.check, answer["answer"], calls, case.expected)
        assert (counted, len(answers)) == (row["right"], row["cases"]), row["task"]
        assert f"| {row['right']} of {row['cases']} |" in card
        assert (row["verdict"] in card) or not row["verdict"]
