"""Records to JSON: lines, lists, tables and sentences become one object, on one line.

One rule says what a value becomes, so that it can be learned: a whole or decimal number is a
number, true and false are booleans, everything else is a string, unless the request names a type.
The object has exactly the fields that are asked for, in the order of the text. Keys are drawn from
a large pool; those of held-out cases are never trained on. The usual ones (name, city, ...) are in
training alone.
"""

import json
from collections.abc import Callable
from random import Random

import words
from conversation import Conversation, dialogue, with_articles
from values import Value, any_value, as_text, full_name, proper_name, whole_number
from words import Split, wording

Record = dict[str, Value]

SYSTEM = (
    "You are a helpful code assistant. Your task is to generate a valid JSON object based on the "
    "given information."
)
# {} is the record; the first one is the prompting guide's own wording.
TEMPLATES = (
    "You are a helpful code assistant. Your task is to generate a valid JSON object based on the "
    "given information:\n{}\nJust generate the JSON object without explanations:",
    "Generate a valid JSON object based on the given information:\n{}",
    "Convert this to JSON:\n{}", "Convert the following to JSON: {}", "{}\n\nConvert it to JSON.",
    "Turn this into a JSON object:\n{}", "Turn the following information into JSON.\n\n{}",
    "Write this as JSON: {}", "Write a JSON object with these fields:\n{}", "To JSON: {}",
    "Make a JSON object from this:\n{}", "Make JSON out of this. {}", "{}\n\nAs JSON, please.",
    "Please give me this record as JSON:\n{}", "Format the following as a JSON object: {}",
    "{}\nWrite this as a JSON object.", "{}\nReturn only JSON.", "{}\nAnswer with JSON only.",
    "Here is some information: {}\nPut it into a JSON object.", "JSON please:\n{}",
    "Return a JSON object for this record:\n{}\nNo explanations.", "{}\n\nGive me the JSON.",
    "Create a JSON object with the following data.\n{}\nJust the JSON, please.",
    "Extract the fields as JSON: {}", "I need this as JSON.\n\n{}", "Rewrite as JSON:\n\n{}",
    "Parse this into JSON:\n{}", "Represent this data as a JSON object.\n{}", "JSON:\n{}",
)  # fmt: skip
# {} is the record, {keys} the fields that are wanted.
NAMED = (
    "Extract {keys} as JSON:\n{}", "{}\n\nReturn a JSON object with the keys {keys}.",
    "From this text, give me {keys} as JSON.\n\n{}", "{}\nMake JSON with {keys} and nothing else.",
    "Write a JSON object with exactly the fields {keys}.\n\n{}", "JSON with {keys}: {}",
    "Text: {}\nFields: {keys}\nJSON:", "{}\n\nUse the keys {keys} and answer in JSON.",
    "Fill in a JSON object with the keys {keys} from this: {}", "{keys} as JSON, please: {}",
    "Extract the following fields as JSON: {keys}.\n\n{}", "{}\nOnly {keys}, as JSON.",
)  # fmt: skip
LINES = (
    "{}: {}", "{}: {}", "{}: {}", "{}: {}", "{} = {}", "{}={}", "- {}: {}", "* {}: {}", "{} - {}",
    "{} -> {}", "{} | {}", "| {} | {} |", "{}\t{}", "{}:{}", "{} is {}", "[{}] {}", "{} ... {}",
    "<{}> {}", "{}; {}", " {}: {}", "> {}: {}", "{} => {}",
)  # fmt: skip
JOINED = ("{}: {}", "{}: {}", "{} {}", "{}={}", "{} is {}", "{} = {}", "{} - {}")
PROSE = (
    "The {} is {}.", "Its {} is {}.", "The {} is {}, as far as we know.", "{} is the {}.",
    "We set the {} to {}.", "It has a {} of {}.", "They say that the {} is {}.",
    "For the {}, the form says {}.", "The {} was given as {}.", "As {} we have {}.",
)  # fmt: skip
_BACKWARDS = "{} is the {}."


