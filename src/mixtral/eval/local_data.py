"""Benchmarks from a folder instead of the hub: one folder per benchmark, one JSON object per line.

``LAYOUTS`` says which files and fields there are; a file may end in ``.jsonl`` or ``.jsonl.gz``.
Each row becomes what the hub has, so that lm-evaluation-harness's own task reads it. A row without
a field, or with one of a wrong type, is an error that names file and line.
"""

import gzip
import json
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mixtral.errors import ConfigError

Row = dict[str, Any]
"""One line of a file."""

_LETTERS = "ABCDEFGHIJ"


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """Where the rows of a benchmark are in its folder, and what they are."""

    files: Mapping[str, str]
    """Split of the hub -> name of the file, without its ending."""
    fields: Mapping[str, type]
    """Fields that each row must have."""
    hub: str
    """Where the data come from, for who has to download them."""
    convert: Callable[[Row], Row] = lambda row: row
    """From such a row to one of the hub."""
    subject: Callable[[Row], str] | None = None
    """Which of the benchmark's tasks a row belongs to; None where there is one."""
    belongs: Callable[[str, Row], bool] = lambda split, row: True
    """Whether a row belongs to a split, where splits share a file."""


def read_benchmark(folder: Path, name: str) -> dict[str | None, dict[str, list[Row]]]:
    """Return all rows of a benchmark, as the hub has them.

    Args:
        folder: Folder of all benchmarks.
        name: The benchmark.

    Returns:
        Subject (None where the benchmark has no subjects) -> split -> rows, none of them empty.

    Raises:
        ConfigError: The folder or a file is not there, a row is malformed, or there is none.
    """
    layout = LAYOUTS[name]
    found: dict[str | None, dict[str, list[Row]]] = {}
    for split in layout.files:
        path = find_file(folder, name, split)
        for row in read_rows(path, layout.fields):
            if layout.belongs(split, row):
                subject = None if layout.subject is None else layout.subject(row)
                rows = found.setdefault(subject, {}).setdefault(split, [])
                rows.append(layout.convert(row))
        if not any(split in splits for splits in found.values()):
            raise ConfigError(f"{path} has no row for {name}; get the file anew.")
    return found


def find_file(folder: Path, name: str, split: str) -> Path:
    """Return the file of a split.

    Raises:
        ConfigError: There is none; the message says what to download.
    """
    if not folder.is_dir():
        raise ConfigError(f"data is {folder}, which is no folder; name one, or leave it out.")
    layout = LAYOUTS[name]
    stem = folder / name / layout.files[split]
    for ending in (".jsonl", ".jsonl.gz"):
        path = stem.with_name(stem.name + ending)
        if path.is_file():
            return path
    raise ConfigError(
        f"{name} is not in {folder}: download {layout.hub} and put its {split} split there as "
        f"{name}/{layout.files[split]}.jsonl with {', '.join(layout.fields)} in each line."
    )


def read_rows(path: Path, fields: Mapping[str, type]) -> Iterator[Row]:
    """Yield the rows of a file, each checked.

    Raises:
        ConfigError: A row is no JSON object, or lacks a field; or the file is damaged.
    """
    try:
        with (
            gzip.open(path, "rt", encoding="utf-8")
            if path.suffix == ".gz"
            else path.open(encoding="utf-8")
        ) as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield _checked(path, number, line, fields)
    except (gzip.BadGzipFile, EOFError, zlib.error, UnicodeDecodeError):
        raise ConfigError(f"{path} is damaged; get the file anew.") from None


def _checked(path: Path, number: int, line: str, fields: Mapping[str, type]) -> Row:
    try:
        row = json.loads(line)
    except ValueError:
        row = None
    if not isinstance(row, dict):
        raise ConfigError(f"{path}, line {number} is no JSON object; get the file anew.")
    for name, kind in fields.items():
        if not isinstance(row.get(name), kind) or row[name] in ("", []):
            raise ConfigError(
                f"{path}, line {number}: {name} is {row.get(name)!r}; it must be a "
                f"{kind.__name__} that is not empty. Correct or remove the line."
            )
    choices = row.get("choices", row.get("endings"))
    answer = row.get("answer", row.get("label"))
    if isinstance(choices, list) and not (
        isinstance(answer, int) and 0 <= answer < len(choices) <= len(_LETTERS)
    ):
        raise ConfigError(
            f"{path}, line {number}: the answer is {answer!r}; it must be from 0 to "
            f"{len(choices) - 1}, one of the choices. Correct or remove the line."
        )
    return row


