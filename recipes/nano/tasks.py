"""All tasks of nano: seeded generators of conversations, their mix, and the held-out cases.

``make_<task>(rng, split)`` draws one conversation; the same seed gives the same conversation on
every machine. Training and held-out vocabularies share no word (see ``words.py``); what is known by
heart (small talk, the fixed functions) is held out by wording instead.
"""

from collections.abc import Callable
from dataclasses import replace
from random import Random

from arithmetic_task import make_arithmetic, make_sums
from code_task import make_code
from conversation import Conversation, Message
from fewshot_task import make_fewshot
from json_task import make_json, make_json_follow_up
from reading_task import make_reading
from safe_task import make_safe
from talk_task import make_talk
from words import Split
from words_task import make_words

__all__ = [
    "TASKS",
    "heldout_cases",
    "make_arithmetic",
    "make_code",
    "make_conversation",
    "make_fewshot",
    "make_json",
    "make_json_follow_up",
    "make_reading",
    "make_safe",
    "make_sums",
    "make_talk",
    "make_words",
]

Maker = Callable[[Random, Split], Conversation]

TASKS: dict[str, Maker] = {
    "json": make_json,
    "fewshot": make_fewshot,
    "reading": make_reading,
    "arithmetic": make_arithmetic,
    "words": make_words,
    "talk": make_talk,
    "code": make_code,
    "safe": make_safe,
}

_MIX: tuple[tuple[Maker, float], ...] = (
    (make_json, 0.14),
    (make_json_follow_up, 0.05),
    (make_fewshot, 0.14),
    (make_reading, 0.18),
    (make_arithmetic, 0.14),
    (make_words, 0.13),
    (make_talk, 0.12),
    (make_code, 0.07),
    (make_safe, 0.03),
)
_MULTI_TURN_SHARE = 0.15


def make_conversation(rng: Random) -> Conversation:
    """Draw one training conversation; 15 in 100 join two or three tasks."""
    if rng.random() >= _MULTI_TURN_SHARE:
        return _draw(rng)
    parts = [_draw(rng) for _ in range(rng.choice((2, 2, 3)))]
    # A system text belongs to the last question of a conversation, so earlier parts have none.
    earlier = [part for part in parts[:-1] if _is_plain(part)]
    last = parts[-1]
    system = tuple(message for message in last.messages if message.role == "system")
    turns: tuple[Message, ...] = ()
    for part in (*earlier, last):
        turns += tuple(message for message in part.messages if message.role != "system")
    return replace(last, messages=system + turns, task="mixed" if earlier else last.task)


def heldout_cases(seed: int, cases_per_task: int) -> list[dict[str, object]]:
    """Draw different held-out cases of each task.

    A task with fewer different cases than asked for gives what it has.
    """
    cases = []
    for task, maker in TASKS.items():
        rng = Random(f"{seed}/heldout/{task}")
        found: dict[str, dict[str, object]] = {}
        for _ in range(cases_per_task * 50):
            case = maker(rng, "heldout").case()
            found.setdefault(str(case["messages"]), case)
            if len(found) == cases_per_task:
                break
        cases += list(found.values())
    return cases


def _draw(rng: Random) -> Conversation:
    makers = [maker for maker, _ in _MIX]
    return rng.choices(makers, [weight for _, weight in _MIX])[0](rng, "train")


def _is_plain(conversation: Conversation) -> bool:
    return not conversation.learn_last_only and conversation.messages[0].role != "system"
