"""From a question to an answer that says where it comes from.

    >>> from mixtral import LLM                                          # doctest: +SKIP
    >>> from mixtral.rag.ask import ask                                  # doctest: +SKIP
    >>> ask(LLM("nano"), collection, "How is int4 packed?").citations    # doctest: +SKIP

The steps, of which ``Ask`` has all that need no model, so that the command line and the server take
the same ones:

1. the collection finds passages;
2. ``Ask.relevant`` leaves those that have to do with the question; without any, the answer is "Not
   in the documents." and the model is not asked: it would make something up;
3. ``Ask.prompt`` fits them into the context;
4. the model answers;
5. ``Ask.read`` finds the citations, or the sentence to read where the answer has none.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Protocol

from mixtral.errors import ConfigError
from mixtral.outputs import CompletionChunk, Usage
from mixtral.rag.citations import (
    Citation,
    content_words,
    find_citations,
    nearest_sentence,
    unknown_numbers,
)
from mixtral.rag.prompt import NOT_FOUND, Messages, RagPrompt, check_question, fit_prompt
from mixtral.rag.records import Passage

if TYPE_CHECKING:
    from mixtral.engine import SamplingParams
    from mixtral.llm import LLM

__all__ = [
    "DEFAULT_LIMIT",
    "Ask",
    "Citation",
    "RagAnswer",
    "Searchable",
    "answer_from",
    "ask",
    "not_found",
    "room_for_prompt",
]

DEFAULT_LIMIT = 4
"""Passages per question, as in Mistral's guide."""

DEFAULT_MAX_TOKENS = 256
"""Longest answer in tokens, where the context has room for it."""

_REFUSALS = ("not in the documents", "the text does not say", "the documents do not say")


