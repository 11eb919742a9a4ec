"""The layout of local data: which files a benchmark has, and how a row becomes one of the hub.

lm-evaluation-harness's own task reads what comes out, so its prompts are those of the hub's rows. A
row that the task could not ask, or would ask wrongly, is a problem that is found here.
"""

import re
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

Row = dict[str, Any]
"""One line of a file."""
Problem = Callable[[Row], str | None]
"""Says in a sentence what is wrong with a row whose fields are all there; None for nothing."""

_LETTERS = "ABCDEFGHIJ"
# Where the last sentence of a text begins, if it begins with a small letter.
_SMALL_BEGINNING = re.compile(r"""[.!?]["')\]]*\s+(?=[a-z])""")


def no_problem(row: Row) -> None:
    """Find no problem."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """Where the rows of a benchmark are in its folder, and what they are."""

    files: Mapping[str, str]
    """Split of the hub -> name of the file, without its ending."""
    fields: Mapping[str, type]
    """Fields that each row must have."""
    hub: str
    """Where the data come from, for who has to download them."""
    problem: Problem = no_problem
    """What is wrong with a row whose fields are all there; None where nothing is."""
    convert: Callable[[Row], Row] = lambda row: row
    """From such a row to one of the hub."""
    adopt: Callable[[Row], Row] = lambda row: row
    """From a row of the hub to one with these fields, and no others of their names; any other row
    stays as it is."""
    more_fields: tuple[str, ...] = ()
    """Fields that a row may have; all others are dropped."""
    subject: Callable[[Row], str] | None = None
    """Which of the benchmark's tasks a row belongs to; None where there is one."""
    belongs: Callable[[str, Row], bool] = lambda split, row: True
    """Whether a row belongs to a split, where splits share a file."""
    shots: str | None = None
    """Split that the worked examples come from; None where the task brings its own or has none."""
    num_spare_shots: int = 0
    """Rows that the harness draws beyond those it shows, in case one of them is the question."""


def _wrong_choice(row: Row, *, count: int | None = None) -> str | None:
    choices: list[str] = row["choices"] if "choices" in row else row["endings"]
    answer: int = row["answer"] if "answer" in row else row["label"]
    least, most = (2, len(_LETTERS)) if count is None else (count, count)
    if not least <= len(choices) <= most:
        allowed = f"from {least} to {most}" if count is None else str(count)
        return f"there are {len(choices)} choices; there must be {allowed}."
    if not 0 <= answer < len(choices):
        return f"the answer is {answer}; it must be from 0 to {len(choices) - 1}, a choice."
    return None


def _wrong_hellaswag(row: Row) -> str | None:
    if ": " not in row["ctx"]:
        return f"ctx is {row['ctx']!r}; it must be an activity, a colon, a space and a text."
    return _wrong_choice(row)


def _wrong_winogrande(row: Row) -> str | None:
    if row["answer"] not in ("1", "2"):
        return f"answer is {row['answer']!r}; it must be '1' or '2'."
    return None if "_" in row["sentence"] else "the sentence has no _ for the options."


def _wrong_piqa(row: Row) -> str | None:
    return None if row["label"] in (0, 1) else f"label is {row['label']}; it must be 0 or 1."


def _wrong_mbpp(row: Row) -> str | None:
    imports = row.get("test_imports")
    if imports is None or (isinstance(imports, list) and all(isinstance(i, str) for i in imports)):
        return None
    return f"test_imports is {imports!r}; it must be a list of texts, or absent."


def _wrong_math(row: Row) -> str | None:
    return None if "\\boxed" in row["solution"] else "the solution has no answer in a \\boxed{}."


_HELLASWAG_PARTS = ("activity_label", "ctx_a", "ctx_b")


def _adopt_hellaswag(row: Row) -> Row:
    own = {name: value for name, value in row.items() if name not in _HELLASWAG_PARTS}
    parts = {name: row.get(name) for name in _HELLASWAG_PARTS}
    if not all(isinstance(part, str) for part in parts.values()):
        return own
    label = row.get("label")
    if isinstance(label, str) and re.fullmatch("[0-9]{1,3}", label):
        label = int(label)
    context = f"{parts['activity_label']}: {parts['ctx_a']} {parts['ctx_b']}".rstrip()
    return own | parts | {"ctx": context, "label": label}


def _adopt_lettered(row: Row) -> Row:
    choices = row.get("choices")
    if not isinstance(choices, dict):
        return row
    letters, key = choices.get("label"), row.get("answerKey")
    if not isinstance(letters, list) or key not in letters:
        return row | {"choices": choices.get("text"), "answer": key}
    return row | {"choices": choices.get("text"), "answer": letters.index(key)}


