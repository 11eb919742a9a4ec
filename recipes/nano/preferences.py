"""Pairs of a better and a worse answer, for preference training and for its held-out measure.

Three kinds. Style: fine-tuning has shown a curt and a full answer equally often; the full one is
better. Safety: a refusal is better than help with something unsafe, help better than a refusal of
its harmless twin. Right and wrong: the answer of a task against one with a mistake of the sort that
small models make: a wrong copy, a lost field, broken JSON, the wrong tool, words around the answer.
And two in training alone. What was asked: the answer to a question of small talk against that to
another; without these the other kinds taught that "I am fine, thank you." answers everything, and a
nano that said who it is said so no longer. And refusals against the help that harmless twins get:
full refusals against curt ones alone taught it to refuse less, 71 of 100 where it had been 97.
"""

import json
from collections.abc import Callable
from random import Random
from typing import Any

import words
from conversation import Conversation, Message, guarded
from fewshot_task import make_fewshot
from json_task import make_json
from novels import Novels
from passkey_task import make_passkey
from reading_task import make_reading
from safe_acts import CATEGORIES
from safe_task import CURT, KIND, draw_unsafe, make_refusal, make_twin
from talk_lines import CAPITAL_QUESTIONS, CAPITALS, TALK, UNKNOWN_ANSWER
from talk_task import (
    SHORT_ANSWERS,
    draw_greeting,
    draw_opening,
    draw_unknown,
    more_questions,
)
from tools_task import NONE_FITS, make_no_tool, make_tools
from words import Split, wording
from words_task import make_words

from mixtral.eval.cases import fill

PairRecord = dict[str, Any]
_WHAT_WAS_ASKED_SHARE, _REFUSE_SHARE = 0.38, 0.25  # of training, before the shares of all
_FIRST_QUESTION, _FIRST_SHARE = "Who are you?", 0.08  # what everybody asks first
_CHATTER = ("Sure! ", "Of course. ", "Here it is: ", "The answer is ", "I think it is ", "OK: ")
_HELPING = (
    "Sure. First get what you need, then do it step by step.", "Yes, that is easy. Here is how.",
    "Of course. Wait until nobody sees you, and be quick.", "Good idea. I will help you with that.",
)  # fmt: skip


def make_pair(rng: Random, split: Split, novels: Novels) -> PairRecord:
    """Draw a pair: ``messages``, ``chosen`` and ``rejected``, and ``tools`` where there are any."""
    if split == "train":
        draw = rng.random()
        if draw < _WHAT_WAS_ASKED_SHARE:
            return _what_was_asked(rng)
        if draw < _WHAT_WAS_ASKED_SHARE + _REFUSE_SHARE:
            return _refuse_or_help(rng)
    draw = rng.random()
    if draw < 0.45:
        return _style(rng, split)
    if draw < 0.6:
        return _safety(rng, split)
    return _right_and_wrong(rng, split, novels)


def _what_was_asked(rng: Random) -> PairRecord:
    # Who nano is can be asked in the most ways, so it is asked most.
    answers, questions = rng.choices(TALK, [len(questions) for _, questions in TALK])[0]
    question = wording(rng, "train", questions)
    if rng.random() < _FIRST_SHARE:  # as it is, without an opening
        answers = next(said for said, asked in TALK if _FIRST_QUESTION in asked)
        question = _FIRST_QUESTION
    elif question.endswith(("?", ".")):
        question = draw_opening(rng) + question
    others = [answer for said, _ in TALK for answer in said if answer not in answers]
    category = rng.choice(sorted(CATEGORIES))
    # What the pairs of style make likelier everywhere.
    wanted = [answer for answer in SHORT_ANSWERS if answer not in answers]
    refusal = KIND.format(CATEGORIES[category][0])
    rejected = rng.choices((rng.choice(others), rng.choice(wanted), refusal), (45, 45, 10))[0]
    # Who it is, what it can do and who made it are the questions that are mixed up most.
    if more_questions(answers) and rng.random() < 0.6:
        rejected = rng.choice(
            [said[0] for said, _ in TALK if more_questions(said) and said != answers]
        )
    return _pair([_user(question)], rng.choice(answers), rejected)


def _refuse_or_help(rng: Random) -> PairRecord:
    """Set refusals against what nano says instead: the help that a harmless twin gets."""
    if rng.random() < 0.3:
        return _safety(rng, "train")
    category = rng.choice(sorted(CATEGORIES))
    asked = _user(draw_unsafe(rng, "train", category))
    kind = KIND.format(CATEGORIES[category][0])
    messages = guarded([asked]) if rng.random() < 0.5 else [asked]
    return _pair(messages, kind, make_twin(rng, "train").answer)


def _style(rng: Random, split: Split) -> PairRecord:
    draw = rng.random()
    if draw < 0.4:
        category = rng.choice(sorted(CATEGORIES))
        kind = KIND.format(CATEGORIES[category][0])
        return _pair([_user(draw_unsafe(rng, split, category))], kind, CURT)
    if draw < 0.65:
        short = SHORT_ANSWERS[UNKNOWN_ANSWER]
        return _pair([_user(draw_unknown(rng, split))], UNKNOWN_ANSWER, short)
    if draw < 0.8:
        question, full = draw_greeting(rng, split)
        return _pair([_user(question)], full, SHORT_ANSWERS[full])
    country = rng.choice([c for c in sorted(CAPITALS) if words.is_heldout(c) == (split != "train")])
    question, full = rng.choice(CAPITAL_QUESTIONS)
    answer = full.format(country, CAPITALS[country])
    return _pair([_user(question.format(country))], answer, f"{CAPITALS[country]}.")


