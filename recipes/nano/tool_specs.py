"""Tools made up of a verb, a thing and parameters; and the requests that ask for them.

A tool is either a question (``get_sensor_price``: the price of a sensor) or an action
(``rent_wagon``). Its request says the same with other words: a synonym of the verb, the parameters
in phrases. So the choice is learned as matching words between request and description, and the
arguments as copying. Names and things are split by a hash: a held-out tool has neither a name nor a
thing that training shows.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import words
from conversation import with_articles
from values import Value, as_text, full_name, transaction_id, whole_number
from words import Split, is_heldout

Arguments = dict[str, Value]

QUESTION_VERBS = ("get", "fetch", "find", "retrieve", "check", "lookup", "read", "show")
# verb: how a person says it.
ACTION_VERBS: dict[str, tuple[str, ...]] = {
    "create": ("create", "make", "set up"), "delete": ("delete", "remove", "get rid of"),
    "order": ("order", "I would like to order", "get me"), "rent": ("rent", "I want to rent"),
    "book": ("book", "reserve"), "cancel": ("cancel", "call off"), "sell": ("sell",),
    "buy": ("buy", "purchase", "I want to buy"), "repair": ("repair", "fix"), "paint": ("paint",),
    "move": ("move", "bring"), "clean": ("clean", "wash"), "send": ("send", "ship", "post"),
    "open": ("open",), "close": ("close", "shut"), "start": ("start", "turn on", "switch on"),
    "stop": ("stop", "turn off", "switch off"), "print": ("print", "print out"),
    "update": ("update", "change"), "schedule": ("schedule", "plan", "arrange"),
    "lock": ("lock",), "unlock": ("unlock",), "test": ("test", "try out"), "pack": ("pack",),
    "inspect": ("inspect", "look over", "examine"), "register": ("register", "sign up"),
    "archive": ("archive", "store away"), "install": ("install", "put in"),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Parameter:
    """One parameter of a tool."""

    name: str
    """Its key."""
    schema: dict[str, Any]
    """Type, description, perhaps the values that it may have."""
    phrase: str
    """How a request says it, with {} for the value."""
    draw: Callable[[Random, Split], Value]
    """Makes a value."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Tool:
    """A tool with the ways to ask for it."""

    name: str
    """Of the function."""
    thing: str
    """What it is about."""
    description: str
    """What it does, in a sentence."""
    parameters: tuple[Parameter, ...]
    """What it takes; the first is required."""
    requests: tuple[str, ...]
    """Ways to ask; {subject} is the first parameter of a question."""
    attribute: str = ""
    """What a question asks for; empty for an action."""

    def definition(self) -> dict[str, Any]:
        """Return it in OpenAI's spelling."""
        return definition(
            self.name,
            self.description,
            {parameter.name: parameter.schema for parameter in self.parameters},
            required=[parameter.name for parameter in self.parameters[:1]],
        )

    def ask(self, rng: Random, split: Split) -> tuple[str, Arguments]:
        """Return a request with the arguments that it names; optional ones may be left out."""
        kept = [p for i, p in enumerate(self.parameters) if i == 0 or rng.random() < 0.75]
        arguments = {parameter.name: parameter.draw(rng, split) for parameter in kept}
        request = rng.choice(self.requests)
        phrases = [_phrase(parameter, arguments[parameter.name]) for parameter in kept]
        if self.attribute:
            request = request.replace("{subject}", phrases.pop(0))
        end = request[-1] if request[-1] in ".?!" else ""
        text = " ".join([request.removesuffix(end), *phrases]) + end
        return with_articles(text[0].upper() + text[1:]), arguments


def definition(
    name: str, description: str, properties: dict[str, Any], required: list[str]
) -> dict[str, Any]:
    """Return a tool in OpenAI's spelling."""
    parameters = {"type": "object", "properties": properties, "required": required}
    function = {"name": name, "description": description, "parameters": parameters}
    return {"type": "function", "function": function}


def call(name: str, arguments: Arguments, call_id: str = "") -> dict[str, Any]:
    """Return a call in OpenAI's spelling; without an id where the model is to write it."""
    function = {"name": name, "arguments": json.dumps(arguments, ensure_ascii=False)}
    return ({"id": call_id} if call_id else {}) | {"type": "function", "function": function}


def draw_tool(rng: Random, split: Split, *, thing: str = "") -> Tool:
    """Make a tool, about a given thing if there is one."""
    while True:
        about = thing or _thing(rng, split)
        tool = _question(rng, split, about) if rng.random() < 0.5 else _action(rng, split, about)
        if is_heldout(tool.name) == (split == "heldout"):
            return tool


def _thing(rng: Random, split: Split) -> str:
    pool = rng.choice((words.THINGS, words.KEYS, None))
    return pool.draw(rng, split) if pool else words.any_word(rng, split)


