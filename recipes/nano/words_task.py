"""Small jobs with given words: reverse, sort, count, pick one, repeat a sentence."""

from collections.abc import Callable
from random import Random

import words
from conversation import Conversation, dialogue, with_articles
from words import Split, WordPool

NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight")
ORDINALS = ("first", "second", "third", "fourth")

REPEAT = (
    "Repeat after me: {}", "Repeat this sentence: {}", "Say exactly this: {}", "Copy this: {}",
    "Please repeat: {}", "Write this again: {}", "Echo: {}", "Repeat the following.\n{}",
    "Say: {}", "Copy the text exactly.\n\n{}", "{}\nRepeat that.",
)  # fmt: skip
REVERSE = (
    "Reverse the order of these words: {}", "Write these words in reverse order: {}",
    "Say these words backwards: {}", "Reverse this list: {}", "Turn the list around: {}",
    "{}\nReverse the words.", "List these from last to first: {}", "Backwards, please: {}",
    "Put these words in the opposite order: {}", "What is the reverse of this list? {}",
)  # fmt: skip
SORT = (
    "Sort these words: {}", "Sort alphabetically: {}", "Put these words in alphabetical order: {}",
    "Order these words from A to Z: {}", "{}\nSort the words.", "Alphabetical order, please: {}",
    "Arrange these words alphabetically: {}", "Sort this list: {}", "Can you sort {}?",
    "Write these sorted from A to Z: {}",
)  # fmt: skip
COUNT = (
    "How many words are in this list? {}", "Count the words: {}", "Count these words: {}",
    "How many items are there? {}", "{}\nHow many words is that?", "How many words are these: {}",
    "Give me the number of words: {}", "What is the number of words here? {}",
    "Tell me how many words there are: {}", "Count the items in this list: {}",
)  # fmt: skip
PICK = (
    "What is the {n} word? {}", "Give me the {n} word: {}", "{}\nWhich word is {n}?",
    "What is the {n} word of this list: {}", "Say the {n} word: {}", "Find the {n} word in: {}",
    "Return only the {n} word. {}", "Name the {n} word of {}", "The {n} word, please: {}",
    "Which is the {n} item? {}",
)  # fmt: skip
SENTENCES = (
    "The {a} {t} is in the {u}.", "{n} has a {a} {t} and a {c} {u}.", "I saw a {m} near the {t}.",
    "My {t} is {c} and my {u} is {d}.", "{n} and {p} went to {y} by train.", "A {m} likes {f}.",
    "We had {f} and {g} for dinner.", "The {m} sat under the {a} {t}.", "{n} gave {p} a {c} {t}.",
    "Every {w} in {y} needs a {t}.", "There is a {t} on the {a} {u}.", "{n} is a {w} in {y}.",
    "Please bring the {t} to {n}.", "It was a {a} day and {n} lost the {c} {t}.",
)  # fmt: skip


def make_words(rng: Random, split: Split = "train") -> Conversation:
    """Ask for one small job."""
    job: Callable[[Random, Split], tuple[str, str]] = rng.choice(
        (_repeat, _repeat, _reverse, _reverse, _sort, _count, _pick, _pick)
    )
    return dialogue(*job(rng, split), task="words")


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
    return rng.choice(REPEAT).format(text), text


def _reverse(rng: Random, split: Split) -> tuple[str, str]:
    return _listed(rng, split, REVERSE, lambda items: items[::-1])


def _sort(rng: Random, split: Split) -> tuple[str, str]:
    return _listed(rng, split, SORT, sorted)


def _listed(
    rng: Random,
    split: Split,
    templates: tuple[str, ...],
    change: Callable[[list[str]], list[str]],
) -> tuple[str, str]:
    items = _list(rng, split)
    joint = rng.choice((", ", " "))
    return rng.choice(templates).format(joint.join(items)), joint.join(change(items))


def _count(rng: Random, split: Split) -> tuple[str, str]:
    items = _list(rng, split, longest=7)
    return rng.choice(COUNT).format(rng.choice((", ", " ")).join(items)), str(len(items))


def _pick(rng: Random, split: Split) -> tuple[str, str]:
    items = _list(rng, split)
    index = rng.choice((0, 0, 1, 2, -1, -1)) if len(items) > 2 else rng.choice((0, -1))
    name = "last" if index == -1 else ORDINALS[index]
    return rng.choice(PICK).format(rng.choice((", ", " ")).join(items), n=name), items[index]


def _list(rng: Random, split: Split, longest: int = 5) -> list[str]:
    pools: tuple[WordPool, ...] = (words.THINGS, words.ANIMALS, words.FOODS, words.COLOURS)
    count = rng.randint(3, longest)
    if rng.random() < 0.5:
        pools = tuple(pool for pool in pools if len(pool.words(split)) >= count)
        return rng.choice(pools).sample(rng, split, count)
    return rng.sample([word for pool in pools for word in pool.words(split)], count)
