"""The model in the package: it is the preset, it is small, it answers, and its card is honest."""

import json
from pathlib import Path

import pytest

from mixtral import LLM, ModelConfig, SamplingParams
from mixtral.checkpoint import open_checkpoint
from mixtral.model_source import NANO_FOLDER

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "recipes/nano/results"
GREEDY = SamplingParams(temperature=0.0, max_tokens=120)


@pytest.fixture(scope="module")
def nano() -> LLM:
    return LLM("nano", device="cpu")


def heldout_cases(task: str) -> list[dict[str, object]]:
    lines = (ROOT / "recipes/nano/heldout.jsonl").read_text(encoding="utf-8").splitlines()
    return [case for case in map(json.loads, lines) if case["task"] == task]


def test_nano_is_its_preset_and_at_most_40_mb() -> None:
    assert open_checkpoint(NANO_FOLDER).config == ModelConfig.preset("nano")
    assert sum(file.stat().st_size for file in NANO_FOLDER.iterdir()) <= 40_000_000


def test_nano_answers_what_its_card_says_it_can(nano: LLM) -> None:
    evaluation = json.loads((RESULTS / "evaluation.json").read_text(encoding="utf-8"))
    cases = heldout_cases("talk")[:12]
    expected = [a for a in evaluation["answers"] if a["task"] == "talk"][:12]
    right = 0
    for case, answer in zip(cases, expected, strict=True):
        text = nano.chat(case["messages"], GREEDY).text  # type: ignore[arg-type]
        right += (text.strip() == case["expected"]) == answer["right"]
    # Another processor rounds bfloat16 differently, which may turn a close answer.
    assert right >= 10


def test_nano_says_what_it_is(nano: LLM) -> None:
    answer = nano.chat([{"role": "user", "content": "Who are you?"}], GREEDY).text
    assert "nano" in answer
    assert answer.isprintable()


def test_nano_uses_every_expert_of_every_layer(nano: LLM) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    trace = nano.route(nano.tokenizer.encode(text)[:1024])
    for layer in range(nano.config.num_hidden_layers):
        assert len(trace.expert_ids[:, layer].unique()) == nano.config.num_experts


def test_card_and_evaluation_agree() -> None:
    card = (NANO_FOLDER / "README.md").read_text(encoding="utf-8")
    evaluation = json.loads((RESULTS / "evaluation.json").read_text(encoding="utf-8"))
    assert sum(count["cases"] for count in evaluation["tasks"].values()) >= 400
    for task, count in evaluation["tasks"].items():
        marked = [a["right"] for a in evaluation["answers"] if a["task"] == task]
        assert (sum(marked), len(marked)) == (count["right"], count["cases"])
        assert f"| {count['right']} of {count['cases']} |" in card
