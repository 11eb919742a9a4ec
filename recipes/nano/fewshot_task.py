"""Formats shown on two or three examples, then used on a new one; the formats are generated.

A format says how the input shows one to three parts (separators, brackets, words) and what the
output makes of them (an order, a choice, a case, a label, other separators and words). There are
millions; a hash of its name holds one in eight back, so a held-out format is a combination that
training never shows. The words of a case come once, so the answer can only come from seeing the
pattern.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

import words
from conversation import Conversation, dialogue
from words import Split, WordPool, is_heldout, wording

SEPARATORS = (" ", ", ", " | ", "; ", ": ", " - ", "/", " + ", " = ", "-", "_", " and ", " & ",
              " > ", ".", " -> ", ",", " ~ ", ":", "+")  # fmt: skip
# % is what stands inside.
BRACKETS = ("%", "%", "%", "(%)", "[%]", "<%>", '"%"', "{%}", "'%'", "*%*", "#%", "%!", "%?", "%.",
            "@%", "-%-", "_%_", "`%`", "(%", "==%==")  # fmt: skip
LABELS = ("", "", "", "", "item: ", "the ", "name ", "word: ", "no. ", "-- ", "to ", "my ", "id=",
          "old ", "result: ", "* ")  # fmt: skip
CASES: dict[str, Callable[[str], str]] = {
    "same": str,
    "title": str.capitalize,
    "upper": str.upper,
    "initial": lambda word: f"{word[0].upper()}.",
}
_CASE_WEIGHTS = (14, 3, 1, 1)
HEADERS = (
    "", "", "", "Continue the pattern.\n", "Follow the examples.\n", "Use the same format.\n",
    "Convert as in the examples.\n", "Complete the last line.\n", "Look at the examples:\n\n",
    "Do the same for the last one.\n", "Rewrite each one in the same way.\n", "Examples:\n",
    "Here are some examples.\n", "Finish this list:\n", "What comes next?\n",
    "Apply the format of the examples to the last line.\n\n",
)  # fmt: skip
# (before the input, between input and output): the last line ends after the arrow.
ARROWS = (
    ("", " => "), ("", " -> "), ("", " = "), ("Input: ", "\nOutput: "), ("in: ", " out: "),
    ("Q: ", "\nA: "), ("", " becomes "), ("From: ", "\nTo: "), ("", " : "), ("", " --> "),
    ("Example: ", "\nAnswer: "), ("", " >> "), ("- ", " => "), ("Before: ", "\nAfter: "),
    ("", "\n"), ("Text: ", "\nFormat: "), ("", " ==> "), ("x: ", "\ny: "),
)  # fmt: skip
ASKS = (
    "{}",
    "{}",
    "{}",
    "Now: {}",
    "And {}?",
    "Now do this one: {}",
    "The same for {}",
    "Next: {}",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Format:
    """How parts are shown, and what is made of them."""

    num_parts: int
    """Parts of an input, one to three."""
    shown: str
    """Template of the input, with $0, $1, $2 for the parts."""
    made: str
    """Template of the output."""
    case: str
    """What happens to the letters of the first part of the output, a name of ``CASES``."""

    @property
    def name(self) -> str:
        """A text that no other format has, for the split."""
        return f"{self.shown} => {self.made} ({self.case})"

    def write(self, parts: list[str]) -> tuple[str, str]:
        """Return input and output."""
        first = int(self.made[self.made.index("$") + 1])
        changed = [*parts]
        changed[first] = CASES[self.case](parts[first])
        return _fill(self.shown, parts), _fill(self.made, changed)


def draw_format(rng: Random, split: Split) -> Format:
    """Draw a format of one half whose output is not its input."""
    while True:
        count = rng.choice((1, 2, 2, 2, 3))
        length = count if rng.random() < 0.75 else rng.randint(1, count)
        order = rng.sample(range(count), length)
        if count == 1 and rng.random() < 0.2:
            order = [0, 0]
        parts = [f"${i}" for i in range(count)]
        drawn = Format(
            num_parts=count,
            shown=rng.choice((_joined, _joined, _joined, _keyed))(rng, split, parts, BRACKETS[:8]),
            made=rng.choice((_joined, _joined, _mixed))(
                rng, split, [parts[i] for i in order], BRACKETS
            ),
            case=rng.choices(list(CASES), _CASE_WEIGHTS)[0],
        )
        given, made = drawn.write(["ab", "cd", "ef"][:count])
        if given != made and is_heldout(drawn.name) == (split == "heldout"):
            return drawn


def _joined(rng: Random, split: Split, parts: list[str], brackets: Sequence[str]) -> str:
    """One separator between all parts, perhaps brackets around each or all, and a label."""
    if len(brackets) == len(BRACKETS) and rng.random() < 0.3:
        bracket = rng.choice(brackets)
        parts = [bracket.replace("%", part) for part in parts]
    text = rng.choice(brackets).replace("%", rng.choice(SEPARATORS).join(parts))
    return rng.choice(LABELS) + text if len(brackets) == len(BRACKETS) else text


def _keyed(rng: Random, split: Split, parts: list[str], brackets: Sequence[str]) -> str:
    """A word before each part, as in ``owner: $0, colour: $1``."""
    mark, gap = rng.choice((": ", "=", " ", " is ", " = ")), rng.choice((", ", "; ", " ", " | "))
    keys = words.any_words(rng, split, len(parts))
    return gap.join(f"{key}{mark}{part}" for key, part in zip(keys, parts, strict=True))


def _mixed(rng: Random, split: Split, parts: list[str], brackets: Sequence[str]) -> str:
    """Other things between each two parts: separators, words, as in ``$1 lives in $0``."""
    text = parts[0]
    for part in parts[1:]:
        gap = rng.choice(SEPARATORS)
        if rng.random() < 0.5:
            gap = f" {' '.join(words.any_words(rng, split, rng.choice((1, 2))))} "
        bracketed = rng.choice(brackets).replace("%", part) if rng.random() < 0.3 else part
        text += gap + bracketed
    if rng.random() < 0.3:
        text = f"{words.any_word(rng, split)} {text}"
    return text + (rng.choice((".", "!", ";", "")) if rng.random() < 0.3 else "")


def _fill(template: str, parts: list[str]) -> str:
    for index, part in enumerate(parts):
        template = template.replace(f"${index}", part)
    return template


def make_fewshot(rng: Random, split: Split = "train") -> Conversation:
    """Show a format on examples and ask for one more; in training often for several."""
    shown = 2 if split == "heldout" else rng.choice((2, 2, 2, 3, 3, 4))
    num_more = rng.randint(1, 3) if split == "train" and rng.random() < 0.6 else 0
    drawn = _pairs(rng, split, shown=shown + num_more)
    pairs, more = drawn[: shown + 1], drawn[shown + 1 :]
    if rng.random() < 0.25:
        return _by_turns(rng, split, pairs)
    before, arrow = rng.choice(ARROWS)
    gap = "\n\n" if "\n" in arrow and (arrow == "\n" or rng.random() < 0.5) else "\n"
    lines = [f"{before}{left}{arrow}{right}" for left, right in pairs[:-1]]
    lines.append(f"{before}{pairs[-1][0]}{arrow}".rstrip())
    turns = [wording(rng, split, HEADERS) + gap.join(lines), pairs[-1][1]]
    for left, right in more:
        turns += [f"{before}{left}{arrow}".rstrip(), right]
    return dialogue(*turns, task="fewshot")


def _by_turns(rng: Random, split: Split, pairs: list[tuple[str, str]]) -> Conversation:
    turns = [text for pair in pairs for text in pair]
    if rng.random() < 0.3:
        turns[0] = wording(rng, split, HEADERS[3:8]) + turns[0]
    if rng.random() < 0.3:
        turns[-2] = wording(rng, split, ASKS).format(turns[-2])
    return dialogue(*turns, task="fewshot", learn_last_only=True)


def _pairs(rng: Random, split: Split, *, shown: int) -> list[tuple[str, str]]:
    drawn = draw_format(rng, split)
    columns = [_column(rng, split, shown + 1) for _ in range(drawn.num_parts)]
    return [drawn.write(list(parts)) for parts in zip(*columns, strict=True)]


def _column(rng: Random, split: Split, count: int) -> list[str]:
    draw = rng.random()
    if draw < 0.2:
        return [words.invent_name(rng, split) for _ in range(count)]
    if draw < 0.3:
        return [str(words.number(rng, split, 10, 9999)) for _ in range(count)]
    if draw < 0.35:
        return [f"{rng.randint(1, 28):02}" for _ in range(count)]
    if draw < 0.7:
        return words.any_words(rng, split, count)
    pools: tuple[WordPool, ...] = (
        words.THINGS, words.ANIMALS, words.FOODS, words.COLOURS, words.FIRST_NAMES,
        words.LAST_NAMES, words.JOBS, words.ADJECTIVES, words.CITIES,
    )  # fmt: skip
    pools = tuple(pool for pool in pools if len(pool.words(split)) >= count)
    return rng.choice(pools).sample(rng, split, count)
