"""Names to JSON: a record written as lines, as a list or as a sentence becomes a JSON object.

The object has the record's fields in the record's order, one per line, indented by one space, as
in the prompting guide of Mixtral. Ages, years and other counts are numbers, everything else is a
string. About a third of the records have keys that are plain nouns instead of the usual fields;
those keys are split into training and held-out words like all values. The usual field names (name,
city, ...) are in both halves.
"""

import json
from collections.abc import Callable
from random import Random

import words
from conversation import Conversation, dialogue
from words import Split

Record = dict[str, str | int]
_Maker = Callable[[Random, Split], str | int]

SYSTEM = (
    "You are a helpful code assistant. Your task is to generate a valid JSON object based on the "
    "given information."
)

# {} is the record; the first one is the prompting guide's own wording.
TEMPLATES = (
    "You are a helpful code assistant. Your task is to generate a valid JSON object based on the "
    "given information:\n{}\nJust generate the JSON object without explanations:",
    "You are a helpful code assistant. Your task is to generate a valid JSON object based on the "
    "given information:\n\n{}\n\nJust generate the JSON object without explanations:\n",
    "Generate a valid JSON object based on the given information:\n{}",
    "Convert this to JSON:\n{}",
    "Convert the following to JSON: {}",
    "Turn this into a JSON object:\n{}",
    "Turn the following information into JSON.\n\n{}",
    "Write this as JSON: {}",
    "Write a JSON object with these fields:\n{}",
    "Make a JSON object from this:\n{}",
    "Make JSON out of this. {}",
    "Please give me this record as JSON:\n{}",
    "Please format the following as a JSON object: {}",
    "{}\nWrite this as a JSON object.",
    "{}\n\nConvert it to JSON.",
    "{}\nReturn only JSON.",
    "Here is some information: {}\nPut it into a JSON object.",
    "Return a JSON object for this record:\n{}\nNo explanations.",
    "Create a JSON object with the following data.\n{}\nJust the JSON, please.",
    "Extract the fields as JSON: {}",
    "JSON please:\n{}",
)

SENTENCES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("My name is {name}, I am {age} years old and I live in {city}.", ("name", "age", "city")),
    ("{name} {lastname} lives in {city}.", ("name", "lastname", "city")),
    ("{name} is {age} years old and works as a {job}.", ("name", "age", "job")),
    (
        "{name} {lastname} is a {job} from {city}. The phone number is {phone}.",
        ("name", "lastname", "job", "city", "phone"),
    ),
    (
        "{name}, aged {age}, comes from {country} and likes {hobby}.",
        ("name", "age", "country", "hobby"),
    ),
    ("You can reach {name} at {email}.", ("name", "email")),
    ("{name} works for {company} in {city}.", ("name", "company", "city")),
    ("{name} has a {pet} and the favourite colour is {colour}.", ("name", "pet", "colour")),
    ("We need {quantity} of the product {product} in {colour}.", ("quantity", "product", "colour")),
    ("{name} {lastname} lives at {address} in {city}.", ("name", "lastname", "address", "city")),
)


def make_json(rng: Random, split: Split = "train") -> Conversation:
    """Ask for a record as JSON."""
    if rng.random() < 0.2:
        information, record = _sentence_record(rng, split)
        template = rng.choice([text for text in TEMPLATES if "these fields" not in text])
        keys = ", ".join(record)
        information += rng.choice(("", f" Use the keys {keys}.")) if rng.random() < 0.7 else ""
        return dialogue(template.format(information), to_json(record), task="json", check="json")
    record = make_record(rng, split)
    information = write_record(rng, record)
    if rng.random() < 0.15:
        return dialogue(information, to_json(record), task="json", check="json", system=SYSTEM)
    text = rng.choice(TEMPLATES).format(information)
    return dialogue(text, to_json(record), task="json", check="json")


def make_json_follow_up(rng: Random, split: Split = "train") -> Conversation:
    """Give one or two records with their JSON, then another with the same fields.

    The shown object may have its fields in another order than the record, as in the guide; the
    answer keeps the shown order.
    """
    fields = draw_fields(rng, split, rng.randint(2, 4))
    order = rng.sample(list(fields), len(fields)) if rng.random() < 0.5 else list(fields)
    ending = rng.choice(("\n would be converted to: ", "", ""))
    margin = rng.choice(("", " "))
    system = SYSTEM if rng.random() < 0.5 else ""
    turns: list[str] = []
    for index in range(rng.choice((2, 2, 3))):
        record = fill_fields(rng, split, fields)
        information = "\n".join(f"{margin}{key}: {value}" for key, value in record.items())
        if index == 0:
            information = ("\n" if ending else "") + information + ending
            if not system:
                information = rng.choice(TEMPLATES[2:12]).format(information.strip("\n"))
        else:
            information = information.strip()
        turns += [information, to_json({key: record[key] for key in order})]
    reordered = order != list(fields)
    return dialogue(*turns, task="json", check="json", system=system, learn_last_only=reordered)