def _lettered(row: Row) -> Row:
    letters = list(_LETTERS[: len(row["choices"])])
    return {
        "question": row["question"],
        "choices": {"text": row["choices"], "label": letters},
        "answerKey": letters[row["answer"]],
    }


def _hellaswag(row: Row) -> Row:
    # The harness puts its three parts together again, to the same text.
    label, _, context = row["ctx"].partition(": ")
    return {
        "activity_label": label,
        "ctx_a": context,
        "ctx_b": "",
        "endings": row["endings"],
        "label": str(row["label"]),
    }


def _triviaqa(row: Row) -> Row:
    question = row["context"].removeprefix("Question: ").removesuffix("\nAnswer:")
    return {
        "question": question,
        "answer": {"value": row["answer"], "aliases": [*row["aliases"], row["answer"]]},
    }


def _triviaqa_split(split: str, row: Row) -> bool:
    # One row of 30 is kept for shots, because there is no other file.
    is_shot = zlib.crc32(row["context"].encode()) % 30 == 0
    return is_shot == (split == "train")


def _mbpp_split(split: str, row: Row) -> bool:
    number = int(row["task_id"])
    return number <= 10 if split == "prompt" else 11 <= number <= 510


def _math_subject(row: Row) -> str:
    return str(row["type"]).lower().replace("&", "and").replace(" ", "_")


_CHOICE_FIELDS: Mapping[str, type] = {"question": str, "choices": list, "answer": int}

LAYOUTS: Mapping[str, Layout] = {
    "mmlu": Layout(
        files={"dev": "dev", "test": "test"},
        fields={"subject": str, **_CHOICE_FIELDS},
        hub="cais/mmlu",
        subject=lambda row: str(row["subject"]),
    ),
    "hellaswag": Layout(
        files={"validation": "val"},
        fields={"ctx": str, "endings": list, "label": int},
        hub="Rowan/hellaswag",
        convert=_hellaswag,
    ),
    "winogrande": Layout(
        files={"validation": "val"},
        fields={"sentence": str, "option1": str, "option2": str, "answer": str},
        hub="allenai/winogrande (winogrande_xl)",
    ),
    "piqa": Layout(
        files={"validation": "valid"},
        fields={"goal": str, "sol1": str, "sol2": str, "label": int},
        hub="baber/piqa",
    ),
    "arc_easy": Layout(
        files={"test": "test"},
        fields=_CHOICE_FIELDS,
        hub="allenai/ai2_arc (ARC-Easy)",
        convert=_lettered,
    ),
    "arc_challenge": Layout(
        files={"test": "test"},
        fields=_CHOICE_FIELDS,
        hub="allenai/ai2_arc (ARC-Challenge)",
        convert=_lettered,
    ),
    "commonsenseqa": Layout(
        files={"validation": "val"},
        fields=_CHOICE_FIELDS,
        hub="tau/commonsense_qa",
        convert=_lettered,
    ),
    "nq_open": Layout(
        # The shots are EfficientQA's, because the train split is not among the small files.
        files={"train": "NQ-open.efficientqa.dev.1.1", "validation": "NQ-open.dev"},
        fields={"question": str, "answer": list},
        hub="google-research-datasets/nq_open",
        convert=lambda row: {"question": row["question"], "answer": row["answer"]},
    ),
    "triviaqa": Layout(
        files={"train": "triviaqa_sm_sub", "validation": "triviaqa_sm_sub"},
        fields={"context": str, "answer": str, "aliases": list},
        hub="mandarjoshi/trivia_qa (rc.nocontext)",
        convert=_triviaqa,
        belongs=_triviaqa_split,
    ),
    "humaneval": Layout(
        files={"test": "HumanEval"},
        fields={"task_id": str, "prompt": str, "test": str, "entry_point": str},
        hub="openai/openai_humaneval",
    ),
    "mbpp": Layout(
        files={"prompt": "sanitized-mbpp", "test": "sanitized-mbpp"},
        fields={"task_id": int, "prompt": str, "code": str, "test_list": list},
        hub="google-research-datasets/mbpp (sanitized)",
        belongs=_mbpp_split,
    ),
    "hendrycks_math": Layout(
        files={"train": "train", "test": "test"},
        fields={"problem": str, "solution": str, "type": str},
        hub="EleutherAI/hendrycks_math",
        subject=_math_subject,
    ),
    "gsm8k": Layout(
        files={"test": "test"},
        fields={"question": str, "answer": str},
        hub="openai/gsm8k (main)",
    ),
}
"""Layout by name of the benchmark."""
