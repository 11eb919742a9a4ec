"""Tools that people try first: the weather, a calculator, a search, payments as in Mistral's guide.

Each entry: name, description, properties, and requests with the arguments that they name; {city}
and the like are drawn. They are in training alone; held-out cases have tools that nobody knows.
"""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

import words
from tool_specs import Arguments, definition
from values import Value, full_name, transaction_id

_TEXT = {"type": "string"}
_NUMBER = {"type": "number"}
_INTEGER = {"type": "integer"}

DRAWS: dict[str, Callable[[Random], Value]] = {
    "city": lambda rng: words.city(rng, "train"),
    "other": lambda rng: words.city(rng, "train"),
    "person": lambda rng: words.first_name(rng, "train"),
    "author": lambda rng: full_name(rng, "train"),
    "word": lambda rng: words.any_word(rng, "train"),
    "topic": lambda rng: " ".join(words.any_words(rng, "train", 2)),
    "company": lambda rng: words.COMPANIES.draw(rng, "train"),
    "id": lambda rng: transaction_id(rng, "train"),
    "n": lambda rng: rng.randint(2, 120),
    "a": lambda rng: rng.randint(2, 999),
    "b": lambda rng: rng.randint(2, 999),
    "sign": lambda rng: rng.choice(("+", "-", "*", "/")),
    "day": lambda rng: rng.choice(words.DAYS),
    "unit": lambda rng: rng.choice(("celsius", "fahrenheit")),
    "language": lambda rng: rng.choice(("French", "German", "Spanish", "Italian", "Dutch")),
    "from": lambda rng: rng.choice(("USD", "EUR", "GBP")),
    "to": lambda rng: rng.choice(("JPY", "CHF", "SEK")),
    "ticker": lambda rng: "".join(rng.choices("ABCDEFGHIJKLMNOPQRSTUVWXYZ", k=rng.randint(2, 4))),
    "mail": lambda rng: f"{words.any_word(rng, 'train')}@{words.any_word(rng, 'train')}.com",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class KnownTool:
    """A tool with example requests."""

    name: str
    """Of the function."""
    description: str
    """What it does."""
    properties: dict[str, dict[str, Any]]
    """Its parameters; the first is required."""
    requests: tuple[tuple[str, dict[str, str]], ...]
    """Requests, and for each argument what it is: a template of drawn values."""
    attribute: str = "result"
    """What its answer is called."""

    def definition(self) -> dict[str, Any]:
        """Return it in OpenAI's spelling."""
        return definition(
            self.name, self.description, self.properties, required=list(self.properties)[:1]
        )

    def ask(self, rng: Random) -> tuple[str, Arguments]:
        """Return a request with its arguments."""
        request, templates = rng.choice(self.requests)
        drawn = {name: draw(rng) for name, draw in DRAWS.items()}
        arguments: Arguments = {}
        for name, template in templates.items():
            is_text = self.properties[name]["type"] == "string"
            arguments[name] = template.format(**drawn) if is_text else drawn[template.strip("{}")]
        return request.format(**drawn), arguments


def _tool(
    name: str,
    description: str,
    properties: dict[str, dict[str, Any]],
    *requests: tuple[str, dict[str, str]],
    attribute: str = "result",
) -> KnownTool:
    return KnownTool(
        name=name,
        description=description,
        properties=properties,
        requests=requests,
        attribute=attribute,
    )


_WHERE = {"city": "{city}"}
_PAID = {"transaction_id": "{id}"}
_SUM = {"expression": "{a} {sign} {b}"}
_WEATHER_REQUESTS = (
    ("What is the weather in {city}?", _WHERE), ("What's the weather like in {city}?", _WHERE),
    ("Weather in {city}?", _WHERE), ("How is the weather in {city} today?", _WHERE),
    ("Is it raining in {city}?", _WHERE), ("Tell me the weather for {city}.", _WHERE),
)  # fmt: skip
_IN = {"location": "{city}"}

KNOWN_TOOLS: tuple[KnownTool, ...] = (
    _tool("get_weather", "Get the weather of a city.",
          {"city": _TEXT | {"description": "Name of the city"}}, *_WEATHER_REQUESTS,
          attribute="weather"),
    _tool("get_current_weather", "Get the current weather",
          {"location": _TEXT | {"description": "The city and state, e.g. San Francisco, CA"},
           "format": _TEXT | {"enum": ["celsius", "fahrenheit"]}},
          ("What's the weather like today in {city}?", _IN), ("What is the weather in {city}?",
           _IN),
          ("Give me the weather in {city} in {unit}.", _IN | {"format": "{unit}"}),
          attribute="temperature"),
    _tool("retrieve_payment_status", "Get payment status of a transaction",
          {"transaction_id": _TEXT | {"description": "The transaction id."}},
          ("What's the status of my transaction {id}?", _PAID), ("Is the transaction {id} paid?",
           _PAID),
          ("What is the status of payment {id}?", _PAID), ("Check the payment status of {id}.",
           _PAID),
          attribute="status"),
    _tool("retrieve_payment_date", "Get payment date of a transaction",
          {"transaction_id": _TEXT | {"description": "The transaction id."}},
          ("On what date was my transaction {id} made?", _PAID), ("When was {id} paid?", _PAID),
          ("What is the payment date of transaction {id}?", _PAID),
          ("My transaction ID is {id}. What is the date of the payment?", _PAID),
          attribute="date"),
    _tool("calculator", "Compute an arithmetic expression.",
          {"expression": _TEXT | {"description": "Such as 2 + 3"}},
          ("What is {a} {sign} {b}?", _SUM), ("Calculate {a} {sign} {b}.", _SUM),
          ("Use the calculator for {a} {sign} {b}.", _SUM)),
    _tool("calculate", "Evaluate a mathematical expression", {"expression": _TEXT},
          ("How much is {a} {sign} {b}?", _SUM), ("Compute {a} {sign} {b}", _SUM)),
    _tool("add", "Add two numbers.", {"a": _NUMBER, "b": _NUMBER},
          ("What is {a} plus {b}?", {"a": "{a}", "b": "{b}"}),
          ("Add {a} and {b}.", {"a": "{a}", "b": "{b}"})),
    _tool("search", "Search the web.", {"query": _TEXT | {"description": "What to look for"}},
          ("Search for {topic}.", {"query": "{topic}"}), ("Look up {topic}", {"query": "{topic}"}),
          ("Find pages about {topic} on the web.", {"query": "{topic}"}), attribute="page"),
    _tool("web_search", "Search the internet for a query.", {"query": _TEXT},
          ("Search the internet for {topic}.", {"query": "{topic}"}),
          ("What does the web say about {word}?", {"query": "{word}"}), attribute="page"),
    _tool("get_time", "Get the current time in a city.", {"city": _TEXT},
          ("What time is it in {city}?", _WHERE), ("Tell me the time in {city}.", _WHERE),
          attribute="time"),
    _tool("get_stock_price", "Get the current price of a stock.",
          {"symbol": _TEXT | {"description": "Ticker symbol"}},
          ("What is the stock price of {ticker}?", {"symbol": "{ticker}"}),
          ("How much is a share of {ticker}?", {"symbol": "{ticker}"}),
          ("Price of {ticker} stock?", {"symbol": "{ticker}"}), attribute="price"),
    _tool("send_email", "Send an e-mail.", {"to": _TEXT, "subject": _TEXT},
          ("Send an email to {mail} about {topic}.", {"to": "{mail}", "subject": "{topic}"}),
          ("Write to {mail} with the subject {word}.", {"to": "{mail}", "subject": "{word}"}),
          attribute="status"),
    _tool("set_timer", "Set a timer.", {"minutes": _INTEGER},
          ("Set a timer for {n} minutes.", {"minutes": "{n}"}),
          ("Wake me in {n} minutes.", {"minutes": "{n}"}), attribute="status"),
    _tool("translate", "Translate a text.", {"text": _TEXT, "language": _TEXT},
          ("Translate {topic} into {language}.", {"text": "{topic}", "language": "{language}"}),
          ("How do you say {word} in {language}?", {"text": "{word}", "language": "{language}"}),
          attribute="translation"),
    _tool("convert_currency", "Convert an amount of money.",
          {"amount": _NUMBER, "from": _TEXT, "to": _TEXT},
          ("Convert {n} {from} to {to}.", {"amount": "{n}", "from": "{from}", "to": "{to}"}),
          ("How much is {n} {from} in {to}?", {"amount": "{n}", "from": "{from}", "to": "{to}"}),
          attribute="amount"),
    _tool("book_flight", "Book a flight between two cities.",
    {"origin": _TEXT, "destination": _TEXT},
          ("Book a flight from {city} to {other}.", {"origin": "{city}", "destination": "{other}"}),
          ("I want to fly from {city} to {other}.", {"origin": "{city}", "destination": "{other}"}),
          attribute="booking"),
    _tool("create_reminder", "Create a reminder.", {"text": _TEXT, "day": _TEXT},
          ("Remind me of {topic} on {day}.", {"text": "{topic}", "day": "{day}"}), attribute="id"),
    _tool("find_book", "Find a book by its author.", {"author": _TEXT},
          ("Which book did {author} write?", {"author": "{author}"}),
          ("Find a book by {author}.", {"author": "{author}"}), attribute="title"),
    _tool("get_news", "Get the news about a topic.", {"topic": _TEXT},
          ("What is the news about {company}?", {"topic": "{company}"}),
          ("Any news on {word}?", {"topic": "{word}"}), attribute="headline"),
)  # fmt: skip
