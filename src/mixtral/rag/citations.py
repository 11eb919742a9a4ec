"""Which sentence of which passage an answer comes from.

A large model names its passages, ``[2]``; a small one answers with a bare span of the text and
names none. So each sentence of an answer is looked for in the passages, too:

1. word for word, whatever the case and the spaces and punctuation between the words;
2. else by its content words: one or two neighbouring sentences that have at least ``MIN_SHARE`` of
   them, two of them or more, and every number.

Where several sentences would do, such as for the answer "blue", the one that shares most words with
the question is taken. A number that the model wrote itself is kept even if no sentence of that
passage supports it, and ``is_supported`` says so: whoever reads the answer should know.

Words are those of the keyword index, without a plural s; that is English, and harmless elsewhere.
"""

import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass

from mixtral.rag.records import Passage
from mixtral.rag.words import STOP_WORDS, index_terms

MIN_SHARE = 0.6
"""Least share of a sentence's content words that its source has."""

_LONGEST_EXACT = 80  # Words; a longer sentence is found by its content words.
_WORD = re.compile(r"\w+")
_MARK = re.compile(r"\[(\d{1,4}(?:\s*[,;]\s*\d{1,4})*)\]")
_MARKS_BEHIND = re.compile(r"([.!?])\s*((?:\[\d[\d\s,;]*\]\s*)+)")
_CODE = re.compile(r"```.*?(?:```|\Z)|`[^`\n]*`", re.DOTALL)
# A sentence ends with its mark, a paragraph with an empty line, an item of a list with its line.
_SENTENCE_END = re.compile(
    r"(?<=[.!?])[\"'\u201d\u2019)\]]*\s+|(?<=[\u3002\uff01\uff1f])|\n\s*\n"
    r"|\n(?=\s*(?:[-*+#|>]|\d+[.)]\s))"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Citation:
    """A place in a document that an answer comes from."""

    number: int
    """Which of the passages that the model was shown, from 1."""
    passage: Passage
    """That passage."""
    start: int
    """Where the supporting sentences begin in the document's text, in characters."""
    end: int
    """Where they end."""
    text: str
    """The supporting sentences; the whole passage where none was found."""
    is_supported: bool
    """Whether they hold what the answer says; False: the model named the passage, that is all."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Support:
    """Sentences of a passage that may be the source of a sentence of the answer."""

    position: int  # of the passage, from 0
    start: int  # in the text of the passage
    end: int
    share: float  # of the words of the answer; above 1 where they are there word for word
    num_asked: int  # words of the question

    @property
    def rank(self) -> tuple[float, int, int, int]:
        """Return what a better one has more of; draws go to better passages and shorter runs."""
        return self.share, self.num_asked, -self.position, self.start - self.end


class _Source:
    """A passage cut into sentences, with the content words of each."""

    def __init__(self, position: int, text: str, asked: Set[str]) -> None:
        self._position = position
        self._text = text
        self._asked = asked
        self._spans = sentence_spans(text)
        self._words = [content_words(text[start:end]) for start, end in self._spans]

    def supports(self, sentence: str) -> Iterator[_Support]:
        """Yield every run of sentences that holds a sentence of the answer."""
        wanted = content_words(sentence)
        if not wanted:
            return
        exact = list(self._exact(sentence))
        yield from exact or self._similar(wanted)

    def _exact(self, sentence: str) -> Iterator[_Support]:
        words = _WORD.findall(sentence)
        if len(words) > _LONGEST_EXACT:
            return
        pattern = r"(?<!\w)" + r"\W+".join(map(re.escape, words)) + r"(?!\w)"
        for match in re.finditer(pattern, self._text, re.IGNORECASE):
            touched = [
                index
                for index, (start, end) in enumerate(self._spans)
                if start < match.end() and end > match.start()
            ]
            yield self._support(touched[0], touched[-1], share=2.0)

    def _similar(self, wanted: Set[str]) -> Iterator[_Support]:
        numbers = {word for word in wanted if word[0].isdigit()}
        for first in range(len(self._spans)):
            for last in range(first, min(first + 2, len(self._spans))):
                shared = wanted & (self._words[first] | self._words[last])
                share = len(shared) / len(wanted)
                if len(shared) >= 2 and share >= MIN_SHARE and numbers <= shared:
                    yield self._support(first, last, share=share)

    def _support(self, first: int, last: int, *, share: float) -> _Support:
        words: set[str] = set().union(*self._words[first : last + 1])
        return _Support(
            position=self._position,
            start=self._spans[first][0],
            end=self._spans[last][1],
            share=share,
            num_asked=len(self._asked & words),
        )


def find_citations(answer: str, passages: Sequence[Passage], *, question: str) -> list[Citation]:
    """Return where an answer comes from: at most one place in each passage.

    Args:
        answer: What the model wrote.
        passages: What it was shown, in the order of their numbers.
        question: What was asked; decides between sentences that hold the same words.

    Returns:
        Citations in the order in which the answer needs them.
    """
    asked = content_words(question)
    sources = [_Source(i, passage.text, asked) for i, passage in enumerate(passages)]
    found: dict[int, Citation] = {}
    for sentence in _sentences_of_answer(answer):
        numbers = [n for n in _numbers(sentence) if 1 <= n <= len(passages)]
        words = _MARK.sub(" ", sentence)
        supports = {n: _best(words, [sources[n - 1]]) for n in numbers}
        if not numbers and (best := _best(words, sources)) is not None:
            supports[best.position + 1] = best
        for number, support in supports.items():
            citation = _citation(number, passages[number - 1], support)
            if number not in found or (citation.is_supported and not found[number].is_supported):
                found[number] = citation
    return list(found.values())


def nearest_sentence(
    question: str, passages: Sequence[Passage], cited: Sequence[Citation] = ()
) -> Citation | None:
    """Return the sentence that has most to do with a question, for where no answer comes from it.

    It has the most of the question's content words, each weighed by how few of the sentences have
    it (Sparck Jones, "A statistical interpretation of term specificity", 1972), with those of the
    heading above it. Draws go to the better passage, then to the shorter sentence. A sentence that
    says the question again answers nothing and is left out.

    Args:
        question: What was asked.
        passages: What was found for it, best first.
        cited: Where an answer comes from. Sentences that support it are as good as any other with
            as much of the question.

    Returns:
        The sentence, as one that supports no answer; None where none shares a word with the
        question, or none shares more than what is cited.
    """
    asked, again = content_words(question), _WORD.findall(question.casefold())
    found = [
        (sentence, asked & _words_of(sentence))
        for sentence in _sentences_of(passages)
        if not _has_run(_WORD.findall(sentence.text.casefold()), again)
    ]
    num_with = Counter(word for _, shared in found for word in shared)

    def _weight(shared: Set[str]) -> float:
        return sum(math.log(1 + len(found) / max(1, num_with[word])) for word in shared)

    def _rank(sentence: Citation, shared: Set[str]) -> tuple[float, int, int]:
        return _weight(shared), -sentence.number, sentence.start - sentence.end

    best, shared = max(found, key=lambda one: _rank(*one), default=(None, set()))
    supported = [asked & _words_of(citation) for citation in cited if citation.is_supported]
    if not shared or any(_weight(words) >= _weight(shared) for words in supported):
        return None
    return best


def _sentences_of(passages: Sequence[Passage]) -> Iterator[Citation]:
    """Yield all sentences, as ones that support no answer."""
    for number, passage in enumerate(passages, start=1):
        for start, end in sentence_spans(passage.text):
            yield Citation(
                number=number,
                passage=passage,
                start=passage.start + start,
                end=passage.start + end,
                text=passage.text[start:end],
                is_supported=False,
            )


def _words_of(citation: Citation) -> set[str]:
    """Return the content words of cited sentences and of the heading above them."""
    return content_words(citation.text) | content_words(citation.passage.heading or "")


def _has_run(words: Sequence[str], run: Sequence[str]) -> bool:
    size = len(run)
    return any(words[i : i + size] == run for i in range(len(words) - size + 1))


def unknown_numbers(answer: str, num_passages: int) -> list[int]:
    """Return the numbers of passages in an answer that no passage has.

    >>> unknown_numbers("It is so [1, 7]; see `x[9]`.", 4)
    [7]
    """
    numbers = dict.fromkeys(_numbers(_without_marks_in_code(answer)))
    return [number for number in numbers if not 1 <= number <= num_passages]


def content_words(text: str) -> set[str]:
    """Return the words of a text that say what it is about.

    >>> sorted(content_words("How are the weights of int4 packed?"))
    ['int4', 'packed', 'weight']
    """
    words = set(index_terms(text).replace("_", " ").split()) - STOP_WORDS
    return {word[:-1] if len(word) > 3 and word.endswith("s") else word for word in words}


def sentence_spans(text: str) -> list[tuple[int, int]]:
    """Return where the sentences of a text begin and end, without the space around them.

    >>> sentence_spans("One. Two?  Three")
    [(0, 4), (5, 9), (11, 16)]
    """
    ends = [(match.start(), match.end()) for match in _SENTENCE_END.finditer(text)]
    starts = [0, *(end for _, end in ends)]
    stops = [*(end for _, end in ends), len(text)]
    spans = []
    for start, stop in zip(starts, stops, strict=True):
        piece = text[start:stop]
        if piece.strip():
            start += len(piece) - len(piece.lstrip())
            spans.append((start, start + len(piece.strip())))
    return spans


def _citation(number: int, passage: Passage, support: _Support | None) -> Citation:
    start, end = (0, len(passage.text)) if support is None else (support.start, support.end)
    return Citation(
        number=number,
        passage=passage,
        start=passage.start + start,
        end=passage.start + end,
        text=passage.text[start:end],
        is_supported=support is not None,
    )


def _sentences_of_answer(answer: str) -> Iterator[str]:
    """Yield the sentences, each with the numbers of its passages; short ones with their next."""
    text = _without_marks_in_code(answer)
    # A number behind the full stop belongs to what was said before it.
    text = _MARKS_BEHIND.sub(r" \2\1 ", text)
    waiting = ""
    spans = sentence_spans(text)
    for start, end in spans:
        waiting = f"{waiting} {text[start:end]}".strip()
        # "Mr." or "Yes." alone could come from anywhere.
        if len(content_words(_MARK.sub(" ", waiting))) >= 2 or _MARK.search(waiting):
            yield waiting
            waiting = ""
    if waiting:
        yield waiting


def _without_marks_in_code(answer: str) -> str:
    """Return an answer in which ``x[1]`` in code does not look like the number of a passage."""
    return _CODE.sub(lambda match: match[0].replace("[", "("), answer)


def _numbers(text: str) -> list[int]:
    return [int(n) for match in _MARK.finditer(text) for n in re.findall(r"\d+", match[1])]


def _best(sentence: str, sources: Sequence[_Source]) -> _Support | None:
    supports = (support for source in sources for support in source.supports(sentence))
    return max(supports, key=lambda support: support.rank, default=None)