def to_json(record: Record) -> str:
    """Write a record in the one style that the model learns."""
    return json.dumps(record, indent=1, ensure_ascii=False)


def make_record(rng: Random, split: Split) -> Record:
    """Draw a record of two to six fields."""
    return fill_fields(rng, split, draw_fields(rng, split, rng.choice((2, 3, 3, 3, 4, 4, 5, 6))))


def draw_fields(rng: Random, split: Split, count: int) -> dict[str, _Maker]:
    """Draw field names and what makes their values."""
    makers = _makers()
    if rng.random() < 0.25:
        nouns = words.THINGS.sample(rng, split, count)
        return {noun: rng.choice((_any_word, _any_word, _count)) for noun in nouns}
    if rng.random() < 0.45:
        names = ["name", "lastname", "address", "city", "age", "phone", "email"][:count]
    else:
        names = rng.sample(sorted(makers), count)
    fields = {name: makers[name] for name in names}
    if rng.random() < 0.15:
        fields[words.THINGS.draw(rng, split)] = _any_word
    return fields


def fill_fields(rng: Random, split: Split, fields: dict[str, _Maker]) -> Record:
    """Draw a value for each field."""
    return {name: maker(rng, split) for name, maker in fields.items()}


def write_record(rng: Random, record: Record) -> str:
    """Write a record as lines, as a list, or as a sentence of "the key is value"."""
    style = rng.random()
    if style < 0.6:
        form = rng.choice(("{}: {}", "{}: {}", "{}: {}", " {}: {}", "- {}: {}", "{} = {}"))
        return "\n".join(form.format(key, value) for key, value in record.items())
    if style < 0.85:
        form = rng.choice(("{}: {}", "{}: {}", "{} {}", "{}={}"))
        return ", ".join(form.format(key, value) for key, value in record.items())
    parts = [f"the {key} is {value}" for key, value in record.items()]
    text = f"{', '.join(parts[:-1])} and {parts[-1]}."
    return text[0].upper() + text[1:]


def _sentence_record(rng: Random, split: Split) -> tuple[str, Record]:
    sentence, keys = rng.choice(SENTENCES)
    makers = _makers()
    record = {key: makers[key](rng, split) for key in keys}
    return sentence.format(**record), record


def _makers() -> dict[str, _Maker]:
    pools = {
        "colour": words.COLOURS, "color": words.COLOURS, "job": words.JOBS, "pet": words.ANIMALS,
        "profession": words.JOBS, "animal": words.ANIMALS, "food": words.FOODS,
        "fruit": words.FOODS, "hobby": words.HOBBIES, "country": words.COUNTRIES,
        "company": words.COMPANIES, "product": words.THINGS, "item": words.THINGS,
    }  # fmt: skip
    makers: dict[str, _Maker] = {key: pool.draw for key, pool in pools.items()}
    for key in ("name", "firstname", "first_name", "author", "owner"):
        makers[key] = words.first_name
    for key in ("lastname", "last_name", "surname"):
        makers[key] = words.last_name
    for key in ("city", "town", "place"):
        makers[key] = words.city
    for key in ("age", "quantity", "count", "size"):
        makers[key] = _count
    makers |= {"year": _year, "price": _count, "address": _address, "street": _address}
    makers |= {"phone": _phone, "email": _email, "zip": _zip, "month": _month, "day": _day}
    makers["full name"] = _full_name
    return makers


def _any_word(rng: Random, split: Split) -> str:
    pools = (words.COLOURS, words.ANIMALS, words.FOODS, words.ADJECTIVES, words.FIRST_NAMES)
    return rng.choice(pools).draw(rng, split)


def _count(rng: Random, split: Split) -> int:
    return rng.randint(1, 99)


def _year(rng: Random, split: Split) -> int:
    return rng.randint(1900, 2024)


def _address(rng: Random, split: Split) -> str:
    street = words.STREETS.draw(rng, split)
    number = rng.randint(1, 99)
    if rng.random() < 0.5:
        return f"#{number} {street} St."
    return f"{number} {street} {rng.choice(('Street', 'Road', 'Avenue', 'Lane'))}"


def _phone(rng: Random, split: Split) -> str:
    return f"555-{words.digits(rng, 4)}"


def _zip(rng: Random, split: Split) -> str:
    return f"{rng.choice('ABCDEFGH')}{words.digits(rng, 3)}"


def _email(rng: Random, split: Split) -> str:
    name = words.first_name(rng, split).lower()
    return f"{name}@{rng.choice(('example.com', 'mail.com', 'example.org'))}"


def _month(rng: Random, split: Split) -> str:
    return rng.choice(words.MONTHS)


def _day(rng: Random, split: Split) -> str:
    return rng.choice(words.DAYS)


def _full_name(rng: Random, split: Split) -> str:
    return " ".join(words.person(rng, split))
