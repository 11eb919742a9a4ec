"""Questions over a text of 100 to 300 tokens; the answer is a span of it.

The text is a made-up paragraph, or a piece of a novel with facts put in, or the novel alone: who
said something, or which word stands beside others. The names, things and novels of held-out cases
are never trained on. A few training texts are asked what they do not say.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

import words
from conversation import Conversation, dialogue, with_articles
from novels import Novels, Piece
from reading_facts import (
    ABOUT_THINGS,
    AFTER,
    BEFORE,
    EVENT_QUESTIONS,
    EVENTS,
    FACTS,
    FILLER,
    FRAMES,
    SAID,
    VERBS,
)
from values import whole_number
from words import Split, wording
from words_task import make_sentence

UNKNOWN = "The text does not say."
_SAID = re.compile(
    r"[\"\u201c]([A-Z][^\"\u201c\u201d]{12,90}?)[,.!?]?[\"\u201d] "
    r"(?:said|cried|asked|answered|replied|exclaimed|whispered|returned|called) "
    r"((?:Mr\.|Mrs\.|Miss|Dr\.)? ?[A-Z][a-z]+(?: [A-Z][a-z]+)?)\b"
)
_WORDS = re.compile(r"[A-Za-z]+")


@dataclass(frozen=True, kw_only=True, slots=True)
class Statement:
    """A sentence, with what can be asked about it."""

    text: str
    """The sentence."""
    about: frozenset[str]
    """Persons and things that it names; no other sentence of a text names them."""
    questions: tuple[tuple[str, str], ...]
    """Questions with their answers."""


def make_reading(rng: Random, split: Split, novels: Novels) -> Conversation:
    """Ask a question over a text, in training often more of them.

    A text has a hundred tokens for each token of an answer; more questions teach more from it.
    """
    draw = rng.random()
    if draw < 0.25:
        piece = novels.piece(rng, split, rng.randint(450, 1150))
        asked = _who_said(rng, split, piece) or _beside(rng, split, piece)
        if asked:
            conversation = _ask(rng, split, piece.text, asked)
            return conversation if split == "heldout" else _asked_more(rng, conversation, piece)
    statements = _statements(rng, split, rng.randint(2, 6))
    if draw < 0.6:
        text = _in_novel(rng, novels.piece(rng, split, rng.randint(350, 900)), statements)
    else:
        length = rng.randint(350, 1000) if split == "heldout" else rng.randint(0, 1000)
        text = _paragraph(rng, split, statements, length)
    asked = rng.choice(rng.choice(statements).questions)
    if split == "train" and rng.random() < 0.06:
        asked = rng.choice(_statements(rng, split, 1)[0].questions)[0], UNKNOWN
    conversation = _ask(rng, split, text, asked)
    if split == "train" and rng.random() < 0.7:
        turns = [str(message["content"]) for message in conversation.messages]
        for statement in rng.sample(statements, rng.randint(1, len(statements))):
            turns += rng.choice(statement.questions)
        return dialogue(*turns, task="reading")
    return conversation


def _asked_more(rng: Random, conversation: Conversation, piece: Piece) -> Conversation:
    """Ask for words of the same text, up to eight more."""
    turns = [str(message["content"]) for message in conversation.messages]
    for _ in range(rng.randint(0, 8)):
        turns += _beside(rng, "train", piece) or ()
    return dialogue(*turns, task="reading")


def _ask(rng: Random, split: Split, text: str, asked: tuple[str, str]) -> Conversation:
    question, answer = asked
    frame = wording(rng, split, FRAMES)
    return dialogue(frame.replace("{q}", question).replace("{t}", text), answer, task="reading")


def _statements(rng: Random, split: Split, count: int) -> list[Statement]:
    """Draw statements of which no two are about the same person or thing."""
    drawn: list[Statement] = []
    taken: set[str] = set()
    while len(drawn) < count:
        statement = _event(rng, split) if rng.random() < 0.45 else _fact(rng, split)
        if not taken & statement.about:
            drawn.append(statement)
            taken |= statement.about
    return drawn


def _fact(rng: Random, split: Split) -> Statement:
    kind = rng.choice(sorted(FACTS))
    if kind in ABOUT_THINGS:
        who = rng.choice((words.THINGS.draw(rng, split), words.any_word(rng, split)))
    else:
        who = rng.choice((words.first_name(rng, split), " ".join(words.person(rng, split))))
    value = _value(rng, split, kind)
    sentences, questions = FACTS[kind]
    sentence = wording(rng, split, sentences).format(p=who, v=value)
    asked = tuple((question.format(p=who), value) for question in questions)
    return Statement(
        text=_capitalised(with_articles(sentence)),
        about=frozenset({who.split()[0], value}),
        questions=(rng.choice(asked),),
    )


def _event(rng: Random, split: Split) -> Statement:
    base, past, done = rng.choice(VERBS)
    thing = rng.choice((words.THINGS.draw(rng, split), words.any_word(rng, split)))
    colour = f"{words.ADJECTIVES.draw(rng, split)} " if rng.random() < 0.3 else ""
    parts = {
        "p": rng.choice((words.first_name(rng, split), " ".join(words.person(rng, split)))),
        "t": f"the {colour}{thing}",
        "c": words.city(rng, split),
        "w": rng.choice((*words.DAYS, f"{rng.randint(1, 28)} {rng.choice(words.MONTHS)}")),
    }
    verb = {"base": base, "past": past, "done": done}
    template = wording(rng, split, EVENTS)
    known = [name for name in parts if f"{{{name}}}" in template]
    questions = []
    for name in known:
        asked = rng.choice(EVENT_QUESTIONS[name])
        questions.append((asked.format(**parts, **verb), parts[name]))
    return Statement(
        text=_capitalised(template.format(**parts, **verb)),
        about=frozenset({parts["p"].split()[0], thing, parts["c"]}),
        questions=tuple((question, answer) for question, answer in questions),
    )


def _value(rng: Random, split: Split, kind: str) -> str:
    makers: dict[str, Callable[[Random, Split], str]] = {
        "job": words.JOBS.draw, "city": words.city, "pet": words.ANIMALS.draw,
        "colour": words.COLOURS.draw, "food": words.FOODS.draw, "hobby": words.HOBBIES.draw,
        "company": words.COMPANIES.draw, "country": words.COUNTRIES.draw, "place": words.city,
        "paint": words.COLOURS.draw, "birthplace": words.city, "anything": words.invent_name,
        "instrument": words.THINGS.draw,
    }  # fmt: skip
    if kind in makers:
        return makers[kind](rng, split)
    if kind in ("year", "founded"):
        return str(rng.randint(1900, 2020))
    if kind == "age":
        return str(rng.randint(5, 95))
    if kind in ("price", "code", "amount"):
        return str(whole_number(rng, split))
    return rng.choice((words.first_name(rng, split), " ".join(words.person(rng, split))))


def _paragraph(rng: Random, split: Split, statements: list[Statement], length: int) -> str:
    """Write statements with other sentences around them, until it is long enough."""
    sentences = [statement.text for statement in statements]
    known = {word for statement in statements for word in statement.about}
    while sum(map(len, sentences)) < length:
        if rng.random() < 0.4:
            sentence = rng.choice(FILLER)
        elif rng.random() < 0.5:
            sentence = make_sentence(rng, split)
        else:
            other = _statements(rng, split, 1)[0]
            sentence = "" if other.about & known else other.text
            known |= other.about
        # A made-up sentence must not answer the question once more.
        if (sentence and not known & set(_WORDS.findall(sentence))) or sentence in FILLER:
            sentences.insert(rng.randint(0, len(sentences)), sentence)
    return with_articles(" ".join(sentences))


def _in_novel(rng: Random, piece: Piece, statements: list[Statement]) -> str:
    text = piece.text
    for statement in statements:
        at = rng.choice(Piece(book="", start=0, text=text).sentence_starts())
        gap = " " if at == len(text) else ""
        text = f"{text[:at]}{gap}{statement.text}{'' if gap else ' '}{text[at:]}"
    return text


def _who_said(rng: Random, split: Split, piece: Piece) -> tuple[str, str] | None:
    said = _SAID.findall(piece.text)
    if not said:
        return None
    speech, who = rng.choice(said)
    return wording(rng, split, SAID).replace("{x}", speech), who.strip()


def _beside(rng: Random, split: Split, piece: Piece) -> tuple[str, str] | None:
    """Ask for the word beside three others that stand together once."""
    runs = re.findall(r"[A-Za-z]+(?: [A-Za-z]+){4,}(?![A-Za-z'\u2019])", piece.text)
    if not runs:
        return None
    parts = rng.choice(runs).split()
    at = rng.randint(0, len(parts) - 4)
    if rng.random() < 0.7:
        shown, answer = " ".join(parts[at : at + 3]), parts[at + 3]
        asked = wording(rng, split, AFTER)
    else:
        shown, answer = " ".join(parts[at + 1 : at + 4]), parts[at]
        asked = wording(rng, split, BEFORE)
    if len(re.findall(rf"\b{re.escape(shown)}\b", piece.text)) > 1:
        return None
    return asked.replace("{x}", shown), answer


def _capitalised(sentence: str) -> str:
    return sentence[0].upper() + sentence[1:]
