"""Sums, differences, products and quotients, answered with the bare number or the equation.

The tokenizer spells numbers digit by digit. Sums and differences of two numbers are split into
training and held-out problems by a hash of the problem, both orders of a sum together; the table
of products up to 12 x 12 and its quotients are small and meant to be known by heart, so held-out
cases ask for them in other words only.
"""

from random import Random

from conversation import Conversation, dialogue
from words import Split, is_heldout, wording

QUESTIONS = (
    "What is {}?", "{}", "{} =", "{} = ?", "Calculate {}.", "Compute {}.", "How much is {}?",
    "What's {}?", "Tell me what {} is.", "Please calculate {}", "Solve: {}", "Work out {}.",
    "{}?", "Can you tell me {}?", "Give me the result of {}.", "What does {} make?",
)  # fmt: skip
EQUATIONS = (
    "What is {}? Write the equation.", "Calculate {} and show the equation.",
    "Write out {} with its result.", "Show the whole equation: {}", "Complete: {} =",
)  # fmt: skip
STORIES = {
    "+": (
        "I have {a} apples and get {b} more. How many apples do I have?",
        "There are {a} birds on a tree and {b} more come. How many birds are there now?",
        "A box holds {a} red balls and {b} blue balls. How many balls are in the box?",
        "Add {a} and {b}.",
        "What is the sum of {a} and {b}?",
    ),
    "-": (
        "I have {a} apples and give away {b}. How many apples are left?",
        "There are {a} birds on a tree and {b} fly away. How many birds are left?",
        "A shop has {a} books and sells {b}. How many books are left?",
        "Subtract {b} from {a}.",
        "What is the difference between {a} and {b}?",
    ),
    "*": (
        "There are {a} boxes with {b} balls each. How many balls are there?",
        "Multiply {a} by {b}.",
        "What is the product of {a} and {b}?",
    ),
    "/": (
        "Divide {a} by {b}.",
        "{a} apples are shared by {b} children. How many does each get?",
    ),
}
SIGNS = {
    "+": ("+", "+", "+", "plus"),
    "-": ("-", "-", "-", "minus"),
    "*": ("*", "*", "x", "times"),
    "/": ("/", "divided by"),
}


def make_arithmetic(rng: Random, split: Split = "train") -> Conversation:
    """Ask for one result, in training often for several in a row."""
    if split == "heldout" or rng.random() < 0.3:
        return dialogue(*_turn(rng, split), task="skills")
    turns = [text for _ in range(rng.randint(2, 6)) for text in _turn(rng, split)]
    return dialogue(*turns, task="skills")


def make_sums(rng: Random, split: Split = "train") -> str:
    """Write a page of worked equations, as plain text for pretraining."""
    style = rng.choice(("{} = {}", "{} = {}", "{} is {}", "{}={}"))
    kind = rng.choice(("+", "+", "-", "-", "*", "/", "", ""))
    lines = []
    for _ in range(rng.randint(10, 40)):
        a, b, sign = draw_problem(rng, split, kind)
        lines.append(style.format(f"{a} {sign} {b}", solve(a, b, sign)))
    return rng.choice(("\n", "\n", ", ")).join(lines)


def draw_problem(rng: Random, split: Split, sign: str = "") -> tuple[int, int, str]:
    """Draw two numbers and a sign; quotients are whole, and few differences are negative.

    Sums and differences are held out by a hash, both orders together. The table of products is in
    both halves: it is learned by heart, and held-out cases ask for it in other words.
    """
    while True:
        drawn = sign or rng.choice(("+", "+", "+", "-", "-", "-", "*", "/"))
        if drawn == "*":
            return rng.randint(0, 12), rng.randint(0, 12), drawn
        if drawn == "/":
            a, b = rng.randint(0, 12), rng.randint(1, 12)
            return a * b, b, drawn
        largest = rng.choice((10, 20, 99, 99, 99, 999, 999))
        a, b = rng.randint(0, largest), rng.randint(0, largest)
        if drawn == "-" and a < b and rng.random() < 0.9:
            a, b = b, a
        low, high = sorted((a, b))
        if is_heldout(f"{low}{drawn}{high}") == (split == "heldout"):
            return a, b, drawn


def solve(a: int, b: int, sign: str) -> int:
    """Return a + b, a - b, a * b or the whole quotient a / b."""
    if sign == "/":
        return a // b
    return {"+": a + b, "-": a - b, "*": a * b}[sign]


def _turn(rng: Random, split: Split) -> tuple[str, str]:
    a, b, sign = draw_problem(rng, split)
    result = solve(a, b, sign)
    if result >= 0 and rng.random() < 0.2:
        return wording(rng, split, STORIES[sign]).format(a=a, b=b), str(result)
    problem = f"{a} {rng.choice(SIGNS[sign])} {b}"
    if "+" in problem and rng.random() < 0.15:
        problem = problem.replace(" ", "")
    if rng.random() < 0.12:
        return rng.choice(EQUATIONS).format(problem), f"{problem} = {result}"
    return wording(rng, split, QUESTIONS).format(problem), str(result)
