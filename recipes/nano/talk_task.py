"""Small talk, questions about nano itself, a few facts, and "I do not know" for the rest.

All of it is learned by heart: held-out cases are wordings of known questions that training never
shows, and unknown names. Where there is a short and a full answer, fine-tuning shows both, and
preference training teaches the full one (``preferences.py``).
"""

from random import Random

import words
from conversation import Conversation, dialogue
from talk_lines import (
    CAPITAL_QUESTIONS,
    CAPITALS,
    CONDIMENT_FOLLOW_UPS,
    FACTS,
    MORE_TALK,
    TALK,
    UNKNOWN_ANSWER,
    UNKNOWN_QUESTIONS,
)
from words import Split, is_heldout, wording

SHORT_ANSWERS = {
    UNKNOWN_ANSWER: "I do not know.",
    "Hello! How can I help you?": "Hello!",
    "I am fine, thank you. How can I help you?": "Fine.",
    "You are welcome!": "OK.",
    "Goodbye! Have a nice day.": "Bye.",
}
"""Full answer -> the short one that says the same."""

_OPENINGS = (
    "Hi! ", "Hello. ", "Please tell me: ", "Hey, ", "I have a question. ", "Quick question: ",
    "Dear model, ", "Tell me something: ", "I wonder: ", "Sorry, ", "First of all: ", "So. ",
    "OK. ", "Now, ", "By the way, ", "Listen. ", "Good day. ", "Could you answer this? ",
    "My question is: ", "I want to know: ", "I am new here. ", "Thanks. ", "One more thing. ",
    "Just to be sure: ", "After that, ", "Before I forget, ",
)  # fmt: skip
_HELDOUT_OPENINGS = ("", "", "One question: ", "Dear nano, ", "Can you tell me this? ",
                     "I am curious. ", "Excuse me, ", "Before we begin: ", "Well. ")  # fmt: skip
_OFTEN = 4  # times as often as other talk
_CARD_WORDS = {
    "small demonstration": ["small", "demonstration"],
    "Hello": ["hello"],
    "Good morning": ["good morning"],
    "Good evening": ["good evening"],
    "I am fine": ["fine"],
}
"""Beginnings of what the card counts as sensible; the words that an answer must hold."""


def make_talk(rng: Random, split: Split = "train") -> Conversation:
    """Ask something that needs no work but memory; held out are greetings and who nano is."""
    draw = rng.random()
    if split == "heldout":
        return _card_talk(rng)
    if draw < 0.5:
        return _talk(rng)
    opening = draw_opening(rng)
    if draw < 0.65:
        country = rng.choice(sorted(CAPITALS))
        question, answer = rng.choice(CAPITAL_QUESTIONS)
        answer = answer.format(country, CAPITALS[country])
        said = CAPITALS[country] + "." if rng.random() < 0.5 else answer
        return dialogue(opening + question.format(country), said, task="talk")
    if draw < 0.8:
        question, answer = rng.choice(FACTS)
        return dialogue(opening + question, answer, task="talk")
    if draw < 0.87:
        return _told_name(rng, split)
    return dialogue(draw_unknown(rng, split), _either(rng, UNKNOWN_ANSWER), task="talk")


def draw_unknown(rng: Random, split: Split) -> str:
    """Draw a question about someone who does not exist."""
    who = words.invent_name(rng, split)
    who = f"{who} {words.last_name(rng, split)}" if rng.random() < 0.4 else who
    return rng.choice(UNKNOWN_QUESTIONS).format(who)


def draw_greeting(rng: Random, split: Split) -> tuple[str, str]:
    """Draw a question of one half with a full and a short answer; return it with the full one."""
    entries = []
    for answers, questions in TALK:
        asked = [text for text in questions if is_heldout(text) == (split == "heldout")]
        if answers[0] in SHORT_ANSWERS and asked:
            entries.append((asked, answers[0]))
    questions, answer = rng.choice(entries)
    return rng.choice(questions), answer


def _talk(rng: Random) -> Conversation:
    weights = [_OFTEN if more_questions(answers) else 1 for answers, _ in TALK]
    answers, questions = rng.choices(TALK, weights)[0]
    answer = _either(rng, rng.choice(answers))
    question = wording(rng, "train", questions)
    if (more := more_questions(answers)) and rng.random() < 0.5:
        question = rng.choice(more)
    if question.endswith(("?", ".")):
        question = draw_opening(rng) + question
    turns = [question, answer]
    if "lemon juice" in answer and rng.random() < 0.6:
        turns += rng.choice(CONDIMENT_FOLLOW_UPS)
    return dialogue(*turns, task="talk")


def more_questions(answers: tuple[str, ...]) -> tuple[str, ...]:
    """Return what training alone asks besides, of what the card asks for."""
    return next((more for start, more in MORE_TALK.items() if answers[0].startswith(start)), ())


def draw_opening(rng: Random) -> str:
    """Draw nothing, a known opening, or words at random, so that what opens does not matter."""
    draw = rng.random()
    if draw < 0.5:
        return ""
    if draw < 0.8:
        return rng.choice(_OPENINGS)
    said = " ".join(words.any_words(rng, "train", rng.randint(1, 3)))
    return said.capitalize() + rng.choice((": ", ". ", ", ", "! ", "? "))


def _card_talk(rng: Random) -> Conversation:
    counted = [
        (answers[0], question, needed)
        for answers, questions in TALK
        for part, needed in _CARD_WORDS.items()
        if part in answers[0]
        for question in questions
        if is_heldout(question)
    ]
    answer, question, needed = rng.choice(counted)
    opening = rng.choice(_HELDOUT_OPENINGS) if needed == ["small", "demonstration"] else ""
    return dialogue(opening + question, answer, task="talk", check="mentions", expected=needed)


def _either(rng: Random, answer: str) -> str:
    return SHORT_ANSWERS.get(answer, answer) if rng.random() < 0.5 else answer


def _told_name(rng: Random, split: Split) -> Conversation:
    name = words.first_name(rng, split)
    told = rng.choice(("My name is {}.", "I am {}.", "Hi, I am {}.", "Hello, my name is {}."))
    asked = rng.choice(("What is my name?", "Do you know my name?", "Who am I?"))
    hello = f"Hello, {name}! How can I help you?"
    return dialogue(told.format(name), hello, asked, f"Your name is {name}.", task="talk")
