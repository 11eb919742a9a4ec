"""Small jobs with given words and numbers: sort, count, reverse, change case, pick, repeat.

What needs the letters of a word (sorting, upper-case, spelling) rests on the spelling drills of
pre-training, which take the words of the whole vocabulary apart; the words of held-out cases are
never in a training task.
"""

from collections.abc import Callable, Sequence
from random import Random

import words
from conversation import Conversation, dialogue, with_articles
from words import Split, WordPool, wording

ORDINALS = ("first", "second", "third", "fourth", "fifth")

REPEAT = (
    "Repeat after me: {}", "Repeat this sentence: {}", "Say exactly this: {}", "Copy this: {}",
    "Please repeat: {}", "Write this again: {}", "Echo: {}", "Repeat the following.\n{}",
    "Say: {}", "Copy the text exactly.\n\n{}", "{}\nRepeat that.",
)  # fmt: skip
REVERSE = (
    "Reverse the order of these words: {}", "Write these words in reverse order: {}",
    "Say these words backwards: {}", "Reverse this list: {}", "Turn the list around: {}",
    "{}\nReverse the words.", "List these from last to first: {}", "Reverse the list: {}",
    "Put these words in the opposite order: {}", "What is the reverse of this list? {}",
    "Reverse: {}",
)  # fmt: skip
SORT = (
    "Sort these words: {}", "Sort alphabetically: {}", "Put these words in alphabetical order: {}",
    "Order these words from A to Z: {}", "{}\nSort the words.", "Alphabetical order, please: {}",
    "Arrange these words alphabetically: {}", "Sort this list: {}", "Can you sort {}?",
    "Write these sorted from A to Z: {}", "Sort the words {}",
)  # fmt: skip
SORT_NUMBERS = (
    "Sort these numbers: {}", "Sort from smallest to largest: {}", "Sort in ascending order: {}",
    "Put these numbers in order: {}", "Order these numbers from low to high: {}", "Sort {}",
    "Sort the numbers {}", "{}\nSort these numbers.", "Arrange in increasing order: {}",
)  # fmt: skip
SORT_DOWN = (
    "Sort from largest to smallest: {}", "Sort in descending order: {}", "Largest first: {}",
    "Order these numbers from high to low: {}", "Arrange in decreasing order: {}",
)  # fmt: skip
COUNT = (
    "How many words are in this list? {}", "Count the words: {}", "Count these words: {}",
    "How many items are there? {}", "{}\nHow many words is that?", "How many words are these: {}",
    "Give me the number of words: {}", "What is the number of words here? {}",
    "Tell me how many words there are: {}", "Count the items in this list: {}", "Count: {}",
)  # fmt: skip
COUNT_ONE = (
    'How often does "{w}" come in this list? {}', "Count {w} in: {}",
    "How many times is {w} in {}?",
    "{}\nHow many times does {w} appear?",
)  # fmt: skip
PICK = (
    "What is the {n} word? {}", "Give me the {n} word: {}", "{}\nWhich word is {n}?",
    "What is the {n} word of this list: {}", "Say the {n} word: {}", "Find the {n} word in: {}",
    "Return only the {n} word. {}", "Name the {n} word of {}", "The {n} word, please: {}",
    "Which is the {n} item? {}",
)  # fmt: skip
UPPER = (
    "Write this in upper case: {}", "Upper-case this: {}", "Convert to uppercase: {}",
    "{}\nIn capitals.",
    "Write in capital letters: {}", "Put this in capitals: {}", "Make this upper case: {}",
    "Uppercase: {}", "Write {} in capital letters.", "Turn this into uppercase: {}",
)  # fmt: skip
LOWER = ("Write this in lower case: {}", "Convert to lowercase: {}", "Make this lower case: {}")
SPELL = ("Spell {}", "Spell the word {}.", "What are the letters of {}?", "How do you spell {}?")
LETTERS = ("How many letters does {} have?", "Count the letters of {}.",
           "How many letters are in the word {}?")  # fmt: skip
BACKWARDS = ("Reverse the word {}", "Write {} backwards.", "Spell {} backwards.",
             "Reverse the letters of {}.", "What is {} backwards?")  # fmt: skip
EXTREME = {
    max: ("What is the largest of these numbers? {}", "Which number is the biggest: {}",
          "Find the maximum: {}"),
    min: ("What is the smallest of these numbers? {}", "Which number is the lowest: {}",
          "Find the minimum: {}"),
}  # fmt: skip
SENTENCES = (
    "The {a} {t} is in the {u}.", "{n} has a {a} {t} and a {c} {u}.", "I saw a {m} near the {t}.",
    "My {t} is {c} and my {u} is {d}.", "{n} and {p} went to {y} by train.", "A {m} likes {f}.",
    "We had {f} and {g} for dinner.", "The {m} sat under the {a} {t}.", "{n} gave {p} a {c} {t}.",
    "Every {w} in {y} needs a {t}.", "There is a {t} on the {a} {u}.", "{n} is a {w} in {y}.",
    "Please bring the {t} to {n}.", "It was a {a} day and {n} lost the {c} {t}.",
)  # fmt: skip

Job = Callable[[Random, Split], tuple[str, str]]


def make_words(rng: Random, split: Split = "train") -> Conversation:
    """Ask for one small job; held-out cases are those that the card counts."""
    counted: tuple[Job, ...] = (_sort, _sort, _sort, _sort_numbers, _sort_numbers, _count, _count,
                                _count, _reverse, _reverse, _reverse, _upper, _upper, _upper,
                                _backwards, _letters)  # fmt: skip
    others: tuple[Job, ...] = (_repeat, _pick, _lower, _spell, _count_one, _extreme)
    job = rng.choice(counted if split == "heldout" or rng.random() < 0.7 else others)
    return dialogue(*job(rng, split), task="skills")