def make_json(rng: Random, split: Split = "train") -> Conversation:
    """Ask for a record as JSON."""
    if rng.random() < 0.2 and split == "train":
        return _usual(rng)
    count = rng.choice((3, 4, 5, 6)) if split == "heldout" else rng.choice((2, 3, 3, 4, 4, 5, 6))
    record = make_record(rng, split, count)
    information = write_record(rng, split, record)
    draw = rng.random()
    if draw < 0.15:
        return _typed(rng, split, record, information)
    if draw < 0.4:
        wanted = record
        if count > 3 and rng.random() < 0.4:
            picked = _some(rng, record)
            wanted = {name: record[name] for name in record if name in picked}
        text = wording(rng, split, NAMED).replace("{keys}", _listing(rng, list(wanted)))
        return _ask(text.replace("{}", information), wanted)
    if draw < 0.48:
        return _ask(information, record, system=SYSTEM)
    return _ask(wording(rng, split, TEMPLATES).replace("{}", information), record)


def make_json_follow_up(rng: Random, split: Split = "train") -> Conversation:
    """Give a record with its JSON, then one or two more with the same fields."""
    names = list(make_record(rng, split, rng.randint(2, 4)))
    form = rng.choice(LINES)
    system = SYSTEM if rng.random() < 0.4 else ""
    turns: list[str] = []
    for index in range(rng.choice((2, 2, 3))):
        record = {name: any_value(rng, split) for name in names}
        text = "\n".join(form.format(key, as_text(value)) for key, value in record.items())
        if index == 0 and not system:
            text = wording(rng, split, TEMPLATES).replace("{}", text)
        turns += [text, to_json(record)]
    return dialogue(*turns, task="json", check="json", system=system)


def to_json(record: Record) -> str:
    """Write a record in the one style that the model learns."""
    return json.dumps(record, ensure_ascii=False)


def make_record(rng: Random, split: Split, count: int) -> Record:
    """Draw so many different keys with values."""
    record: Record = {}
    while len(record) < count:
        record[words.key(rng, split)] = any_value(rng, split)
    if rng.random() < 0.15:
        return {key.capitalize(): value for key, value in record.items()}
    if rng.random() < 0.08:
        return {key.replace("_", " "): value for key, value in record.items()}
    return record


def write_record(rng: Random, split: Split, record: Record) -> str:
    """Write a record as lines, on one line, as two lines of a table, or in sentences."""
    fields = [(key, as_text(value)) for key, value in record.items()]
    style = rng.random()
    if style < 0.45:
        form = wording(rng, split, LINES)
        return "\n".join(form.format(*field) for field in fields)
    if style < 0.62:
        form = rng.choice(JOINED)
        return rng.choice((", ", ", ", "; ", " / ", " | ")).join(form.format(*f) for f in fields)
    if style < 0.7:
        joint = rng.choice((", ", " | ", ";", ","))
        return "\n".join(joint.join(column) for column in zip(*fields, strict=True))
    if style < 0.8:
        parts = [f"the {key} is {value}" for key, value in fields]
        text = f"{', '.join(parts[:-1])} and {parts[-1]}."
        return text[0].upper() + text[1:]
    return " ".join(_sentence(rng, split, *field) for field in fields)


def _sentence(rng: Random, split: Split, key: str, value: str) -> str:
    form = wording(rng, split, PROSE)
    sentence = form.format(value, key) if form == _BACKWARDS else form.format(key, value)
    # Only the first letter changes, and never that of a value.
    return sentence if form == _BACKWARDS else sentence[0].upper() + sentence[1:]


def _typed(rng: Random, split: Split, record: Record, information: str) -> Conversation:
    """Name the type of every field, in words or as a JSON schema; numbers may become strings."""
    as_string = {key for key in record if rng.random() < 0.3}
    typed: Record = {
        key: as_text(value) if key in as_string else value for key, value in record.items()
    }
    types = {key: _type_name(value) for key, value in typed.items()}
    if rng.random() < 0.5:
        keys = ", ".join(f"{key} ({name})" for key, name in types.items())
        text = wording(rng, split, NAMED).replace("{keys}", keys).replace("{}", information)
        return _ask(text, typed)
    properties = {key: {"type": name} for key, name in types.items()}
    schema = json.dumps({"type": "object", "properties": properties, "required": list(types)})
    asked = rng.choice(
        ("{}\n\nAnswer in JSON with this schema: {s}", "Schema: {s}\n\nText: {}\n\nJSON:",
         "Follow this JSON schema: {s}\n\n{}")
    )  # fmt: skip
    return _ask(asked.replace("{s}", schema).replace("{}", information), typed)


def _type_name(value: Value) -> str:
    return {bool: "boolean", int: "integer", float: "number", str: "string"}[type(value)]


