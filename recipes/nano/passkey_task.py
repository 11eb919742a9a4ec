"""A key hidden in a novel, asked for at the end: the test of long contexts, in many wordings.

The first wording is that of Mixtral's own tests (arXiv:2401.04088, figure 4: "passkey retrieval";
the prompt is of arXiv:2305.16300). Keys are numbers of four to seven digits or words; those
of held-out cases are never trained on, nor is the novel around them. Most training texts are short,
because a copy learned over 200 tokens carries over to 4,000 once some of those are seen.
"""

from random import Random

from conversation import Conversation, dialogue
from novels import Novels, Piece, filler_of
from words import Split, any_word, number, wording

CHARACTERS_PER_TOKEN = 4.0  # novels in the v3 tokenizer; a little less than the mean

# {n} is what the key is called, {k} the key.
STATEMENTS = (
    "The {n} is {k}. Remember it. {k} is the {n}.", "The {n} is {k}. Remember it.",
    "The {n} is {k}.", "Remember: the {n} is {k}.", "Note that the {n} is {k}.",
    "Here is the {n}: {k}.", "The {n} is {k}. Do not forget it.", "{k} is the {n}.",
    "Important: {k} is the {n}. Keep it in mind.", "My {n} is {k}.", "{n} = {k}",
    "By the way, the {n} is {k}.", "Keep this in mind: the {n} is {k}.", "The {n} was {k}.",
    "Please remember that {k} is the {n}.", "Your {n} is {k}. Keep it safe.",
)  # fmt: skip
NAMES = (
    "pass key", "pass key", "pass key", "passkey", "secret number", "magic number", "secret code",
    "password", "access code", "secret word", "key", "code", "PIN", "door code", "magic word",
    "lucky number", "room number", "special number", "hidden number", "code word",
)  # fmt: skip
QUESTIONS = (
    "What is the {n}?", "What is the {n}? The {n} is", "What was the {n}?", "Tell me the {n}.",
    "Which {n} is in the text?", "Find the {n} in the text.", "Give me the {n}.",
    "What {n} is mentioned in the text?", "Say only the {n}.", "What is the {n} that I told you?",
    "Repeat the {n}.", "Do you remember the {n}?", "Now, what is the {n}?", "State the {n}.",
)  # fmt: skip
_GAPS = ("\n\n", "\n\n", "\n", " ")
HEADS = (
    "", "", "There is an important info hidden inside a lot of irrelevant text. Find it and "
    "memorize it. I will quiz you about the important information there.\n\n",
    "Read this text.\n\n", "Text:\n", "Somewhere in this text there is a {n}.\n\n",
    "Remember the {n} in this text.\n\n", "Look for the {n}.\n\n",
)  # fmt: skip


def make_passkey(
    rng: Random, split: Split, novels: Novels, *, num_tokens: int | None = None, task: str = ""
) -> Conversation:
    """Hide a key in a piece of a novel, anywhere.

    Args:
        rng: Draws everything.
        split: Which half keys, wordings and novels are from.
        novels: Where text comes from.
        num_tokens: Rough length of the whole question; None draws one, mostly short.
        task: Name of the task; ``passkey`` by default.
    """
    tokens = num_tokens or rng.choice((60, 100, 150, 200, 300, 400))
    piece = novels.piece(rng, split, int((tokens - 60) * CHARACTERS_PER_TOKEN) + 60)
    name = wording(rng, split, NAMES)
    statement = wording(rng, split, STATEMENTS)
    key = _key(rng, split, name)
    inserted = statement.format(n=name, k=key) + " "
    at = rng.choice(piece.sentence_starts())
    if at == len(piece.text):
        inserted = f" {inserted.rstrip()}"
    question = rng.choice(_GAPS) + wording(rng, split, QUESTIONS).format(n=name)
    head = wording(rng, split, HEADS).format(n=name)
    return _ask(piece, head, inserted, at, question, key, split=split, task=task or "passkey")


def _ask(
    piece: Piece,
    head: str,
    inserted: str,
    at: int,
    question: str,
    key: str,
    *,
    split: Split,
    task: str,
) -> Conversation:
    if split == "heldout":
        text = f"{head}{{filler}}{question}"
        return dialogue(text, key, task=task, filler=filler_of(piece, inserted, at))
    text = piece.text[:at] + inserted + piece.text[at:]
    return dialogue(f"{head}{text}{question}", key, task=task)


def _key(rng: Random, split: Split, name: str) -> str:
    if name in ("secret word", "magic word", "code word"):
        return any_word(rng, split)
    if name == "password" and rng.random() < 0.5:
        return any_word(rng, split)
    digits = rng.choice((4, 5, 5, 5, 6, 7))
    return str(number(rng, split, 10 ** (digits - 1), 10**digits - 1))
