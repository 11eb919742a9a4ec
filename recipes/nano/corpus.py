"""The plain-text part of nano's pretraining: which sources, how cleaned, how much of each.

A model of 19 million parameters that sees some ten million tokens learns what is frequent and
simple. So most of it is plain English: talk, everyday knowledge, novels in plain style; some code
and documentation; a little German, French, Spanish and Italian. Nothing of an evaluation set is
read.

Each source yields documents as text; ``read_corpus`` cuts them to the token budget of the source,
in an order that only the seed decides.
"""

import gzip
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from mixtral.errors import ConfigError

Source = Callable[[Path], Iterator[str]]

CHARACTERS_PER_TOKEN = 4.2
_LONGEST_DOCUMENT = 6000  # characters; about 1,400 tokens, so that late long sequences fill up

VALID_NOVELS = ("24_o_pioneers", "271_black_beauty")
NOVELS = (
    "113_the_secret_garden", "1155_the_secret_adversary", "11_alices_adventures_in_wonderland",
    "120_treasure_island", "1206_the_flying_u_ranch", "1661_the_adventures_of_sherlock_holmes",
    "12677_personality_plus_some_experiences_of_emma_mcchesney_and_her_son_jock",
    "1327_elizabeth_and_her_german_garden", "1695_the_man_who_was_thursday_a_nightmare",
    "174_the_picture_of_dorian_gray", "2005_piccadilly_jim", "215_the_call_of_the_wild",
    "238_dear_enemy", "2641_a_room_with_a_view", "2814_dubliners",
    "2852_the_hound_of_the_baskervilles", "32_herland", "36_the_war_of_the_worlds",
    "434_the_circular_staircase", "45_anne_of_green_gables", "514_little_women",
    "5230_the_invisible_man_a_grotesque_romance", "543_main_street", "60_the_scarlet_pimpernel",
    "5348_ragged_dick_or_street_life_in_new_york_with_the_bootblacks", "550_silas_marner",
    "62_a_princess_of_mars", "74_the_adventures_of_tom_sawyer", "78_tarzan_of_the_apes",
    "805_this_side_of_paradise", "95_the_prisoner_of_zenda", "44_the_song_of_the_lark",
    "18581_adrift_in_new_york_tom_and_florence_braving_the_world", "233_sister_carrie_a_novel",
    "541_the_age_of_innocence", "367_country_of_the_pointed_firs",
    "160_the_awakening_and_selected_short_stories",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class TextDocument:
    """One document of the corpus."""

    kind: str
    """Source."""
    text: str
    """What is learned."""
    is_valid: bool
    """Whether it is kept for validation."""


def read_corpus(data: Path, seed: int) -> list[TextDocument]:
    """Read all sources, each cut to its budget.

    Raises:
        ConfigError: A file is missing.
    """
    documents: list[TextDocument] = []
    for kind, (source, budget) in SOURCES.items():
        texts = [text.strip() for text in source(data)]
        texts = [text for text in texts if len(text) > 20]
        Random(f"{seed}/{kind}").shuffle(texts)
        documents += _take(kind, texts, budget * CHARACTERS_PER_TOKEN, is_valid=False)
    return documents + _take("valid novels", list(_valid_novels(data)), 180_000, is_valid=True)


def _take(kind: str, texts: list[str], budget: float, *, is_valid: bool) -> list[TextDocument]:
    taken = []
    for index, text in enumerate(texts):
        # One document in 120 of each kind is kept for validation.
        held = is_valid or index % 120 == 119
        taken.append(TextDocument(kind=kind, text=text, is_valid=held))
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


def _pieces(text: str) -> Iterator[str]:
    """Cut a long text at paragraph ends into documents."""
    piece: list[str] = []
    length = 0
    for paragraph in re.split(r"\n\s*\n", text):
        if length and length + len(paragraph) > _LONGEST_DOCUMENT:
            yield "\n\n".join(piece)
            piece, length = [], 0
        piece.append(paragraph[:_LONGEST_DOCUMENT].rstrip())
        length += len(paragraph)
    yield "\n\n".join(piece)


def _unwrap(text: str) -> str:
    """Join the wrapped lines of each paragraph of a book."""
    paragraphs = [" ".join(part.split()) for part in re.split(r"\n\s*\n", text)]
    return "\n\n".join(part.replace("--", " - ") for part in paragraphs if part)


def _novel_pieces(data: Path, books: tuple[str, ...]) -> Iterator[str]:
    for row in _rows(data / "litbank_novels/novels.jsonl.gz"):
        if row["book"] in books:
            yield from _pieces(_unwrap(row["text"]))


def _novels(data: Path) -> Iterator[str]:
    return _novel_pieces(data, NOVELS)


def _valid_novels(data: Path) -> Iterator[str]:
    return _novel_pieces(data, VALID_NOVELS)


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


# Source and its budget in tokens.
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
    "novels": (_novels, 4_300_000),
}
