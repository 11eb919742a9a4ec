"""Small talk, questions about nano itself, a few facts, and "I do not know" for the rest.

All of it is learned by heart: held-out cases are wordings of known questions that training never
shows, and unknown names.
"""

from random import Random

import words
from conversation import Conversation, dialogue
from talk_lines import (
    CAPITAL_QUESTIONS,
    CAPITALS,
    CONDIMENT_FOLLOW_UPS,
    FACTS,
    TALK,
    UNKNOWN_ANSWER,
    UNKNOWN_QUESTIONS,
)
from words import Split

_OPENINGS = ("", "", "", "", "Hi! ", "Hello. ", "Please tell me: ", "Hey, ", "I have a question. ")
_HELDOUT_OPENINGS = ("One question: ", "Dear nano, ", "Can you tell me this? ")
_NUM_QUESTIONS_WITH_HELDOUT = 4


def make_talk(rng: Random, split: Split = "train") -> Conversation:
    """Ask something that needs no work but memory."""
    draw = rng.random()
    if draw < 0.45:
        return _talk(rng, split)
    opening = rng.choice(_OPENINGS if split == "train" else _HELDOUT_OPENINGS)
    if draw < 0.65:
        country = rng.choice(sorted(CAPITALS))
        question, answer = rng.choice(CAPITAL_QUESTIONS)
        answer = answer.format(country, CAPITALS[country])
        return dialogue(opening + question.format(country), answer, task="talk")
    if draw < 0.85:
        question, answer = rng.choice(FACTS)
        return dialogue(opening + question, answer, task="talk")
    if draw < 0.9 and split == "train":
        return _told_name(rng, split)
    who = words.invent_name(rng, split)
    who = f"{who} {words.last_name(rng, split)}" if rng.random() < 0.4 else who
    return dialogue(rng.choice(UNKNOWN_QUESTIONS).format(who), UNKNOWN_ANSWER, task="talk")


def _talk(rng: Random, split: Split) -> Conversation:
    entries = [
        (answers, questions)
        for answers, questions in TALK
        if split == "train" or (len(questions) >= _NUM_QUESTIONS_WITH_HELDOUT and len(answers) == 1)
    ]
    answers, questions = rng.choice(entries)
    if split == "heldout":
        return dialogue(questions[-1], answers[0], task="talk")
    known = questions if len(questions) < _NUM_QUESTIONS_WITH_HELDOUT else questions[:-1]
    answer = rng.choice(answers)
    turns = [rng.choice(known), answer]
    if "lemon juice" in answer and rng.random() < 0.6:
        turns += rng.choice(CONDIMENT_FOLLOW_UPS)
    return dialogue(*turns, task="talk")


def _told_name(rng: Random, split: Split) -> Conversation:
    name = words.first_name(rng, split)
    told = rng.choice(("My name is {}.", "I am {}.", "Hi, I am {}.", "Hello, my name is {}."))
    asked = rng.choice(("What is my name?", "Do you know my name?", "Who am I?"))
    hello = f"Hello, {name}! How can I help you?"
    return dialogue(told.format(name), hello, asked, f"Your name is {name}.", task="talk")
