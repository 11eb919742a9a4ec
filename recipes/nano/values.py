"""Values of records and arguments: words, names, numbers, codes, all drawn from one half."""

from random import Random

import words
from words import Split

Value = str | int | float | bool


def any_value(rng: Random, split: Split) -> Value:
    """Draw a text, a number or now and then true or false."""
    draw = rng.random()
    if draw < 0.3:
        return words.any_word(rng, split)
    if draw < 0.4:
        return " ".join(words.any_words(rng, split, rng.choice((2, 2, 3))))
    if draw < 0.6:
        return proper_name(rng, split)
    if draw < 0.8:
        return whole_number(rng, split)
    if draw < 0.84:
        return words.number(rng, split, 1, 99) + rng.choice((0.25, 0.5, 0.75, 0.1))
    if draw < 0.87:
        return rng.random() < 0.5
    return code(rng, split)


def proper_name(rng: Random, split: Split) -> str:
    """Draw a person, a city or a company."""
    maker = rng.choice(
        (words.first_name, words.last_name, words.city, full_name, words.COMPANIES.draw)
    )
    return maker(rng, split)


def full_name(rng: Random, split: Split) -> str:
    """Draw a first and a last name."""
    return " ".join(words.person(rng, split))


def whole_number(rng: Random, split: Split) -> int:
    """Draw a number of one to six digits."""
    digits = rng.choice((2, 2, 3, 3, 4, 5, 6))
    return words.number(rng, split, 10 ** (digits - 1), 10**digits - 1)


def code(rng: Random, split: Split) -> str:
    """Draw a date, an e-mail address, a telephone number, an id: texts with digits and marks."""
    kind = rng.randrange(6)
    if kind == 0:
        return f"{rng.randint(1950, 2029)}-{rng.randint(1, 12):02}-{rng.randint(1, 28):02}"
    if kind == 1:
        host = words.any_word(rng, split)
        return f"{words.first_name(rng, split).lower()}@{host}.{rng.choice(('com', 'org', 'net'))}"
    if kind == 2:
        return f"555-{words.number(rng, split, 1000, 9999)}"
    if kind == 3:
        return transaction_id(rng, split)
    if kind == 4:
        return f"{words.number(rng, split, 1, 99)} {words.STREETS.draw(rng, split)} Street"
    return f"{rng.randint(0, 23):02}:{rng.randint(0, 59):02}"


def transaction_id(rng: Random, split: Split) -> str:
    """Draw an id such as T1001, QX-204 or 7b3."""
    digits = words.number(rng, split, 10, 9999)
    letters = "".join(rng.choices("ABCDEFGHJKLMNPQRSTUVWXYZ", k=rng.choice((1, 1, 2, 3))))
    return f"{letters}{rng.choice(('', '', '-'))}{digits}"


def as_text(value: Value) -> str:
    """Write a value as a record shows it."""
    return str(value).lower() if isinstance(value, bool) else str(value)
