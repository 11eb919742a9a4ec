"""A good row of every benchmark, in the layout of local data."""

import json
from pathlib import Path
from typing import Any

from mixtral.eval.local_layouts import LAYOUTS

CHOICES = {"question": "What is deep?", "choices": ["sea", "sky", "sun", "sand"], "answer": 0}
GOOD: dict[str, dict[str, Any]] = {
    "mmlu": CHOICES | {"subject": "abstract_algebra"},
    "hellaswag": {"ctx": "Swimming: A man sits. he", "endings": ["dives", "flies"], "label": 0},
    "winogrande": {"sentence": "It is _ now.", "option1": "a", "option2": "b", "answer": "2"},
    "piqa": {"goal": "to swim", "sol1": "dive", "sol2": "fly", "label": 1},
    "arc_easy": CHOICES,
    "arc_challenge": CHOICES,
    "commonsenseqa": CHOICES | {"choices": ["sea", "sky", "sun", "sand", "salt"]},
    "nq_open": {"question": "who swims", "answer": ["fish"]},
    "triviaqa": {"context": "Question: Who?\nAnswer:", "answer": "Ann", "aliases": ["Anna"]},
    "humaneval": {
        "task_id": "HumanEval/0",
        "prompt": "def add(a, b):\n",
        "test": "def check(add):\n    assert add(1, 2) == 3",
        "entry_point": "add",
    },
    "mbpp": {
        "task_id": 2,
        "prompt": "Add.",
        "code": "def add(a, b):\n  return a + b",
        "test_list": ["assert add(1, 2) == 3"],
        "test_imports": [],
    },
    "hendrycks_math": {"problem": "1+1", "solution": "So \\boxed{2}.", "type": "Algebra"},
    "gsm8k": {"question": "1 and 1?", "answer": "#### 2"},
}


def write_rows_of(folder: Path, name: str, rows: list[dict[str, Any]]) -> None:
    """Write the same rows to every file of a benchmark."""
    (folder / name).mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row) + "\n" for row in rows)
    for file in LAYOUTS[name].files.values():
        (folder / name / f"{file}.jsonl").write_text(text, encoding="utf-8")


def good_rows(name: str, count: int = 6) -> list[dict[str, Any]]:
    """Return good rows, of every split where splits share a file."""
    if name == "mbpp":
        return [GOOD[name] | {"task_id": place} for place in (2, 3, 4, 11, 12)]
    if name == "triviaqa":
        return [GOOD[name] | {"context": f"Question: Who is {n}?\nAnswer:"} for n in range(300)]
    if name == "nq_open":
        return [GOOD[name] | {"question": f"who is {n}"} for n in range(count)]
    return [GOOD[name]] * count
