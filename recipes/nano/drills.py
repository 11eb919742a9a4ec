"""Copy drills: documents that can only be predicted by looking back.

A small model spends most of an hour learning to copy at all. What makes the circuit for it
(an induction head: find what came after this token before, and repeat it) worth having is text
that comes again, first at once and from few words, later from many words and far away. ``level``
goes from 0 to 1 and makes the drills longer, their words more and the gaps wider; a training file
that sorts drills by level is a curriculum.

Spelling drills take words apart into letters, because the tokenizer's pieces hide them: without,
no model of this size can sort, reverse or upper-case a word that it has not seen. Drills of marks
move words into quotation marks, brackets and the like and out of them. Seven of ten words have
other tokens there ("mining" is one token behind a space, "min" and "ing" behind a quotation mark),
and where to cut is the tokenizer's choice, so each word has to be seen a few dozen times.
"""

import json
from collections.abc import Callable
from random import Random

from words import (
    any_words,
    capitalised_words,
    city,
    first_name,
    invent_name,
    last_name,
    vocabulary,
)

_FEW_WORDS = 512  # as the first experiments had it, see README.md
_LETTERS = "abcdefghijklmnopqrstuvwxyz"
# % is a word.
_MARKS = ('"%"', "'%'", "(%)", "[%]", "<%>", "{%}", "`%`", "*%*", "#%", "@%", "_%_", "=%")
_CLOSE_JOINTS = ("/", "-", "_", "=", ":", ".", ",", "+", ";", "|")
_OPEN_JOINTS = (" ", " ", ", ", ", ", " | ", "; ", " and ")
_PAIRS = ("{}: {}", "{} = {}", "{} is {}", "- {}: {}", "{} {}")


def make_drill(rng: Random, level: float = 1.0) -> str:
    """Write one drill of a level from 0 (short, few words) to 1 (long, the whole vocabulary)."""
    maker: Callable[[Random, float], str] = rng.choice(
        (_again, _again, _again, _recall, _recall, _pairs, _object, _reordered, _gapped, _gapped)
    )
    return maker(rng, level)


def make_spelling(rng: Random) -> str:
    """Write a page of words with their letters, capitals and order; of any lower-case word."""
    style = rng.choice((_spell, _capitals, _backwards, _first_letters))
    return "\n".join(style(rng, word) for word in rng.sample(vocabulary(), rng.randint(6, 16)))