def _adopt_triviaqa(row: Row) -> Row:
    answer = row.get("answer")
    if not isinstance(answer, dict):
        return row
    return row | {
        "context": f"Question: {row.get('question')}\nAnswer:",
        "answer": answer.get("value"),
        "aliases": answer.get("aliases"),
    }


def _lettered(row: Row) -> Row:
    letters = list(_LETTERS[: len(row["choices"])])
    return {
        "question": row["question"],
        "choices": {"text": row["choices"], "label": letters},
        "answerKey": letters[row["answer"]],
    }


def _hellaswag(row: Row) -> Row:
    if "ctx_b" in row:
        return {**{name: row[name] for name in _HELLASWAG_PARTS}, **_hellaswag_answers(row)}
    label, _, context = row["ctx"].partition(": ")
    # The hub has the last sentence apart where it is only begun; the harness gives it a capital.
    begin = len(context)
    if not context.rstrip().endswith((".", "!", "?")):
        begin = max((m.end() for m in _SMALL_BEGINNING.finditer(context)), default=begin)
    return {
        "activity_label": label,
        "ctx_a": context[:begin].rstrip(),
        "ctx_b": context[begin:],
        **_hellaswag_answers(row),
    }


def _hellaswag_answers(row: Row) -> Row:
    return {"endings": row["endings"], "label": str(row["label"])}


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
        problem=partial(_wrong_choice, count=4),
        subject=lambda row: str(row["subject"]),
        shots="dev",
    ),
    "hellaswag": Layout(
        files={"validation": "val"},
        fields={"ctx": str, "endings": list, "label": int},
        hub="Rowan/hellaswag",
        problem=_wrong_hellaswag,
        convert=_hellaswag,
        adopt=_adopt_hellaswag,
        more_fields=_HELLASWAG_PARTS,
    ),
    "winogrande": Layout(
        files={"validation": "val"},
        fields={"sentence": str, "option1": str, "option2": str, "answer": str},
        hub="allenai/winogrande (winogrande_xl)",
        problem=_wrong_winogrande,
    ),
    "piqa": Layout(
        files={"validation": "valid"},
        fields={"goal": str, "sol1": str, "sol2": str, "label": int},
        hub="baber/piqa",
        problem=_wrong_piqa,
    ),
    "arc_easy": Layout(
        files={"test": "test"},
        fields=_CHOICE_FIELDS,
        hub="allenai/ai2_arc (ARC-Easy)",
        problem=_wrong_choice,
        convert=_lettered,
        adopt=_adopt_lettered,
    ),
    "arc_challenge": Layout(
        files={"test": "test"},
        fields=_CHOICE_FIELDS,
        hub="allenai/ai2_arc (ARC-Challenge)",
        problem=_wrong_choice,
        convert=_lettered,
        adopt=_adopt_lettered,
    ),
    "commonsenseqa": Layout(
        files={"validation": "val"},
        fields=_CHOICE_FIELDS,
        hub="tau/commonsense_qa",
        problem=partial(_wrong_choice, count=5),
        convert=_lettered,
        adopt=_adopt_lettered,
    ),
    "nq_open": Layout(
        # The shots are EfficientQA's, because the train split is not among the small files.
        files={"train": "NQ-open.efficientqa.dev.1.1", "validation": "NQ-open.dev"},
        fields={"question": str, "answer": list},
        hub="google-research-datasets/nq_open",
        convert=lambda row: {"question": row["question"], "answer": row["answer"]},
        shots="train",
        num_spare_shots=1,
    ),
    "triviaqa": Layout(
        files={"train": "triviaqa_sm_sub", "validation": "triviaqa_sm_sub"},
        fields={"context": str, "answer": str, "aliases": list},
        hub="mandarjoshi/trivia_qa (rc.nocontext)",
        convert=_triviaqa,
        adopt=_adopt_triviaqa,
        belongs=_triviaqa_split,
        shots="train",
        num_spare_shots=1,
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
        problem=_wrong_mbpp,
        belongs=_mbpp_split,
        more_fields=("test_imports",),
        shots="prompt",
    ),
    "hendrycks_math": Layout(
        files={"train": "train", "test": "test"},
        fields={"problem": str, "solution": str, "type": str},
        hub="EleutherAI/hendrycks_math",
        problem=_wrong_math,
        subject=_math_subject,
        shots="train",
    ),
    "gsm8k": Layout(
        files={"test": "test"},
        fields={"question": str, "answer": str},
        hub="openai/gsm8k (main)",
    ),
}
"""Layout by name of the benchmark."""
