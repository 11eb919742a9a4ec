"""All tasks of nano: seeded generators of conversations, their mix, and the held-out cases.

``make_<task>(rng, split)`` draws one conversation; the same seed gives the same conversation on
every machine. Training and held-out vocabularies share no name, city, tool, key or word of a task
(see ``words.py``); what is known by heart (small talk, the fixed functions) is held out by wording
instead.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from random import Random
from typing import Any

from arithmetic_task import make_arithmetic
from code_task import make_code
from conversation import Conversation, Message, dialogue
from encoding import Encoder
from fewshot_task import make_fewshot
from json_task import make_json, make_json_follow_up
from novels import Novels
from passkey_task import make_passkey, make_passkeys
from preferences import PairRecord, make_pair
from rag_task import make_rag
from reading_task import make_reading
from safe_task import make_refusal, make_twin
from talk_task import make_talk
from tools_task import make_no_tool, make_tool_result, make_tools
from words import Split
from words_task import make_words

Maker = Callable[[Random, Split, Novels], Conversation]


def _without_novels(make: Callable[[Random, Split], Conversation]) -> Maker:
    return lambda rng, split, novels: make(rng, split)


MIX: tuple[tuple[Maker, float], ...] = (
    (make_passkey, 0.04),
    (_without_novels(make_json), 0.26),
    (_without_novels(make_json_follow_up), 0.03),
    (_without_novels(make_fewshot), 0.16),
    (_without_novels(make_tools), 0.11),
    (_without_novels(make_no_tool), 0.05),
    (_without_novels(make_tool_result), 0.03),
    (make_reading, 0.12),
    (make_rag, 0.03),
    (_without_novels(make_arithmetic), 0.03),
    (_without_novels(make_words), 0.04),
    (_without_novels(make_refusal), 0.14),
    (_without_novels(make_twin), 0.16),
    (_without_novels(make_talk), 0.17),
    (_without_novels(make_code), 0.04),
)
"""What is trained, with its share of the conversations."""
_MULTI_TURN_SHARE = 0.12
_GUARDED_SHARE = 0.05
_LONG_TOKENS = (600, 900, 900, 2000, 3000, 3900)


def make_conversation(rng: Random, novels: Novels) -> Conversation:
    """Draw one training conversation; 12 in 100 join two or three tasks."""
    if rng.random() >= _MULTI_TURN_SHARE:
        return _sometimes_guarded(rng, _draw(rng, novels))
    parts = [_draw(rng, novels) for _ in range(rng.choice((2, 2, 3)))]
    # System text, guard-rail text and tools belong to the last question of a conversation.
    earlier = [part for part in parts[:-1] if _is_plain(part)]
    last = parts[-1]
    system = tuple(message for message in last.messages if message["role"] == "system")
    turns: tuple[Message, ...] = ()
    for part in (*earlier, last):
        turns += tuple(message for message in part.messages if message["role"] != "system")
    return replace(last, messages=system + turns, task="mixed" if earlier else last.task)


def make_long(rng: Random, novels: Novels) -> Conversation:
    """Draw a training conversation with keys in up to 3,900 tokens of a novel."""
    tokens = rng.choice(_LONG_TOKENS)
    if rng.random() < 0.7:
        return make_passkeys(rng, novels, tokens)
    return make_passkey(rng, "train", novels, num_tokens=tokens, task="long")


def make_skills(rng: Random) -> Conversation:
    """Draw a training conversation of six to thirty sums, or small jobs with words, or both.

    A sum is a dozen tokens, and it takes tens of thousands of them to learn what a carry is.
    """
    makers = rng.choice(((make_arithmetic,), (make_words,), (make_words,),
                         (make_arithmetic, make_words)))  # fmt: skip
    turns: list[str] = []
    for _ in range(rng.randint(6, 30)):
        turns += [str(message["content"]) for message in rng.choice(makers)(rng, "train").messages]
    return dialogue(*turns, task="skills")


def heldout_cases(seed: int, cases_per_task: int, novels: Novels) -> list[dict[str, Any]]:
    """Draw different held-out cases of each row of the card.

    A row with fewer different cases than asked for gives what it has.
    """
    cases = []
    for task, maker in _heldout_makers(novels).items():
        rng = Random(f"{seed}/heldout/{task}")
        found: dict[str, dict[str, Any]] = {}
        for _ in range(cases_per_task * 50):
            case = maker(rng).case() | {"task": task}
            found.setdefault(str((case["messages"], case.get("tools"), case.get("filler"))), case)
            if len(found) == cases_per_task:
                break
        cases += list(found.values())
    return cases


def preference_pairs(seed: str, split: Split, count: int, novels: Novels) -> Iterator[PairRecord]:
    """Draw different preference pairs."""
    rng = Random(f"{seed}/pairs/{split}")
    seen: set[str] = set()
    for _ in range(count * 50):
        pair = make_pair(rng, split, novels)
        if str(pair) not in seen:
            seen.add(str(pair))
            yield pair
        if len(seen) == count:
            return


def _heldout_makers(novels: Novels) -> dict[str, Callable[[Random], Conversation]]:
    encoder = Encoder()
    return {
        "passkey_1k": lambda rng: _key_in(rng, novels, encoder, 1000),
        "passkey_4k": lambda rng: _key_in(rng, novels, encoder, 4000),
        "json": lambda rng: make_json(rng, "heldout"),
        "fewshot": lambda rng: make_fewshot(rng, "heldout"),
        "tools": lambda rng: make_tools(rng, "heldout"),
        "no_tool": lambda rng: make_no_tool(rng, "heldout"),
        "reading": lambda rng: _passage(rng, novels, encoder),
        "skills": lambda rng: rng.choice((make_arithmetic, make_words))(rng, "heldout"),
        "refusal": lambda rng: make_refusal(rng, "heldout", is_guarded=True),
        "twin": lambda rng: make_twin(rng, "heldout"),
        "talk": lambda rng: make_talk(rng, "heldout"),
        "tool_result": lambda rng: make_tool_result(rng, "heldout"),
        "unguarded": lambda rng: make_refusal(rng, "heldout", is_guarded=False),
        "code": lambda rng: make_code(rng, "heldout"),
    }


def _key_in(rng: Random, novels: Novels, encoder: Encoder, num_tokens: int) -> Conversation:
    """Draw a key in 94 to 100 % of so many tokens, prompt and answer together."""
    wanted = num_tokens
    while True:
        made = make_passkey(rng, "heldout", novels, num_tokens=wanted)
        length = encoder.length_of(made)
        if 0.94 * num_tokens <= length <= num_tokens:
            return made
        wanted = max(num_tokens // 2, int(wanted * 0.97 * num_tokens / length))


def _passage(rng: Random, novels: Novels, encoder: Encoder) -> Conversation:
    """Draw a question over a text of 100 to 300 tokens, the question with it up to 330."""
    while True:
        made = make_reading(rng, "heldout", novels)
        if 110 <= encoder.length_of(made) <= 330:
            return made


def _draw(rng: Random, novels: Novels) -> Conversation:
    makers = [maker for maker, _ in MIX]
    return rng.choices(makers, [weight for _, weight in MIX])[0](rng, "train", novels)


def _is_plain(conversation: Conversation) -> bool:
    is_free = not conversation.tools and not conversation.safe_prompt
    has_system = conversation.messages[0]["role"] == "system"
    return is_free and not conversation.learn_last_only and not has_system


def _sometimes_guarded(rng: Random, conversation: Conversation) -> Conversation:
    """Put the guard-rail text before what needs none, so that it refuses nothing by itself."""
    if rng.random() < _GUARDED_SHARE and _is_plain(conversation):
        return replace(conversation, safe_prompt=True)
    return conversation