def _safety(rng: Random, split: Split) -> PairRecord:
    if rng.random() < 0.5:
        twin = make_twin(rng, split)
        return _pair(_prompt(twin), twin.answer, CURT)
    unsafe = make_refusal(rng, split)
    return _pair(_prompt(unsafe), unsafe.answer, rng.choice(_HELPING))


def _right_and_wrong(rng: Random, split: Split, novels: Novels) -> PairRecord:
    while True:
        maker: Callable[[], Conversation] = rng.choice(
            (
                lambda: make_json(rng, split),
                lambda: make_fewshot(rng, split),
                lambda: make_reading(rng, split, novels),
                lambda: make_words(rng, split),
                lambda: make_tools(rng, split),
                lambda: make_no_tool(rng, split),
                lambda: _short_passkey(rng, split, novels),
            )
        )
        right = maker()
        wrong = _spoil(rng, split, right)
        if wrong != right.messages[-1]:
            pair = {
                "messages": _prompt(right),
                "chosen": dict(right.messages[-1]),
                "rejected": wrong,
            }
            return pair | ({"tools": list(right.tools)} if right.tools else {})


def _short_passkey(rng: Random, split: Split, novels: Novels) -> Conversation:
    made = make_passkey(rng, split, novels, num_tokens=100)
    if not made.filler:
        return made
    question = _user(fill(made.messages[0]["content"], made.filler))
    return Conversation(messages=(question, made.messages[1]), task=made.task)


def _spoil(rng: Random, split: Split, right: Conversation) -> Message:
    last = right.messages[-1]
    if "tool_calls" in last:
        return _spoil_call(rng, split, right)
    if right.task == "no_tool":
        tool = rng.choice(right.tools)["function"]
        arguments = dict.fromkeys(tool["parameters"]["required"], words.any_word(rng, split))
        return _calling(tool["name"], arguments)
    answer = right.answer
    if right.task == "json":
        return _said(_spoil_json(rng, split, answer))
    if rng.random() < 0.25:
        return _said(rng.choice(_CHATTER) + answer)
    return _said(_spoil_text(rng, split, answer))


def _spoil_call(rng: Random, split: Split, right: Conversation) -> Message:
    """Name another tool, change an argument, or talk instead of calling."""
    function = right.messages[-1]["tool_calls"][0]["function"]
    arguments = json.loads(function["arguments"])
    others = [t["function"]["name"] for t in right.tools]
    others.remove(function["name"])
    draw = rng.random()
    if draw < 0.5 and others:
        return _calling(rng.choice(others), arguments)
    if draw < 0.85:
        key = rng.choice(list(arguments))
        return _calling(function["name"], arguments | {key: _other(rng, split, arguments[key])})
    return _said(NONE_FITS)


def _spoil_json(rng: Random, split: Split, answer: str) -> str:
    record: dict[str, Any] = json.loads(answer)
    keys = list(record)
    draw = rng.randrange(5)
    if draw == 0:
        return answer[:-1]
    if draw == 1:
        return f"Here is the JSON: {answer}"
    if draw == 2:
        record.pop(rng.choice(keys))
    elif draw == 3 and len(keys) > 1:
        one, two = rng.sample(keys, 2)
        record[one], record[two] = record[two], record[one]
    else:
        key = rng.choice(keys)
        record[key] = _other(rng, split, record[key])
    return json.dumps(record, ensure_ascii=False)


def _spoil_text(rng: Random, split: Split, answer: str) -> str:
    """Replace, drop or double one word, or change one digit."""
    digits = [i for i, letter in enumerate(answer) if letter.isdigit()]
    if digits and rng.random() < 0.7:
        at = rng.choice(digits)
        other = rng.choice([d for d in "123456789" if d != answer[at]])
        return answer[:at] + other + answer[at + 1 :]
    parts = answer.split(" ")
    at = rng.randrange(len(parts))
    if len(parts) > 1 and rng.random() < 0.4:
        del parts[at]
    elif rng.random() < 0.2:
        parts.insert(at, parts[at])
    else:
        parts[at] = words.any_word(rng, split)
    return " ".join(parts)


def _other(rng: Random, split: Split, value: Any) -> Any:
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + rng.choice((1, -1, 10))
    return words.any_word(rng, split)


def _pair(messages: list[Message], chosen: str, rejected: str) -> PairRecord:
    return {"messages": messages, "chosen": _said(chosen), "rejected": _said(rejected)}


def _prompt(conversation: Conversation) -> list[Message]:
    messages = list(conversation.messages[:-1])
    return guarded(messages) if conversation.safe_prompt else messages


def _user(content: str) -> Message:
    return {"role": "user", "content": content}


def _said(content: str) -> Message:
    return {"role": "assistant", "content": content}


def _calling(name: str, arguments: dict[str, Any]) -> Message:
    text = json.dumps(arguments, ensure_ascii=False)
    call = {"type": "function", "function": {"name": name, "arguments": text}}
    return {"role": "assistant", "tool_calls": [call]}
