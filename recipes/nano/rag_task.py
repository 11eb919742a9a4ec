"""Questions over numbered passages, as ``mixtral rag ask`` puts them; the answer quotes a sentence.

What a small model can do with documents is to find the sentence that shares words with the question
and to say it. So a question is made of words that one sentence of the passages has and no other,
and the answer is that sentence with the number of its passage.
"""

import re
from collections import Counter
from random import Random

import words
from conversation import Conversation, dialogue
from novels import Novels
from words import Split, wording

from mixtral.rag.citations import STOP_WORDS
from mixtral.rag.prompt import NOT_FOUND, TEMPLATE, quoted

_SENTENCE = re.compile(r"[A-Z][^.!?\n\"\u201c\u201d]{25,160}[.!?](?=\s|$)")
_WORD = re.compile(r"[A-Za-z]{4,}")
_QUESTIONS = {
    2: (
        "What about {0} and {1}?", "How is {0} {1}?", "Where is {0} {1}?", "{0} {1}?",
        "What is said of {1} and {0}?", "Why does {0} {1}?", "What is the {0} of {1}?",
        "Tell me about the {0} {1}.", "When was {0} {1}?", "Is there {1} in {0}?",
    ),
    3: (
        "What about {0}, {1} and {2}?", "How does {0} {1} the {2}?", "{0} {1} {2}",
        "Which {0} is {1} with {2}?", "What do {0} and {1} have to do with {2}?",
        "How are {0} and {1} {2}?", "Can {0} {2} a {1}?",
    ),
}  # fmt: skip
_NAMES = ("{}.md", "{}.txt", "{}.pdf, page {n}", "{}.html", "{}", "{}.md, {}", "docs/{}.md")
_UNKNOWN_SHARE = 0.06


def make_rag(rng: Random, split: Split, novels: Novels) -> Conversation:
    """Ask about a sentence of one to four passages; some questions are about none of them."""
    while True:
        texts = [
            novels.piece(rng, split, rng.randint(150, 500)).text
            for _ in range(rng.choice((1, 2, 2, 3, 3, 4)))
        ]
        number = rng.randrange(len(texts))
        drawn = _draw_sentence(rng, texts, number)
        if drawn is None:
            continue
        sentence, asked = drawn
        is_unknown = len(texts) > 1 and rng.random() < _UNKNOWN_SHARE
        if is_unknown:
            del texts[number]
        question = wording(rng, split, _QUESTIONS[len(asked)]).format(*asked)
        context = "\n\n".join(
            f"[{index}] {_name(rng, split)}\n{quoted(text)}"
            for index, text in enumerate(texts, start=1)
        )
        answer = NOT_FOUND if is_unknown else f"{sentence} [{number + 1}]"
        content = TEMPLATE.format(context=context, not_found=NOT_FOUND, question=question)
        return dialogue(content, answer, task="rag")


def _draw_sentence(rng: Random, texts: list[str], number: int) -> tuple[str, list[str]] | None:
    """Return a sentence of a text, and two or three words that it alone has, in its order."""
    sentences = _SENTENCE.findall(texts[number])
    if not sentences:
        return None
    sentence = rng.choice(sentences)
    counts = Counter(word.lower() for text in texts for word in _WORD.findall(text))
    own = [word.lower() for word in _WORD.findall(sentence) if counts[word.lower()] == 1]
    own = [word for word in own if word not in STOP_WORDS]
    if len(own) < 3:
        return None
    places = sorted(rng.sample(range(len(own)), rng.choice((2, 3))))
    return sentence, [own[place] for place in places]


def _name(rng: Random, split: Split) -> str:
    pattern = rng.choice(_NAMES)
    drawn = words.any_words(rng, split, pattern.count("{}"))
    return pattern.format(*drawn, n=rng.randint(1, 40))