class Searchable(Protocol):
    """What finds passages: a ``Collection``, or anything that searches like one."""

    def search(self, question: str, *, limit: int = DEFAULT_LIMIT) -> list[Passage]:
        """Return passages, best first."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class RagAnswer:
    """An answer, and what it rests on."""

    text: str
    """What the model wrote, or "Not in the documents."."""
    is_found: bool
    """Whether the documents hold an answer, as far as one can tell."""
    citations: list[Citation]
    """Where it comes from; empty where no passage supports it."""
    passages: list[Passage]
    """What the model was shown, in the order of their numbers; empty where it was not asked."""
    usage: Usage | None
    """Tokens taken; None where the model was not asked."""
    finish_reason: str | None = None
    """"stop", or "length" where the answer was cut off; None where the model was not asked."""
    num_left_out: int = 0
    """Passages that were found but did not fit into the context."""
    is_cut: bool = False
    """Whether the end of the only passage did not fit."""
    unknown_numbers: tuple[int, ...] = ()
    """Numbers in the text that no passage has."""
    nearest: Citation | None = None
    """Where to read on: of the passages, the sentence that has most to do with the question. None
    where a supported citation has as much to do with it, or no sentence shares a word with it."""

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON has it: what ``/v1/rag/ask`` answers and ``rag ask --json`` prints."""
        usage = self.usage
        return {
            "object": "rag.answer",
            "answer": self.text,
            "is_found": self.is_found,
            "citations": [_citation_dict(citation) for citation in self.citations],
            "nearest": None if self.nearest is None else _citation_dict(self.nearest),
            "passages": [asdict(passage) for passage in self.passages],
            "passages_left_out": self.num_left_out,
            "passage_is_cut": self.is_cut,
            "unknown_numbers": list(self.unknown_numbers),
            "finish_reason": self.finish_reason,
            "usage": None
            if usage is None
            else asdict(usage) | {"total_tokens": usage.total_tokens},
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Ask:
    """Everything around the model: which passages it is shown, and what its answer rests on.

    A passage counts as relevant if its similarity reaches ``sure_similarity``, or if it reaches
    ``min_similarity`` and the passage has at least ``min_keyword_share`` of the question's content
    words. The numbers are for all-MiniLM-L6-v2; docs/rag.md says how to find those of another one.

    Raises:
        ConfigError: A number is outside its range.
    """

    sure_similarity: float = 0.45
    """Cosine from which a passage is relevant whatever its words."""
    min_similarity: float = 0.2
    """Cosine below which it never is; -1 asks the model about whatever was found."""
    min_keyword_share: float = 0.5
    """Share of the question's content words that a passage between the two needs, 0 to 1."""

    def __post_init__(self) -> None:
        """Check the numbers."""
        for name, low in (
            ("min_similarity", -1),
            ("sure_similarity", -1),
            ("min_keyword_share", 0),
        ):
            value = getattr(self, name)
            if not isinstance(value, int | float) or not low <= value <= 1:
                raise ConfigError(f"{name} is {value!r}; it must be a number from {low} to 1.")

    def is_relevant(self, question: str, passage: Passage) -> bool:
        """Return whether a passage has to do with a question."""
        if passage.similarity >= self.sure_similarity:
            return True
        if passage.similarity < self.min_similarity:
            return False
        wanted = content_words(question)
        there = content_words(f"{passage.title} {passage.heading or ''} {passage.text}")
        # Of a question without a content word ("What is it?") the similarity is all there is.
        return bool(wanted) and len(wanted & there) >= self.min_keyword_share * len(wanted)

    def relevant(self, question: str, passages: Sequence[Passage]) -> list[Passage]:
        """Return the passages that have to do with a question, in their order."""
        return [passage for passage in passages if self.is_relevant(question, passage)]

    def prompt(
        self,
        question: str,
        passages: Sequence[Passage],
        *,
        count_tokens: Callable[[Messages], int],
        max_prompt_tokens: int,
    ) -> RagPrompt:
        """Return what the model is asked; see ``prompt.fit_prompt``."""
        return fit_prompt(
            question, passages, count_tokens=count_tokens, max_prompt_tokens=max_prompt_tokens
        )

    def read(
        self,
        answer: str,
        prompt: RagPrompt,
        *,
        question: str,
        usage: Usage | None = None,
        finish_reason: str | None = None,
    ) -> RagAnswer:
        """Return what the model wrote with its citations.

        Args:
            answer: The text of the answer.
            prompt: What it was asked.
            question: The question in it.
            usage: Tokens taken.
            finish_reason: Why it ended.
        """
        text = answer.strip()
        is_found = bool(text) and not _is_refusal(text)
        shown = prompt.passages
        citations = find_citations(text, shown, question=question) if is_found else []
        return RagAnswer(
            text=text,
            is_found=is_found,
            citations=citations,
            passages=shown,
            usage=usage,
            finish_reason=finish_reason,
            num_left_out=prompt.num_left_out,
            is_cut=prompt.is_cut,
            unknown_numbers=tuple(unknown_numbers(text, len(shown))),
            nearest=nearest_sentence(question, shown, citations),
        )


def ask(
    llm: "LLM",
    collection: Searchable,
    question: str,
    *,
    limit: int = DEFAULT_LIMIT,
    params: "SamplingParams | None" = None,
    on_text: Callable[[str], None] | None = None,
    settings: Ask | None = None,
) -> RagAnswer:
    """Answer a question from the documents of a collection.

    Args:
        llm: The model.
        collection: The documents.
        question: What to answer.
        limit: Most passages to show to the model.
        params: How to choose tokens; None takes the likeliest ones, 256 at most.
        on_text: Called with each piece of the answer as it is made.
        settings: What counts as relevant.

    Returns:
        The answer; its text is "Not in the documents." and the model was not asked where no passage
        is relevant.

    Raises:
        InvalidRequest: The question is empty, or ``params.n`` is not 1.
        ContextLengthExceeded: Question and answer leave no room for a passage.
    """
    check_question(question)
    settings = settings or Ask()
    passages = settings.relevant(question, collection.search(question, limit=limit))
    return answer_from(llm, question, passages, params=params, on_text=on_text, settings=settings)


def answer_from(
    llm: "LLM",
    question: str,
    passages: Sequence[Passage],
    *,
    params: "SamplingParams | None" = None,
    on_text: Callable[[str], None] | None = None,
    settings: Ask | None = None,
) -> RagAnswer:
    """Answer a question from passages that are relevant; as ``ask``, without the search."""
    if not passages:
        if on_text is not None:
            on_text(NOT_FOUND)
        return not_found()
    from mixtral.engine import SamplingParams

    settings = settings or Ask()
    params = params or SamplingParams(temperature=0.0)
    room = room_for_prompt(llm.max_model_len, params.max_tokens)
    prompt = settings.prompt(
        question,
        passages,
        count_tokens=lambda messages: len(llm.encode_chat(messages)),
        max_prompt_tokens=room,
    )
    if params.max_tokens is None:
        params = params.replace(max_tokens=llm.max_model_len - room)
    texts: list[str] = []
    last: CompletionChunk | None = None
    for last in llm.stream_chat(prompt.messages, params):
        texts.append(last.text)
        if on_text is not None and last.text:
            on_text(last.text)
    assert last is not None, "a stream has a last piece"
    return settings.read(
        "".join(texts),
        prompt,
        question=question,
        usage=last.usage,
        finish_reason=last.finish_reason,
    )


def not_found() -> RagAnswer:
    """Return the answer that is given without asking the model."""
    return RagAnswer(text=NOT_FOUND, is_found=False, citations=[], passages=[], usage=None)


def room_for_prompt(max_model_len: int, max_tokens: int | None) -> int:
    """Return how many tokens a prompt may have.

    Args:
        max_model_len: Tokens of the context.
        max_tokens: Tokens of the answer; None: 256, or a quarter of a short context.

    >>> room_for_prompt(32_768, None), room_for_prompt(512, None), room_for_prompt(2048, 100)
    (32512, 384, 1948)
    """
    if max_tokens is None:
        max_tokens = min(DEFAULT_MAX_TOKENS, max_model_len // 4)
    return max_model_len - max_tokens


def _is_refusal(text: str) -> bool:
    """Return whether a model says that the passages do not hold the answer."""
    return " ".join(text.casefold().split()).startswith(_REFUSALS)


def _citation_dict(citation: Citation) -> dict[str, Any]:
    passage = citation.passage
    return {
        "number": citation.number,
        "document_id": passage.document_id,
        "source": passage.source,
        "title": passage.title,
        "page": passage.page,
        "heading": passage.heading,
        "start": citation.start,
        "end": citation.end,
        "text": citation.text,
        "is_supported": citation.is_supported,
    }
