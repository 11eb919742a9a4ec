"""Few-shot copying: a format is shown on two or three examples, then used on a new one.

Formats rearrange whole words (swap, wrap, label, join); the words of the last example do not appear
in the shown ones, so the answer can only come from seeing the pattern.
"""

from random import Random

import words
from conversation import Conversation, dialogue
from words import Split, WordPool

# {a}, {b}, {c} are words; the left side is shown, the right side is the answer.
FORMATS: tuple[tuple[str, str], ...] = (
    ("{a} | {b}", "{b}: {a}"),
    ("{a} | {b}", "{b} | {a}"),
    ("{a}, {b}", "{b} {a}"),
    ("{a} {b}", "{b} {a}"),
    ("{a} {b}", "{b}, {a}"),
    ("{a}: {b}", "{b} = {a}"),
    ("{a}; {b}", "{a} -> {b}"),
    ("{a} + {b}", "{a} and {b}"),
    ("{a} {b}", "{a} and {b}"),
    ("{a} {b}", "{a} or {b}"),
    ("{a} {b}", "{a} - {b}"),
    ("{a}", "[ {a} ]"),
    ("{a}", "< {a} >"),
    ("{a}", "{a} {a}"),
    ("{a}", "{a} : {a}"),
    ("{a}", "the {a}"),
    ("{a}", "my {a} is here"),
    ("{a}", "word: {a}"),
    ("{a} {b}", "first: {a}"),
    ("{a} {b}", "last: {b}"),
    ("{a} {b}", "{b}"),
    ("{a} {b}", "{a}"),
    ("{a} {b} {c}", "{c} {b} {a}"),
    ("{a} {b} {c}", "{a} {c}"),
    ("{a} {b} {c}", "{b}"),
    ("{a} {b} {c}", "{c}"),
    ("{a} {b} {c}", "{b} {c} {a}"),
    ("{a} {b} {c}", "{a} / {b} / {c}"),
    ("{a}, {b}, {c}", "{c}, {a}"),
    ("{a} likes {b}", "{b} is liked by {a}"),
    ("{a} has a {b}", "the {b} of {a}"),
    ("{a} is {b}", "{b} {a}"),
    ("{a} ({b})", "{b}: {a}"),
    ("{a} -> {b}", "{b} <- {a}"),
    ("{a}={b}", "{a} is {b}"),
    ("name {a} colour {b}", "{a}: {b}"),
    ("item {a} place {b}", "{a} in {b}"),
    ("{a} from {b}", "{b}: {a}"),
    ("{a}", '"{a}"'),
    ("{a} {b}", "({a}, {b})"),
    ("{a} {b}", "{b}-{a}"),
    ("{a} {b}", "[{a}] {b}"),
)

HEADERS = (
    "", "", "Continue the pattern.\n", "Follow the examples.\n", "Use the same format.\n",
    "Convert as in the examples.\n", "Complete the last line.\n", "Look at the examples:\n",
    "Do the same for the last one.\n", "Rewrite each one in the same way.\n",
    "Here are some examples.\n", "Finish this list:\n",
)  # fmt: skip

# (before the input, between input and output): the last line ends after the arrow.
ARROWS = (
    ("", " => "), ("", " -> "), ("", " = "), ("Input: ", "\nOutput: "), ("in: ", " out: "),
    ("Q: ", "\nA: "), ("", " becomes "), ("From: ", "\nTo: "), ("", " : "),
)  # fmt: skip

ASKS = ("Now: {}", "{}", "And {}?", "Now do this one: {}", "The same for {}", "Next: {}")


def make_fewshot(rng: Random, split: Split = "train") -> Conversation:
    """Show a format on examples and ask for one more."""
    pairs = _pairs(rng, split, shown=rng.choice((2, 3, 3, 4)))
    if rng.random() < 0.25:
        return _by_turns(rng, pairs)
    before, arrow = rng.choice(ARROWS)
    gap = "\n\n" if "\n" in arrow and rng.random() < 0.5 else "\n"
    lines = [f"{before}{left}{arrow}{right}" for left, right in pairs[:-1]]
    lines.append(f"{before}{pairs[-1][0]}{arrow}".rstrip())
    return dialogue(rng.choice(HEADERS) + gap.join(lines), pairs[-1][1], task="fewshot")


def _by_turns(rng: Random, pairs: list[tuple[str, str]]) -> Conversation:
    header = rng.choice(HEADERS[2:4])
    turns = [text for pair in pairs for text in pair]
    turns[0] = header + turns[0] if rng.random() < 0.3 else turns[0]
    turns[-2] = rng.choice(ASKS).format(turns[-2]) if rng.random() < 0.3 else turns[-2]
    return dialogue(*turns, task="fewshot", learn_last_only=True)


def _pairs(rng: Random, split: Split, *, shown: int) -> list[tuple[str, str]]:
    left, right = rng.choice(FORMATS)
    columns = [_column(rng, split, shown + 1) for _ in range(3)]
    return [
        (left.format(a=a, b=b, c=c), right.format(a=a, b=b, c=c))
        for a, b, c in zip(*columns, strict=True)
    ]


def _column(rng: Random, split: Split, count: int) -> list[str]:
    if rng.random() < 0.25:
        return [words.invent_name(rng, split) for _ in range(count)]
    pools: tuple[WordPool, ...] = (
        words.THINGS, words.ANIMALS, words.FOODS, words.COLOURS, words.FIRST_NAMES,
        words.LAST_NAMES, words.JOBS, words.ADJECTIVES, words.CITIES,
    )  # fmt: skip
    pools = tuple(pool for pool in pools if len(pool.words(split)) >= count)
    return rng.choice(pools).sample(rng, split, count)
