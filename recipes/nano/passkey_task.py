"""A key hidden in a novel, asked for at the end: the test of long contexts, in many wordings.

The first wording is that of Mixtral's own tests (arXiv:2401.04088, figure 4: "passkey retrieval";
the prompt is of arXiv:2305.16300). Keys are numbers of four to seven digits or words; those
of held-out cases are never trained on, nor is the novel around them. Most training texts are short,
because a copy learned over 200 tokens carries over to 4,000 once some of those are seen.
"""

from random import Random

from conversation import Conversation, dialogue
from novels import Novels, Piece, filler_of
from words import Split, any_word, capitalised_words, is_heldout, number, wording

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
# Training has more ways to say the key before its name, which is what is hard to look up: at
# the key nothing has said yet what it will be.
_KEY_FIRST = (
    "{k} is my {n}.", "{k} is your {n}.", "{k} was the {n}.", "{k} will be the {n}.",
    "And {k} is the {n}.", "{k}, that is the {n}.", "It is {k} that is the {n}.",
    "Know that {k} is the {n}.", "Use {k} as the {n}.", "They chose {k} as the {n}.",
    "{k} is the new {n}.", "Take {k} for the {n}.", "{k} is the only {n}.", "{k} is our {n}.",
    "{k}: this is the {n}.", "{k} has always been the {n}.", "{k} is the {n} here.",
    "{k} is the right {n}.", "{k} became the {n}.", "So {k} is the {n}.", "{k} is her {n}.",
    "{k} is the {n}, do not forget.", "{k} is the {n} that counts.", "{k} makes a good {n}.",
)  # fmt: skip
_KEY_FIRST_SHARE = 0.35
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
# Training has many more: a verb, how much of it, what; or a question about where it stood.
_VERBS = ("Say", "Give", "Give me", "Return", "Print", "Write", "Tell me", "Show me", "Output",
          "Answer with", "Reply with", "Name", "Quote", "Copy", "Send me", "Find", "Repeat",
          "State", "Write down", "Recall")  # fmt: skip
_ONLY = ("", "", "only ", "just ", "nothing but ", "exactly ")
_WHAT = ("the {n}", "the {n}", "the {n} from the text", "the {n} of the story", "the {n} you read",
         "the {n} that is hidden above", "the {n} I mentioned", "the {n} in the text")  # fmt: skip
_ASKED = ("What", "Which")
_WHERE = ("did you read", "stands in the text", "was hidden", "was given", "is named above",
          "did I tell you", "is in the story", "is hidden in the text", "was in the text",
          "does the text name", "did I mention", "do you remember", "is it")  # fmt: skip
_OPEN_NAMES = ("{} number", "{} code", "{} word", "{} key", "{}", "{} name")
_MORE_SHARE = 0.6
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
    name = _name(rng, split)
    statement = _statement(rng, split)
    key = _key(rng, split, name)
    inserted = statement.format(n=name, k=key) + " "
    at = rng.choice(piece.sentence_starts())
    if at == len(piece.text):
        inserted = f" {inserted.rstrip()}"
    question = rng.choice(_GAPS) + _question(rng, split, name)
    head = wording(rng, split, HEADS).format(n=name)
    return _ask(piece, head, inserted, at, question, key, split=split, task=task or "passkey")


def make_passkeys(rng: Random, novels: Novels, num_tokens: int) -> Conversation:
    """Hide two to six keys of different names in one text of training, and ask for each."""
    piece = novels.piece(rng, "train", int((num_tokens - 200) * CHARACTERS_PER_TOKEN))
    keys: dict[str, str] = {}
    for _ in range(rng.randint(2, 6)):
        name = _name(rng, "train")
        # No name may be a part of another: "the code" would be any of them.
        if not any(name in other or other in name for other in keys):
            keys[name] = _key(rng, "train", name)
    starts = [at for at in piece.sentence_starts() if at < len(piece.text)]
    places = sorted(rng.choices(starts, k=len(keys)), reverse=True)
    text = piece.text
    for at, (name, key) in zip(places, keys.items(), strict=True):
        stated = _statement(rng, "train").format(n=name, k=key)
        text = f"{text[:at]}{stated} {text[at:]}"
    turns: list[str] = []
    for name in rng.sample(list(keys), len(keys)):
        turns += [_question(rng, "train", name), keys[name]]
    turns[0] = text + rng.choice(_GAPS) + turns[0]
    return dialogue(*turns, task="long")


def _statement(rng: Random, split: Split) -> str:
    if split == "train" and rng.random() < _KEY_FIRST_SHARE:
        return rng.choice(_KEY_FIRST)
    return wording(rng, split, STATEMENTS)


def _name(rng: Random, split: Split) -> str:
    if split == "train" and rng.random() < 0.3:
        return rng.choice(_OPEN_NAMES).format(any_word(rng, split))
    return wording(rng, split, NAMES)


def _question(rng: Random, split: Split, name: str) -> str:
    if split == "heldout" or rng.random() >= _MORE_SHARE:
        return wording(rng, split, QUESTIONS).format(n=name)
    while True:
        if rng.random() < 0.6:
            asked = f"{rng.choice(_VERBS)} {rng.choice(_ONLY)}{rng.choice(_WHAT)}."
        else:
            asked = f"{rng.choice(_ASKED)} {{n}} {rng.choice(_WHERE)}?"
        if not is_heldout(asked):
            return asked.format(n=name)


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
    if name.endswith(" word"):
        return any_word(rng, split)
    if split == "train" and rng.random() < 0.2:
        return rng.choice(capitalised_words()) if rng.random() < 0.3 else any_word(rng, split)
    if name == "password" and rng.random() < 0.5:
        return any_word(rng, split)
    digits = rng.choice((4, 5, 5, 5, 6, 7))
    return str(number(rng, split, 10 ** (digits - 1), 10**digits - 1))