def make_marks(rng: Random) -> str:
    """Write words, and on a last line the same words within marks, or the other way round."""
    count = rng.randint(3, 20)
    draw = rng.random()
    if draw < 0.25:
        record = {_value(rng): _value(rng) for _ in range(count // 2 + 1)}
        form, gap = rng.choice(_PAIRS), rng.choice(("\n", "\n", ", "))
        plain = gap.join(form.format(*field) for field in record.items())
        marked = json.dumps(record)
    else:
        said = [_value(rng) for _ in range(count)]
        bullets = "\n".join(f"- {value}" for value in said)
        plain = bullets if rng.random() < 0.2 else rng.choice(_OPEN_JOINTS).join(said)
        marked = json.dumps(said) if draw < 0.7 else _within_marks(rng, said)
    return f"{marked}\n{plain}" if rng.random() < 0.2 else f"{plain}\n{marked}"


def _within_marks(rng: Random, said: list[str]) -> str:
    if rng.random() < 0.4:
        return rng.choice(_CLOSE_JOINTS).join(said)
    mark = rng.choice(_MARKS)
    return rng.choice(_OPEN_JOINTS).join(mark.replace("%", value) for value in said)


def _value(rng: Random) -> str:
    """Draw a word of the vocabulary, a name of the training half, or two words."""
    draw = rng.random()
    if draw < 0.15:
        return " ".join(rng.sample(vocabulary(), 2))
    if draw < 0.3:
        return rng.choice(capitalised_words())
    if draw < 0.42:
        return rng.choice((first_name, last_name, city, invent_name))(rng, "train")
    return rng.choice(vocabulary())


def _words(rng: Random, level: float, count: int) -> list[str]:
    size = int(_FEW_WORDS * (len(vocabulary()) / _FEW_WORDS) ** level)
    if rng.random() < 0.2:
        return ["".join(rng.choices("0123456789", k=rng.randint(1, 5))) for _ in range(count)]
    return rng.choices(vocabulary()[:size], k=count)


def _again(rng: Random, level: float) -> str:
    """A line of random words, two to four times."""
    line = " ".join(_words(rng, level, rng.randint(6, 16 + int(110 * level))))
    return rng.choice((" ", "\n")).join([line] * rng.choice((2, 2, 3, 4)))


def _gapped(rng: Random, level: float) -> str:
    """A line comes again behind other words; the longer the gap, the later in the curriculum."""
    line = " ".join(_words(rng, level, rng.randint(3, 20)))
    gap = " ".join(_words(rng, level, rng.randint(4, 20 + int(300 * level))))
    return f"{line}\n{gap}\n{line}"


def _recall(rng: Random, level: float) -> str:
    """Keys with values, then the keys again in another order."""
    count = rng.randint(2, 5 + int(25 * level))
    keys, values = _keys(rng, level, count), _words(rng, level, count)
    form, ask = rng.choice((("{}: {}", "{}: {}"), ("{} = {}", "{}? {}"), ("{} {}", "{} -> {}")))
    pairs = list(zip(keys, values, strict=True))
    lines = [form.format(*pair) for pair in pairs]
    return "\n".join(lines + [ask.format(*pair) for pair in rng.sample(pairs, count)])


def _pairs(rng: Random, level: float) -> str:
    """Sentences, then questions whose answers stand in them."""
    count = rng.randint(2, 4 + int(8 * level))
    keys, values = _keys(rng, level, count), _words(rng, level, count)
    pairs = list(zip(keys, values, strict=True))
    said = " ".join(f"The {a} is {b}." for a, b in pairs)
    return f"{said}\n" + "\n".join(f"What is the {a}? {b}" for a, b in rng.sample(pairs, count))


def _object(rng: Random, level: float) -> str:
    """Lines, then the same as JSON."""
    count = rng.randint(2, 4 + int(6 * level))
    keys, values = _keys(rng, level, count), _words(rng, level, count)
    pairs = list(zip(keys, values, strict=True))
    form = rng.choice(("{}: {}", "{} = {}", "{} {}", "- {}: {}", "{}, {}"))
    fields = ", ".join(f'"{a}": {b if _is_number(b) else chr(34) + b + chr(34)}' for a, b in pairs)
    return "\n".join(form.format(a, b) for a, b in pairs) + f"\n{{{fields}}}"


def _reordered(rng: Random, level: float) -> str:
    """A list, then the list backwards, or sorted, or with its parts counted."""
    items = list(dict.fromkeys(_words(rng, level, rng.randint(3, 6 + int(10 * level)))))
    joint = rng.choice((" ", ", "))
    what, changed = rng.choice(
        (("reversed", joint.join(items[::-1])), ("sorted", joint.join(_sorted(items))),
         ("count", str(len(items))), ("first", items[0]), ("last", items[-1]))
    )  # fmt: skip
    return f"{joint.join(items)}\n{what}: {changed}"


def _keys(rng: Random, level: float, count: int) -> list[str]:
    if rng.random() < 0.3:
        return rng.sample([a + b for a in _LETTERS for b in ("", "1", "2")], count)
    words = list(dict.fromkeys(_words(rng, level, 2 * count)))[:count]
    return words if len(words) == count else any_words(rng, "train", count)


def _is_number(text: str) -> bool:
    return text.isdigit() and (text == "0" or text[0] != "0")


def _sorted(items: list[str]) -> list[str]:
    return sorted(items, key=int) if all(item.isdigit() for item in items) else sorted(items)


def _spell(rng: Random, word: str) -> str:
    return f"{word}: {' '.join(word)}"


def _capitals(rng: Random, word: str) -> str:
    changed = rng.choice((word.upper(), word.upper(), word.capitalize()))
    return f"{rng.choice((word, ' '.join(word)))} -> {changed}"


def _backwards(rng: Random, word: str) -> str:
    return f"{word}: {' '.join(word)}, backwards {' '.join(word[::-1])}: {word[::-1]}"


def _first_letters(rng: Random, word: str) -> str:
    return f"{word} begins with {word[0]}, ends with {word[-1]}, has {len(word)} letters"
