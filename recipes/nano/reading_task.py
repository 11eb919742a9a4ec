"""Questions over a given paragraph whose answer stands in it.

A paragraph holds two to five facts about people and things between sentences that have nothing to
do with them. The question asks for one fact: the answer is the span, or a short sentence where the
question says so. One case in ten asks for what the text does not say; some hide a pass key among
repeated sentences, as long-context tests do.
"""

from collections.abc import Callable
from random import Random

import words
from conversation import Conversation, dialogue, with_articles
from words import Split
from words_task import make_sentence

UNKNOWN = "The text does not say."

# kind: (sentences, questions, full sentence); {p} is the person, {v} the value.
FACTS: dict[str, tuple[tuple[str, ...], tuple[str, ...], str]] = {
    "job": (
        ("{p} is a {v}.", "{p} works as a {v}.", "{p} has been a {v} for many years."),
        ("What is the job of {p}?", "What does {p} do for a living?", "What does {p} work as?"),
        "{p} is a {v}.",
    ),
    "city": (
        ("{p} lives in {v}.", "{p} moved to {v} last year.", "The home of {p} is in {v}."),
        ("Where does {p} live?", "In which city does {p} live?", "What city is {p} living in?"),
        "{p} lives in {v}.",
    ),
    "year": (
        ("{p} was born in {v}.", "{p} came into the world in {v}."),
        ("When was {p} born?", "In which year was {p} born?", "What year was {p} born in?"),
        "{p} was born in {v}.",
    ),
    "pet": (
        ("{p} has a pet {v}.", "{p} keeps a {v} at home.", "{p} owns a {v}."),
        ("What pet does {p} have?", "Which animal does {p} own?", "What animal does {p} keep?"),
        "{p} has a {v}.",
    ),
    "colour": (
        ("The favourite colour of {p} is {v}.", "{p} likes the colour {v} best."),
        ("What is the favourite colour of {p}?", "Which colour does {p} like best?"),
        "The favourite colour of {p} is {v}.",
    ),
    "food": (
        ("{p} loves to eat {v}.", "The favourite food of {p} is {v}.", "{p} eats {v} every day."),
        ("What does {p} like to eat?", "What is the favourite food of {p}?"),
        "{p} likes to eat {v}.",
    ),
    "hobby": (
        ("{p} enjoys {v}.", "The hobby of {p} is {v}.", "On weekends {p} spends time on {v}."),
        ("What is the hobby of {p}?", "What does {p} do for fun?", "What does {p} enjoy?"),
        "The hobby of {p} is {v}.",
    ),
    "friend": (
        ("The best friend of {p} is {v}.", "{p} and {v} are best friends."),
        ("Who is the best friend of {p}?", "What is the name of {p}'s best friend?"),
        "The best friend of {p} is {v}.",
    ),
    "age": (
        ("{p} is {v} years old.", "{p} turned {v} this year."),
        ("How old is {p}?", "What is the age of {p}?"),
        "{p} is {v} years old.",
    ),
    "company": (
        ("{p} works for {v}.", "{p} has an office at {v}."),
        ("Which company does {p} work for?", "Where does {p} work?"),
        "{p} works for {v}.",
    ),
    "day": (
        ("{p} comes home on {v}.", "{p} has a meeting on {v}.", "The visit of {p} is on {v}."),
        ("On which day is {p} busy?", "Which day is named for {p}?"),
        "The day of {p} is {v}.",
    ),
    "country": (
        ("{p} comes from {v}.", "{p} grew up in {v}."),
        ("Which country is {p} from?", "What country does {p} come from?"),
        "{p} comes from {v}.",
    ),
    "thing": (
        ("{p} bought a {v} at the market.", "{p} found a {v} in the street."),
        ("What did {p} get?", "Which thing did {p} bring home?"),
        "{p} got a {v}.",
    ),
    "place": (
        ("The {p} is in {v}.", "You can find the {p} in {v}.", "The {p} was taken to {v}."),
        ("Where is the {p}?", "In which place is the {p}?"),
        "The {p} is in {v}.",
    ),
    "paint": (
        ("The {p} is {v}.", "The {p} was painted {v}.", "The colour of the {p} is {v}."),
        ("What colour is the {p}?", "Which colour does the {p} have?"),
        "The {p} is {v}.",
    ),
}