def make_sentence(rng: Random, split: Split) -> str:
    """Make up a plain sentence."""
    things = words.THINGS.sample(rng, split, 2)
    foods = words.FOODS.sample(rng, split, 2)
    sentence = rng.choice(SENTENCES).format(
        a=words.ADJECTIVES.draw(rng, split), d=words.ADJECTIVES.draw(rng, split),
        t=things[0], u=things[1], f=foods[0], g=foods[1], c=words.COLOURS.draw(rng, split),
        m=words.ANIMALS.draw(rng, split), w=words.JOBS.draw(rng, split),
        n=words.first_name(rng, split), p=words.first_name(rng, split), y=words.city(rng, split),
    )  # fmt: skip
    return with_articles(sentence)


def _repeat(rng: Random, split: Split) -> tuple[str, str]:
    text = " ".join(_list(rng, split)) if rng.random() < 0.3 else make_sentence(rng, split)
    return wording(rng, split, REPEAT).format(text), text


def _reverse(rng: Random, split: Split) -> tuple[str, str]:
    items = _numbers(rng, split) if rng.random() < 0.2 else _list(rng, split, longest=7)
    return _changed(rng, split, REVERSE, items, items[::-1])


def _sort(rng: Random, split: Split) -> tuple[str, str]:
    items = _list(rng, split)
    return _changed(rng, split, SORT, items, sorted(items))


def _sort_numbers(rng: Random, split: Split) -> tuple[str, str]:
    items = _numbers(rng, split)
    if rng.random() < 0.3:
        return _changed(rng, split, SORT_DOWN, items, sorted(items, key=int, reverse=True))
    return _changed(rng, split, SORT_NUMBERS, items, sorted(items, key=int))


def _changed(
    rng: Random, split: Split, asks: Sequence[str], items: list[str], answer: list[str]
) -> tuple[str, str]:
    joint = rng.choice((", ", ", ", " "))
    return wording(rng, split, asks).format(joint.join(items)), joint.join(answer)


def _count(rng: Random, split: Split) -> tuple[str, str]:
    items = _list(rng, split, longest=10)
    return wording(rng, split, COUNT).format(rng.choice((", ", " ")).join(items)), str(len(items))


def _count_one(rng: Random, split: Split) -> tuple[str, str]:
    kinds = words.any_words(rng, split, 3)
    items = rng.choices(kinds, k=rng.randint(3, 8))
    asked = wording(rng, split, COUNT_ONE).format(rng.choice((", ", " ")).join(items), w=kinds[0])
    return asked, str(items.count(kinds[0]))


def _pick(rng: Random, split: Split) -> tuple[str, str]:
    items = _list(rng, split, longest=6)
    index = rng.choice((0, 1, 2, 3, 4, -1, -1))
    index = index if index < len(items) else 0
    name = "last" if index == -1 else ORDINALS[index]
    joint = rng.choice((", ", " "))
    return wording(rng, split, PICK).format(joint.join(items), n=name), items[index]


def _upper(rng: Random, split: Split) -> tuple[str, str]:
    text = " ".join(_list(rng, split, shortest=1, longest=4))
    return wording(rng, split, UPPER).format(text), text.upper()


def _lower(rng: Random, split: Split) -> tuple[str, str]:
    text = " ".join(_list(rng, split, shortest=1, longest=4))
    return wording(rng, split, LOWER).format(text.upper()), text


def _spell(rng: Random, split: Split) -> tuple[str, str]:
    word = words.any_word(rng, split)
    return wording(rng, split, SPELL).format(word), " ".join(word)


def _letters(rng: Random, split: Split) -> tuple[str, str]:
    word = words.any_word(rng, split)
    return wording(rng, split, LETTERS).format(word), str(len(word))


def _backwards(rng: Random, split: Split) -> tuple[str, str]:
    text = words.any_word(rng, split)
    while len(text) > 6:
        text = words.any_word(rng, split)
    if rng.random() < 0.25:
        text = str(words.number(rng, split, 100, 99999))
    return wording(rng, split, BACKWARDS).format(text), text[::-1]


def _extreme(rng: Random, split: Split) -> tuple[str, str]:
    items = _numbers(rng, split)
    choose, asks = rng.choice(list(EXTREME.items()))
    return wording(rng, split, asks).format(", ".join(items)), choose(items, key=int)


def _numbers(rng: Random, split: Split) -> list[str]:
    high = rng.choice((20, 99, 99, 999))
    numbers = {words.number(rng, split, 1, high) for _ in range(rng.randint(4, 6))}
    drawn = [str(number) for number in sorted(numbers)]
    return rng.sample(drawn, len(drawn))


def _list(rng: Random, split: Split, longest: int = 5, shortest: int = 3) -> list[str]:
    pools: tuple[WordPool, ...] = (words.THINGS, words.ANIMALS, words.FOODS, words.COLOURS)
    count = rng.randint(shortest, longest)
    if rng.random() < 0.4:
        return words.any_words(rng, split, count)
    fitting = [pool for pool in pools if len(pool.words(split)) >= count]
    if fitting and rng.random() < 0.5:
        return rng.choice(fitting).sample(rng, split, count)
    return rng.sample(sorted({word for pool in pools for word in pool.words(split)}), count)
