"""Fields of ``/v1/rag``: what requests have, and what answers look like."""

from typing import Annotated, Literal

from pydantic import Field, RootModel

from mixtral.server.schemas import Fields, Seed
from mixtral.server.schemas_answers import AnswerFields, UsageInfo

MAX_PASSAGES = 20
"""Most passages of one request; more would not make an answer better, only slower."""

Limit = Annotated[int, Field(ge=1, le=MAX_PASSAGES)]
Question = Annotated[str, Field(min_length=1, max_length=20_000, pattern=r"\S")]


class RagSearchRequest(Fields):
    """What to look for."""

    query: Question
    """A question, or any text."""
    limit: Limit | None = None
    """Most passages. Default 4."""


class RagAskRequest(Fields):
    """A question to the documents."""

    question: Question
    """What to answer."""
    limit: Limit | None = None
    """Most passages to show to the model. Default 4."""
    model: str | None = None
    """A name from ``GET /v1/models``; default the served model."""
    temperature: Annotated[float, Field(ge=0, le=5)] | None = None
    """0, the default here, takes the likeliest token."""
    max_tokens: Annotated[int, Field(ge=1, le=2**31 - 1)] | None = None
    """Longest answer in tokens. Default 256, or a quarter of a short context."""
    seed: Seed | None = None
    """Same seed, same tokens."""
    stream: bool | None = None
    """Send the passages at once, then the answer as it is made. Default false."""


class RagDocument(AnswerFields):
    """A document."""

    object: Literal["rag.document"]
    """What it is."""
    id: str
    """16 hexadecimal digits."""
    source: str
    """The file's path, the URL, or the name of the upload."""
    title: str
    """What it calls itself, or the name of its file."""
    num_chunks: int
    """Passages it was cut into."""
    num_characters: int
    """Length of its text."""
    num_pages: int | None
    """Pages of a PDF; null for everything else."""
    added_at: float
    """When this version of it was added, Unix seconds."""


class RagDocumentText(RagDocument):
    """A document with its text."""

    text: str
    """What was read of it; positions of passages and citations count its Unicode characters. Pages
    of a PDF end with a form feed."""


class RagDocumentList(AnswerFields):
    """All documents."""

    object: Literal["list"]
    """What it is."""
    data: list[RagDocument]
    """In the order of their sources."""


class RagAdded(AnswerFields):
    """What became of one upload."""

    id: str
    """16 hexadecimal digits."""
    source: str
    """The name of the upload."""
    title: str
    """What the document calls itself, or the name of its file."""
    status: Literal["added", "updated", "unchanged", "refused"]
    """In a word."""
    num_chunks: int
    """Passages of it that are stored now."""
    reason: str | None
    """Why it was refused, or what was odd about it."""


class RagAddedList(AnswerFields):
    """What became of the uploads."""

    object: Literal["list"]
    """What it is."""
    data: list[RagAdded]
    """In the order in which they were sent."""


class RagDeleted(AnswerFields):
    """A document that is gone."""

    id: str
    """Its id."""
    object: Literal["rag.document"]
    """What it was."""
    deleted: Literal[True]
    """Always true."""


class RagPassage(AnswerFields):
    """A piece of a document that was found."""

    id: int
    """Its number; never given to another passage."""
    document_id: str
    """Id of the document."""
    source: str
    """The document's source."""
    title: str
    """The document's title."""
    page: int | None
    """From 1; PDF only."""
    start: int
    """Where it begins in the document's text, in characters."""
    end: int
    """Where it ends."""
    heading: str | None
    """Headings above it, outermost first."""
    text: str
    """The piece itself."""
    score: float
    """What the passages were ordered by; of one search only."""
    similarity: float
    """Cosine of question and passage, -1 to 1."""


class RagSearchAnswer(AnswerFields):
    """What was found."""

    object: Literal["list"]
    """What it is."""
    data: list[RagPassage]
    """Best first."""


class RagCitation(AnswerFields):
    """A place that an answer comes from."""

    number: int
    """Which of ``passages``, from 1."""
    document_id: str
    """Id of the document."""
    source: str
    """The document's source."""
    title: str
    """The document's title."""
    page: int | None
    """From 1; PDF only."""
    heading: str | None
    """Headings above it, outermost first."""
    start: int
    """Where the supporting sentences begin in the document's text, in characters."""
    end: int
    """Where they end."""
    text: str
    """These sentences; the whole passage where none was found."""
    is_supported: bool
    """Whether they hold what the answer says; false: the model named the passage, that is all."""


class RagAnswerBody(AnswerFields):
    """An answer, and what it rests on."""

    object: Literal["rag.answer"]
    """What it is."""
    answer: str
    """The text."""
    is_found: bool
    """Whether the documents hold an answer, as far as one can tell."""
    citations: list[RagCitation]
    """Where it comes from."""
    nearest: RagCitation | None
    """Where to read on: the sentence of the passages that has most to do with the question; null
    where a supported citation has as much to do with it, or no sentence shares a word with it."""
    passages: list[RagPassage]
    """What the model was shown; empty where nothing is relevant and it was not asked."""
    passages_left_out: int
    """Passages that did not fit into the context."""
    passage_is_cut: bool
    """Whether the end of the only passage did not fit."""
    unknown_numbers: list[int]
    """Numbers in the text that no passage has."""
    finish_reason: Literal["stop", "length"] | None
    """Why the answer ended; null where the model was not asked."""
    usage: UsageInfo | None
    """Tokens taken; null where the model was not asked."""


class RagPassagesPiece(AnswerFields):
    """The first event: what the model is shown."""

    object: Literal["rag.passages"]
    """What it is."""
    data: list[RagPassage]
    """In the order of their numbers."""


class RagDelta(AnswerFields):
    """A piece of the answer."""

    object: Literal["rag.delta"]
    """What it is."""
    text: str
    """New text."""


class RagErrorBody(AnswerFields):
    """What went wrong after the stream began."""

    message: str
    """One line."""
    type: str
    """Kind of error."""
    param: str | None
    """The field that is wrong."""
    code: str | None
    """A word or number that programs compare."""


class RagFailure(AnswerFields):
    """The last event but one of a stream that failed."""

    object: Literal["rag.error"]
    """What it is."""
    error: RagErrorBody
    """What went wrong."""


class RagPiece(RootModel[RagPassagesPiece | RagDelta | RagAnswerBody | RagFailure]):
    """One event of a streamed answer; the whole answer is the last."""