def _question(rng: Random, split: Split, thing: str) -> Tool:
    attribute = rng.choice([word for word in words.KEYS.words(split) if word != thing])
    if split == "train" and rng.random() < 0.5:
        attribute = words.any_words(rng, split, 2)[0]
    verb = rng.choice(QUESTION_VERBS)
    key, schema, draw = rng.choice(
        (
            (f"{thing}_id", {"type": "string", "description": f"The id of the {thing}."},
             transaction_id),
            (f"{thing}_name", {"type": "string"}, words.invent_name),
            ("name", {"type": "string", "description": f"Name of the {thing}."}, words.city),
            ("number", {"type": "integer", "description": f"Number of the {thing}."},
             whole_number),
        )
    )  # fmt: skip
    subject = Parameter(name=key, schema=dict(schema), phrase="{}", draw=draw)
    return Tool(
        name=_name(rng, verb, thing, attribute),
        thing=thing,
        description=rng.choice(
            (f"{verb.capitalize()} the {attribute} of a {thing}.", f"The {attribute} of a {thing}")
        ),
        parameters=(subject, *_extras(rng, split, rng.choice((0, 0, 0, 1)), key)),
        requests=(
            f"What is the {attribute} of the {thing} {{subject}}?",
            f"What is the {attribute} of {thing} {{subject}}?",
            f"Tell me the {attribute} of the {thing} {{subject}}.",
            f"Which {attribute} does the {thing} {{subject}} have?",
            f"I need the {attribute} for {thing} {{subject}}.",
            f"Please {verb if verb != 'lookup' else 'look up'} the {attribute} of the {thing} "
            "{subject}.",
            f"Do you know the {attribute} of the {thing} {{subject}}?",
        ),
        attribute=attribute,
    )


def _action(rng: Random, split: Split, thing: str) -> Tool:
    verb = rng.choice(sorted(ACTION_VERBS))
    said = ACTION_VERBS[verb]
    return Tool(
        name=_name(rng, verb, thing),
        thing=thing,
        description=rng.choice((f"{verb.capitalize()} a {thing}.", f"{verb.capitalize()} {thing}")),
        parameters=tuple(_extras(rng, split, rng.choice((1, 2, 2, 3)), "")),
        requests=tuple(
            f"{start}{word} {article} {thing}{end}"
            for word in said
            for article in ("a", "the")
            for start, end in (("", "."), ("please ", "."), ("can you ", "?"))
            if not (start and word.startswith("I "))
        ),
    )


def _name(rng: Random, *parts: str) -> str:
    draw = rng.random()
    if draw < 0.7:
        return "_".join(parts)
    if draw < 0.85:
        return parts[0] + "".join(part.capitalize() for part in parts[1:])
    return "_".join((*parts[1:], parts[0]))


def _extras(rng: Random, split: Split, count: int, taken: str) -> list[Parameter]:
    makers = rng.sample(_PARAMETERS, count)
    drawn = {parameter.name: parameter for parameter in (make(rng, split) for make in makers)}
    drawn.pop(taken, None)
    return list(drawn.values())


def _phrase(parameter: Parameter, value: Value) -> str:
    if isinstance(value, bool):
        return f"{'with' if value else 'without'} {parameter.phrase}"
    return parameter.phrase.format(as_text(value))


def _typed(
    name: str, kind: str, phrase: str, draw: Callable[[Random, Split], Value], about: str
) -> Callable[[Random, Split], Parameter]:
    def make(rng: Random, split: Split) -> Parameter:
        schema = {"type": kind} | ({"description": about} if rng.random() < 0.7 else {})
        return Parameter(name=name, schema=schema, phrase=phrase, draw=draw)

    return make


def _choice(name: str, phrase: str, options: Sequence[str]) -> Callable[[Random, Split], Parameter]:
    def make(rng: Random, split: Split) -> Parameter:
        schema = {"type": "string", "enum": list(options)}
        return Parameter(
            name=name, schema=schema, phrase=phrase, draw=lambda rng, split: rng.choice(options)
        )

    return make


def _free_text(rng: Random, split: Split) -> Parameter:
    name = words.key(rng, split)
    schema = {"type": "string", "description": f"The {name.replace('_', ' ')}."}
    phrase = f"with {name.replace('_', ' ')} {{}}"
    return Parameter(name=name, schema=schema, phrase=phrase, draw=words.any_word)


def _free_number(rng: Random, split: Split) -> Parameter:
    name = words.key(rng, split)
    phrase = f"with {name.replace('_', ' ')} {{}}"
    return Parameter(name=name, schema={"type": "integer"}, phrase=phrase, draw=whole_number)


def _flag(rng: Random, split: Split) -> Parameter:
    name = words.THINGS.draw(rng, split)
    schema = {"type": "boolean", "description": f"Whether it comes with {name}."}
    return Parameter(
        name=name, schema=schema, phrase=name, draw=lambda rng, split: rng.random() < 0.5
    )


_PARAMETERS: tuple[Callable[[Random, Split], Parameter], ...] = (
    _free_text,
    _free_text,
    _free_number,
    _flag,
    _typed("quantity", "integer", "and take {} of them", whole_number, "How many."),
    _typed("city", "string", "in {}", words.city, "The city."),
    _typed("customer", "string", "for {}", full_name, "Who it is for."),
    _typed("max_price", "number", "for at most {}", whole_number, "Highest price."),
    _typed("person", "string", "for {}", words.first_name, "First name of the person."),
    _typed("id", "string", "with the id {}", transaction_id, "Its id."),
    _choice("size", "in size {}", ("small", "medium", "large")),
    _choice("priority", "with {} priority", ("low", "normal", "high")),
    _choice("day", "on {}", words.DAYS),
    _choice("month", "in {}", words.MONTHS),
)