def _usual(rng: Random) -> Conversation:
    """A person or an order in a sentence, with the usual keys, which are known by heart."""
    sentence = rng.choice(SENTENCES)
    drawn = {key: maker(rng, "train") for key, maker in USUAL.items() if f"{{{key}}}" in sentence}
    text = with_articles(sentence.format(**drawn))
    record = {key: drawn[key] for key in sorted(drawn, key=lambda k: sentence.index(f"{{{k}}}"))}
    if rng.random() < 0.35:
        return _ask(rng.choice(TEMPLATES).replace("{}", text), record)
    # Named, a field may have another name, and may be asked for in another order.
    if rng.random() < 0.3:
        record = dict(rng.sample(list(record.items()), len(record)))
    record = {rng.choice((key, *SYNONYMS.get(key, ()))): record[key] for key in record}
    named = rng.choice(NAMED).replace("{keys}", _listing(rng, list(record)))
    return _ask(named.replace("{}", text), record)


def _ask(text: str, record: Record, system: str = "") -> Conversation:
    return dialogue(text, to_json(record), task="json", check="json", system=system)


def _some(rng: Random, record: Record) -> list[str]:
    return rng.sample(list(record), rng.randint(max(2, len(record) - 2), len(record) - 1))


def _listing(rng: Random, names: list[str]) -> str:
    if rng.random() < 0.5:
        return ", ".join(names)
    return f"{', '.join(names[:-1])} and {names[-1]}"


USUAL: dict[str, Callable[[Random, Split], Value]] = {
    "name": words.first_name, "lastname": words.last_name, "age": lambda r, s: r.randint(5, 95),
    "city": words.city, "job": words.JOBS.draw, "country": words.COUNTRIES.draw,
    "hobby": words.HOBBIES.draw, "company": words.COMPANIES.draw, "colour": words.COLOURS.draw,
    "pet": words.ANIMALS.draw, "product": words.THINGS.draw, "quantity": whole_number,
    "author": full_name, "customer": proper_name, "year": lambda r, s: r.randint(1900, 2030),
    "price": whole_number, "address": lambda r, s: f"{r.randint(1, 99)} {words.city(r, s)} Road",
}  # fmt: skip
SENTENCES = (
    "My name is {name}, I am {age} years old and I live in {city}.",
    "{name} {lastname} lives in {city}.", "{name} is {age} years old and works as a {job}.",
    "{name} {lastname} is a {job} from {city}.", "{name} {lastname} lives at {address} in {city}.",
    "{name}, aged {age}, comes from {country} and likes {hobby}.",
    "{name} works for {company} in {city}.", "{name} has a {pet} and likes the colour {colour}.",
    "{customer} orders {quantity} of the {product} in {colour} for {price}.",
    "{author} wrote it in {year} in {city}.",
    "{name} is a {age}-year-old {job} who lives in {city} and works for {company}.",
    "Please welcome {name} {lastname}, our new {job}. {name} comes from {country}.",
    "On the phone was {name} {lastname} from {city}, {age} years old, {job} by profession.",
    "Hello, I am {name} from {country}. I am {age}, and my hobby is {hobby}.",
    "The {product} in {colour} was made by {company} in {year} and costs {price} euros.",
    "{customer} from {city} bought {quantity} pieces of {product} at {price} dollars each.",
    "Dear {company}, please send the {product} to {name} {lastname}, {address}, {city}.",
    "In {year} {name} moved to {city} to become a {job}.",
    "A {job} called {name}, {age}, keeps a {pet} in {city}.",
    "Order of {customer}: {quantity} x {product}, colour {colour}, to {city}.",
    "The book by {author} came out in {year} at {company} and costs {price} dollars.",
    "{name} ({age}) - {job}, {city}", "{name} {lastname}, {job}, {company}, {city}",
    "name: {name}\nlastname: {lastname}\ncity: {city}",
    "name: {name}\nage: {age}\njob: {job}\ncity: {city}",
    "name: {name}\nlastname: {lastname}\naddress: {address}",
)  # fmt: skip
SYNONYMS: dict[str, tuple[str, ...]] = {
    "name": ("first_name", "firstname"), "lastname": ("last_name", "surname"),
    "city": ("town", "place", "location"), "job": ("profession", "occupation"),
    "age": ("years",), "country": ("nation", "home_country"), "company": ("employer", "firm"),
    "colour": ("color",), "pet": ("animal",), "product": ("item", "article"),
    "quantity": ("count", "number", "amount"), "customer": ("client", "purchaser"),
    "price": ("cost", "unit_price"), "hobby": ("interest",), "address": ("street",),
}  # fmt: skip
"""Other names for the usual fields."""
