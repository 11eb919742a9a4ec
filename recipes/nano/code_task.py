"""Small Python functions on request: a fixed list, and variations with names and numbers to copy.

The functions of the fixed list are known by heart; their held-out cases are wordings of the request
that training never shows. The variations ("a function named river that adds 7") have held-out
names.
"""

from random import Random

import words
from conversation import Conversation, dialogue
from functions import FUNCTIONS
from words import Split

SYSTEM = (
    "You are a helpful code assistant that help with writing Python code for a user requests. "
    "Please only produce the function and avoid explaining."
)

# {to} is "add two numbers", {that} is "adds two numbers".
TRAIN_REQUESTS = (
    "Create a Python function to {to}.", "Write a Python function to {to}.",
    "Write a Python function that {that}.", "Write a function that {that}.",
    "Write a function to {to} in Python.", "Give me a Python function that {that}.",
    "Please write a Python function to {to}.", "I need a Python function that {that}.",
    "Make a function that {that}.", "Python function to {to}", "Create a function that {that}.",
    "Can you write a Python function to {to}?", "How do I {to} in Python?",
    "Write Python code to {to}.", "Implement a function that {that}.",
    "Define a Python function which {that}.", "Show me a Python function that {that}.",
    "Code a function to {to}.", "Could you write a Python function to {to}?",
    "I want a Python function that {that}.", "Please give me a small Python function that {that}.",
    "Show me a Python function which {that}.", "Write me a function which {that}.",
    "Give me Python code to {to}.", "Can you show me how to {to} in Python?",
    "I would like to {to} in Python.", "Please define a short function that {that}.",
    "Could you create a function which {that}?", "Let me see Python code which {that}.",
)  # fmt: skip
HELDOUT_REQUESTS = (
    "Could you please give me a Python function to {to}?", "Show me how to {to} with Python.",
    "I would like a Python function which {that}.", "Write a short Python function that {that}.",
)  # fmt: skip

# {n} is a name to copy, {k} a number, {w} a word.
VARIATIONS: tuple[tuple[str, str], ...] = (
    ("Write a Python function named {n} that adds {k} to a number.",
     "def {n}(x):\n    return x + {k}"),
    ("Write a Python function called {n} that multiplies a number by {k}.",
     "def {n}(x):\n    return x * {k}"),
    ("Write a function {n} that subtracts {k} from a number.", "def {n}(x):\n    return x - {k}"),
    ("Create a function {n} that divides a number by {k}.", "def {n}(x):\n    return x / {k}"),
    ("Write a function named {n} that returns {k}.", "def {n}():\n    return {k}"),
    ("Write a function named {n} that returns the word {w}.", "def {n}():\n    return '{w}'"),
    ("Write a Python function {n} that prints {w}.", "def {n}():\n    print('{w}')"),
    ("Make a function {n} that checks if a number is larger than {k}.",
     "def {n}(x):\n    return x > {k}"),
    ("Make a function {n} that checks if a number is less than {k}.",
     "def {n}(x):\n    return x < {k}"),
    ("Write a function {n} that checks if a number is divisible by {k}.",
     "def {n}(x):\n    return x % {k} == 0"),
    ("Define a function {n} that checks if a text contains the word {w}.",
     "def {n}(text):\n    return '{w}' in text"),
    ("Set the variable {n} to {k} in Python.", "{n} = {k}"),
    ("Make a Python list named {n} with {k} and {w}.", "{n} = [{k}, '{w}']"),
)  # fmt: skip


def make_code(rng: Random, split: Split = "train") -> Conversation:
    """Ask for one function."""
    system = SYSTEM if rng.random() < 0.35 else ""
    if rng.random() < 0.3:
        request, code = rng.choice(VARIATIONS)
        values = {
            "n": words.THINGS.draw(rng, split),
            "k": rng.randint(2, 20),
            "w": words.ANIMALS.draw(rng, split),
        }
        return dialogue(request.format(**values), code.format(**values), task="code", system=system)
    to, that, code = rng.choice(FUNCTIONS)
    requests = TRAIN_REQUESTS if split == "train" else HELDOUT_REQUESTS
    return dialogue(rng.choice(requests).format(to=to, that=that), code, task="code", system=system)