FRAMES = (
    "{t}\n\n{q}", "{t}\n{q}", "{t} {q}", "Read the text and answer the question.\n\n{t}\n\n{q}",
    "Text: {t}\nQuestion: {q}", "Text: {t}\n\nQuestion: {q}\nAnswer:", "{q}\n\n{t}",
    "Answer the question from the text.\nText: {t}\nQuestion: {q}", "Here is a text: {t}\n{q}",
    "Context: {t}\n\nQuestion: {q}", "Use the paragraph to answer.\n\n{t}\n\n{q}",
    "Passage:\n{t}\n\n{q}", "Given this paragraph, {q}\n\n{t}",
)  # fmt: skip
FULL = (" Answer in a full sentence.", " Please answer with a sentence.", " Use a full sentence.")
FILLER = (
    "The weather was fine that day.", "It rained a little in the morning.", "The grass is green.",
    "The sky is blue.", "The sun is yellow.", "Here we go.", "There and back again.",
    "Nobody knew what would come next.", "The streets were full of people.", "It was late.",
    "The old house stood at the end of the road.", "A clock struck somewhere.",
    "Most of the shops were closed.", "The train was on time.", "Children played in the park.",
    "Everyone was glad to be there.", "The music could be heard from far away.",
    "Winter came early that year.", "The coffee was still warm.", "A letter lay on the table.",
    "The door was open.", "They talked for a long time.", "It was not easy at first.",
    "The news spread quickly.", "In the evening the wind grew stronger.", "All was quiet.",
)  # fmt: skip
HAYSTACK = (
    "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again. "
)
KEY_FRAMES = (
    ("The pass key is {k}. Remember it. {k} is the pass key. ", "What is the pass key?"),
    ("The pass key is {k}. Remember it. ", "What is the pass key? The pass key is"),
    ("The magic number is {k}. ", "What is the magic number?"),
    ("The secret code is {k}. Do not forget it. ", "What is the secret code?"),
    ("The number of the room is {k}. ", "What is the number of the room?"),
)


def make_reading(rng: Random, split: Split = "train") -> Conversation:
    """Ask one question over a paragraph, in training sometimes a second one."""
    if rng.random() < 0.12:
        return _pass_key(rng)
    facts = [_fact(rng, split) for _ in range(rng.randint(2, 5))]
    if rng.random() < 0.3:
        shared = facts[0][1]
        facts = [(kind, shared, value) for kind, _, value in facts if kind not in _THINGS]
        facts = list({kind: (kind, who, value) for kind, who, value in facts}.values())
    facts = _unambiguous(facts) or [_fact(rng, split)]
    text = _paragraph(rng, split, facts)
    question, answer = _question(rng, split, facts)
    turns = [rng.choice(FRAMES).format(t=text, q=question), answer]
    if split == "train" and rng.random() < 0.3:
        second = _question(rng, split, facts)
        turns += second if second[0] != question else ()
    return dialogue(*turns, task="reading")


_THINGS = ("place", "paint")


def _fact(rng: Random, split: Split) -> tuple[str, str, str]:
    kind = rng.choice(sorted(FACTS))
    if kind in _THINGS:
        who = words.THINGS.draw(rng, split)
    else:
        who = rng.choice((words.first_name(rng, split), " ".join(words.person(rng, split))))
    return kind, who, _value(rng, split, kind)


def _unambiguous(facts: list[tuple[str, str, str]]) -> list[tuple[str, str, str]]:
    kept: dict[tuple[str, str], tuple[str, str, str]] = {}
    for kind, who, value in facts:
        kept.setdefault((kind, who.split()[0]), (kind, who, value))
    return list(kept.values())


def _value(rng: Random, split: Split, kind: str) -> str:
    makers: dict[str, Callable[[Random, Split], str]] = {
        "job": words.JOBS.draw, "city": words.city, "pet": words.ANIMALS.draw,
        "colour": words.COLOURS.draw, "food": words.FOODS.draw, "hobby": words.HOBBIES.draw,
        "friend": words.first_name, "company": words.COMPANIES.draw,
        "country": words.COUNTRIES.draw, "thing": words.THINGS.draw, "place": words.city,
        "paint": words.COLOURS.draw,
    }  # fmt: skip
    if kind == "year":
        return str(rng.randint(1900, 2020))
    if kind == "age":
        return str(rng.randint(5, 95))
    if kind == "day":
        return rng.choice(words.DAYS)
    return makers[kind](rng, split)


def _paragraph(rng: Random, split: Split, facts: list[tuple[str, str, str]]) -> str:
    sentences = [rng.choice(FACTS[kind][0]).format(p=who, v=value) for kind, who, value in facts]
    for _ in range(rng.randint(0, 4)):
        filler = make_sentence(rng, split) if rng.random() < 0.3 else rng.choice(FILLER)
        sentences.insert(rng.randint(0, len(sentences)), filler)
    return with_articles(" ".join(sentences))


def _question(rng: Random, split: Split, facts: list[tuple[str, str, str]]) -> tuple[str, str]:
    kind, who, value = rng.choice(facts)
    if rng.random() < 0.1:
        other = words.first_name(rng, split)
        known = " ".join(person for _, person, _ in facts)
        if kind not in _THINGS and other not in known:
            return rng.choice(FACTS[kind][1]).format(p=other), UNKNOWN
    question = rng.choice(FACTS[kind][1]).format(p=who)
    if rng.random() < 0.15:
        return question + rng.choice(FULL), with_articles(FACTS[kind][2].format(p=who, v=value))
    return question, value


def _pass_key(rng: Random) -> Conversation:
    statement, question = rng.choice(KEY_FRAMES)
    key = words.digits(rng, rng.choice((3, 4, 5, 5)))
    before, after = rng.randint(0, 5), rng.randint(0, 5)
    text = HAYSTACK * before + statement.format(k=key) + HAYSTACK * after
    head = rng.choice(("", "There is important information hidden in this text. Find it. "))
    return dialogue(f"{head}{text}{question}", key, task="reading")
