"""Questions whose right passages are known, and how a list of passages is scored.

- ``fg_rlhf`` (github.com/allenai/FineGrainedRLHF, dev_feedback): 500 questions, each with up to
  four passages of Wikipedia, one file each here. Two readings of "right": any passage of the
  question, or those that its annotators pointed at (379 questions).
- ``mbpp`` (github.com/google-research/google-research/tree/master/mbpp): 974 descriptions, each
  with its program, one file each here.

Settings may be tuned on the questions with ``is_tuning`` and are reported on the others: the halves
of fg_rlhf by a hash of the question, of MBPP the part published for training (ids from 511).
"""

import gzip
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FEEDBACK = Path("train/fg_rlhf/dev_feedback.jsonl.gz")
MBPP = Path("eval/mbpp/mbpp.jsonl")
FIRST_FOR_TRAINING = 511
CHARACTERS = 2048
"""What four windows of the guide hold; a list of longer passages is cut there to compare fairly."""
DEPTH = 10
"""Passages that are looked at for the reciprocal rank."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """A question and the documents that answer it."""

    text: str
    """What is asked."""
    right: frozenset[str]
    """Names of the documents to find, at least one."""
    is_tuning: bool
    """Whether settings may be chosen by it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Corpus:
    """Documents and questions over them."""

    name: str
    """Of the data."""
    documents: dict[str, str]
    """Names of files to texts."""
    questions: dict[str, list[Question]]
    """Readings of "right" to questions."""
    groups: dict[str, str] = field(default_factory=dict)
    """Names of files to the article that they are of; left out together."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """A passage that was found."""

    document: str
    """Name of its file."""
    num_characters: int
    """Its length."""


def load_corpora(data: Path, *, limit: int | None = None) -> list[Corpus]:
    """Read both corpora, with the first ``limit`` questions of each and their documents."""
    return [_load_feedback(data / FEEDBACK, limit), _load_mbpp(data / MBPP, limit)]


def score(
    found: Sequence[Sequence[Found]], questions: Sequence[Question]
) -> dict[str, list[float]]:
    """Return the scores of each question.

    Args:
        found: For each question passages, best first, at least ``DEPTH`` where there are so many.
        questions: The questions.

    Returns:
        ``recall_4``: share of the right documents among those of the first four passages;
        ``recall_2048``: the same for as many passages as have 2,048 characters, at least one;
        ``mrr_10``: 1 over the place of the first right passage, 0 where it is not in ten.
    """
    scores: dict[str, list[float]] = {"recall_4": [], "recall_2048": [], "mrr_10": []}
    for passages, question in zip(found, questions, strict=True):
        names = [passage.document for passage in passages]
        scores["recall_4"].append(_recall(names[:4], question.right))
        scores["recall_2048"].append(_recall(names[: _num_within(passages)], question.right))
        places = [i for i, name in enumerate(names[:DEPTH], start=1) if name in question.right]
        scores["mrr_10"].append(1 / places[0] if places else 0.0)
    return scores


def mean_and_error(values: Sequence[float]) -> dict[str, float]:
    """Return the mean and its standard error.

    >>> mean_and_error([0.0, 1.0])
    {'mean': 0.5, 'error': 0.5}
    """
    count = len(values)
    mean = sum(values) / count
    variance = sum((value - mean) ** 2 for value in values) / max(count - 1, 1)
    return {"mean": mean, "error": (variance / count) ** 0.5}


def _recall(names: Sequence[str], right: frozenset[str]) -> float:
    return len(right.intersection(names)) / len(right)


def _num_within(passages: Sequence[Found]) -> int:
    left = CHARACTERS
    for count, passage in enumerate(passages):
        left -= passage.num_characters
        if left < 0:
            return max(count, 1)
    return len(passages)


def _load_feedback(path: Path, limit: int | None) -> Corpus:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        records = [json.loads(line) for line in file][:limit]
    names: dict[str, str] = {}  # Texts to names: some passages serve several questions.
    groups: dict[str, str] = {}
    questions: dict[str, list[Question]] = {"any of its passages": [], "named by annotators": []}
    for record in records:
        own = []
        for title, *sentences in record["passages"]:
            text = f"# {title}\n\n{' '.join(sentences)}\n"
            own.append(names.setdefault(text, f"{len(names):04}.md"))
            groups[own[-1]] = title
        chosen = {own[place - 1] for place in _named_places(record) if 0 < place <= len(own)}
        for right, reading in zip((set(own), chosen), questions.values(), strict=True):
            if right:
                reading.append(
                    Question(
                        text=record["question"],
                        right=frozenset(right),
                        is_tuning=is_even(record["question"]),
                    )
                )
    documents = {name: text for text, name in names.items()}
    return Corpus(name="fg_rlhf", documents=documents, questions=questions, groups=groups)


def _named_places(record: Mapping[str, Any]) -> set[int]:
    """Return the numbers, from 1, of the passages that an annotator pointed at."""
    missing = record["feedback"]["missing-info"]
    return {one["passage_id"] for one in missing if one.get("passage_id") and one["sentence_id"]}


def _load_mbpp(path: Path, limit: int | None) -> Corpus:
    records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    if limit is not None:
        # From the middle, where both parts meet.
        middle = next(i for i, one in enumerate(records) if one["task_id"] >= FIRST_FOR_TRAINING)
        records = records[max(0, middle - limit // 2) : middle + limit // 2]
    names = {one["task_id"]: f"{one['task_id']:04}.py" for one in records}
    questions = [
        Question(
            text=one["text"],
            right=frozenset({names[one["task_id"]]}),
            is_tuning=one["task_id"] >= FIRST_FOR_TRAINING,
        )
        for one in records
    ]
    documents = {names[one["task_id"]]: one["code"].replace("\r", "") + "\n" for one in records}
    return Corpus(name="mbpp", documents=documents, questions={"its program": questions})


def is_even(text: str) -> bool:
    """Return which half a text belongs to, by its sha256."""
    return hashlib.sha256(text.encode()).digest()[0] % 2 == 0
