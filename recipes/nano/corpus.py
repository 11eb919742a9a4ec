"""The plain-text part of nano's pretraining: which sources, how cleaned, how much of each.

A small model that sees some ten million tokens learns what is frequent and simple. So most of it is
plain English: talk, everyday knowledge, novels in plain style; some code and documentation; a
little German, French, Spanish and Italian. Nothing of an evaluation set is read.

Each source yields documents as text; ``read_corpus`` cuts them to the token budget of the source,
in an order that only the seed decides. Most documents have at most 1,000 tokens; a third of the
novels come in pieces of nearly 4,096, for the end of the training, when contexts grow long.
"""

import gzip
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

from mixtral.errors import ConfigError

Source = Callable[[Path], Iterator[str]]

CHARACTERS_PER_TOKEN = 4.2
_LONGEST_DOCUMENT = 4000  # characters; less than 1,024 tokens
_LONG_DOCUMENT = 15_500  # characters; less than 4,096 tokens of a novel

_NOVELS = "litbank_novels/novels.jsonl.gz"
VALID_NOVELS = ("24_o_pioneers", "271_black_beauty")
"""Never trained on; excerpts of them lie in the package for the held-out cases."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TextDocument:
    """One document of the corpus."""

    kind: str
    """Source."""
    text: str
    """What is learned."""
    is_long: bool
    """Whether it may have more than 1,024 tokens."""
    is_valid: bool
    """Whether it is kept for validation."""


def read_corpus(data: Path, seed: int, num_tokens: float) -> list[TextDocument]:
    """Read all sources, each cut to its share of about ``num_tokens``.

    Raises:
        ConfigError: A file is missing.
    """
    documents: list[TextDocument] = []
    scale = num_tokens / sum(budget for _, budget in SOURCES.values())
    for kind, (source, budget) in SOURCES.items():
        texts = [text.strip() for text in source(data)]
        texts = [text for text in texts if len(text) > 20]
        Random(f"{seed}/{kind}").shuffle(texts)
        documents += _take(kind, texts, scale * budget * CHARACTERS_PER_TOKEN, is_valid=False)
    return documents + _take("valid novels", list(_valid_novels(data)), 180_000, is_valid=True)


def novel_texts(data: Path, count: int) -> list[str]:
    """Return whole novels of the training part, for the tasks that need real text around a fact.

    Raises:
        ConfigError: The file is missing.
    """
    rows = islice(_training_novels(data), count)
    return [_unwrap(row["text"]) for row in rows]


def _take(kind: str, texts: list[str], budget: float, *, is_valid: bool) -> list[TextDocument]:
    taken = []
    is_long = kind == "long novels"
    for index, text in enumerate(texts):
        # One document in 120 of each kind is kept for validation.
        held = is_valid or index % 120 == 119
        taken.append(TextDocument(kind=kind, text=text, is_long=is_long, is_valid=held))
        budget -= len(text)
        if budget < 0:
            break
    return taken


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rt", encoding="utf-8") as file:
            for line in file:
                yield json.loads(line)
    except FileNotFoundError as error:
        raise ConfigError(f"{path} does not exist; name the folder with --data.") from error


def _pieces(text: str, longest: int = _LONGEST_DOCUMENT) -> Iterator[str]:
    """Cut a long text at paragraph ends into documents."""
    piece: list[str] = []
    length = 0
    for paragraph in re.split(r"\n\s*\n", text):
        if length and length + len(paragraph) > longest:
            yield "\n\n".join(piece)
            piece, length = [], 0
        piece.append(paragraph[:_LONGEST_DOCUMENT].rstrip())
        length += len(paragraph)
    yield "\n\n".join(piece)


def _unwrap(text: str) -> str:
    """Join the wrapped lines of each paragraph of a book."""
    paragraphs = [" ".join(part.split()) for part in re.split(r"\n\s*\n", text)]
    return "\n\n".join(part.replace("--", " - ") for part in paragraphs if part)


def _novels(data: Path) -> Iterator[str]:
    for index, row in enumerate(_training_novels(data)):
        if index % 3:
            yield from _pieces(_unwrap(row["text"]))


def _long_novels(data: Path) -> Iterator[str]:
    for index, row in enumerate(_training_novels(data)):
        if index % 3 == 0:
            yield from _pieces(_unwrap(row["text"]), _LONG_DOCUMENT)


def _training_novels(data: Path) -> Iterator[dict[str, Any]]:
    return (row for row in _rows(data / _NOVELS) if row["book"] not in VALID_NOVELS)


def _valid_novels(data: Path) -> Iterator[str]:
    for row in _rows(data / _NOVELS):
        if row["book"] in VALID_NOVELS:
            yield from _pieces(_unwrap(row["text"]))


def _foreign_books(data: Path) -> Iterator[str]:
    for row in _rows(data / "gutenberg_books/books.jsonl.gz"):
        yield from _pieces(_unwrap(row["text"][5000:]))


def _foreign_documentation(data: Path) -> Iterator[str]:
    for name in ("fastapi_docs_de", "fastapi_docs_fr", "fastapi_docs_es", "react_docs_it"):
        for row in _rows(data / name / "docs.jsonl.gz"):
            yield from _pieces(row["text"])
    for row in _rows(data / "tldr/pages.jsonl.gz"):
        if row["lang"] != "en":
            yield row["text"]


def _topical_chat(data: Path) -> Iterator[str]:
    for row in _rows(data / "topical_chat/conversations.jsonl.gz"):
        yield "\n".join(
            f"{'A' if m['agent'] == 'agent_1' else 'B'}: {' '.join(m['text'].split())}"
            for m in row["messages"]
        )


def _taskmaster(data: Path) -> Iterator[str]:
    for row in _rows(data / "taskmaster/tm4_coffee_dialogs.jsonl.gz"):
        yield "\n".join(f"{u['speaker'].capitalize()}: {u['text']}" for u in row["utterances"])
    longest: dict[str, list[dict[str, Any]]] = {}
    for row in _rows(data / "taskmaster/tm3_reward.jsonl.gz"):
        turns = [turn for turn in json.loads(row["context"]) if "text" in turn]
        if len(turns) > len(longest.get(row["conversation_id"], [])):
            longest[row["conversation_id"]] = turns
    for turns in longest.values():
        yield "\n".join(f"{t['role'].capitalize()}: {t['text']}" for t in turns)


def _everyday(data: Path) -> Iterator[str]:
    for row in _rows(data / "commonsenseqa/train.jsonl.gz"):
        yield f"{row['question']} {row['choices'][row['answer']].capitalize()}."
    for row in _rows(data / "piqa/train.jsonl.gz"):
        yield f"{row['goal']} {row['sol2'] if row['label'] else row['sol1']}"
    for index, row in enumerate(_rows(data / "winogrande/train_xl.jsonl.gz")):
        if index % 3 == 0:
            yield row["sentence"].replace("_", row[f"option{row['answer']}"])


def _sums_in_words(data: Path) -> Iterator[str]:
    for row in _rows(data / "gsm8k/train.jsonl"):
        answer = re.sub(r"<<.*?>>", "", row["answer"]).replace("####", "The answer is")
        yield f"{row['question']}\n{answer}."


def _country_facts(data: Path) -> Iterator[str]:
    for row in _rows(data / "world_factbook/countries.jsonl.gz"):
        name, lines = row["name"], []
        capital = re.search(r"Capital - name: ([^\n;(]+)", row["text"])
        if capital:
            lines.append(f"The capital of {name} is {capital.group(1).strip()}.")
        for key in (
            "Background",
            "Location",
            "Climate",
            "Terrain",
            "Languages",
            "Economic overview",
        ):
            found = re.search(rf"^{key}[^\n:]*: ([^\n]+)", row["text"], flags=re.MULTILINE)
            if found:
                lines.append(f"{key}: {found.group(1)}")
        yield f"{name}\n\n" + "\n".join(lines)[:_LONGEST_DOCUMENT]


def _commands(data: Path) -> Iterator[str]:
    for row in _rows(data / "tldr/pages.jsonl.gz"):
        if row["lang"] == "en" and row["platform"] in ("common", "linux"):
            yield re.sub(r"\n> More information:[^\n]*", "", row["text"])


def _wikipedia(data: Path) -> Iterator[str]:
    passages = dict.fromkeys(row["passages"] for row in _rows(data / "fg_rlhf/pairs.jsonl.gz"))
    for text in passages:
        yield from _pieces(text)


def _python(data: Path) -> Iterator[str]:
    for row in _rows(data / "thealgorithms_python/docs.jsonl.gz"):
        if 200 < len(row["text"]) < _LONGEST_DOCUMENT:
            yield row["text"]
    for row in _rows(data / "exercism_python/practice.jsonl.gz"):
        yield f"{row['instructions'][:2000]}\n\n{row['solution'][:2500]}"


def _documentation(data: Path) -> Iterator[str]:
    for row in _rows(data / "rust_book/docs.jsonl.gz"):
        yield from _pieces(row["text"])
    for row in _rows(data / "peps/docs.jsonl.gz"):
        yield row["text"][1000:_LONGEST_DOCUMENT]


def _python_phrases(data: Path) -> Iterator[str]:
    rows = [row["en"] for row in _rows(data / "python_docs_es/pairs.jsonl.gz")]
    prose = [text for text in rows if 60 < len(text) < 600 and text.count("`") < 6]
    for start in range(0, len(prose), 5):
        yield "\n\n".join(prose[start : start + 5])


def _speeches(data: Path) -> Iterator[str]:
    for row in _rows(data / "us_speeches/state_union.jsonl.gz"):
        yield from _pieces(_unwrap(row["text"]))


# Source and its share, as tokens of a corpus of 14 million.
SOURCES: dict[str, tuple[Source, int]] = {
    "topical chat": (_topical_chat, 1_300_000),
    "taskmaster": (_taskmaster, 600_000),
    "everyday": (_everyday, 1_200_000),
    "sums in words": (_sums_in_words, 500_000),
    "country facts": (_country_facts, 350_000),
    "wikipedia": (_wikipedia, 400_000),
    "commands": (_commands, 250_000),
    "python": (_python, 900_000),
    "documentation": (_documentation, 300_000),
    "python phrases": (_python_phrases, 250_000),
    "speeches": (_speeches, 200_000),
    "foreign books": (_foreign_books, 350_000),
    "foreign documentation": (_foreign_documentation, 200_000),
    "novels": (_novels, 5_000_000),
    "long novels": (_long_novels, 2_400_000),
}
