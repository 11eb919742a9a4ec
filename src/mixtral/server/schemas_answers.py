"""What answers look like, for the OpenAPI document and the tests; no answer is built from these."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

FinishReason = Literal["stop", "length", "tool_calls"]


class AnswerFields(BaseModel):
    """Base of every answer."""

    model_config = ConfigDict(extra="forbid", strict=True, use_attribute_docstrings=True)


class ErrorDetail(AnswerFields):
    """One wrong field."""

    loc: list[str | int]
    """Where it is; the first part is ``body``."""
    msg: str
    """What is wrong."""
    type: str
    """Kind of mistake."""


class ErrorAnswer(AnswerFields):
    """Every error."""

    object: Literal["error"]
    """What it is."""
    message: str
    """One line: what is wrong, the value, what is allowed."""
    type: str
    """Kind of error, such as invalid_request_error."""
    param: str | None
    """The field that is wrong."""
    code: str | None
    """A word or number that programs compare."""
    detail: list[ErrorDetail] | None = None
    """All wrong fields; with status 422 alone."""


class UsageInfo(AnswerFields):
    """Tokens taken."""

    prompt_tokens: int
    """Tokens of the prompts, each counted once."""
    completion_tokens: int
    """Tokens of all answers."""
    total_tokens: int
    """Both together."""


class TokenRouteAnswer(AnswerFields):
    """Which experts one token visited."""

    token_id: int
    """The token."""
    expert_ids: list[list[int]]
    """L lists of A experts, by falling weight."""
    routing_weights: list[list[float]]
    """Their weights; each list sums to 1."""


class StatusAnswer(AnswerFields):
    """How the server is."""

    object: Literal["status"]
    """What it is."""
    status: Literal["ok", "ready"]
    """In a word."""


class TextLogprobs(AnswerFields):
    """OpenAI's legacy shape: lists with one entry per token."""

    tokens: list[str]
    """Their texts."""
    token_logprobs: list[float]
    """Natural logarithms."""
    top_logprobs: list[dict[str, float]]
    """The likeliest tokens beside each."""
    text_offset: list[int]
    """Where each begins in the answer, in characters."""


class TextChoice(AnswerFields):
    """One answer."""

    index: int
    """Prompt i has the answers i * n to i * n + n - 1."""
    text: str
    """The text; with ``echo`` the prompt and the text."""
    logprobs: TextLogprobs | None
    """Where asked for."""
    finish_reason: FinishReason
    """Why it ended."""
    routing: list[TokenRouteAnswer] | None = None
    """Where asked for."""


class TextCompletionAnswer(AnswerFields):
    """Texts gone on with."""

    id: str
    """Unique."""
    object: Literal["text_completion"]
    """What it is."""
    created: int
    """Unix seconds."""
    model: str
    """The name that the request used."""
    choices: list[TextChoice]
    """The answers."""
    usage: UsageInfo
    """Tokens taken."""


class TextPieceChoice(TextChoice):
    """A piece of one answer."""

    finish_reason: FinishReason | Literal["error"] | None  # type: ignore[assignment]
    """In the last piece."""


class TextCompletionPiece(AnswerFields):
    """One event of a streamed answer."""

    id: str
    """The same in all pieces."""
    object: Literal["text_completion"]
    """What it is."""
    created: int
    """Unix seconds, the same in all pieces."""
    model: str
    """The name that the request used."""
    choices: list[TextPieceChoice]
    """One; none in the extra piece of ``include_usage``."""
    usage: UsageInfo | None = None
    """In the last piece."""
    error: dict[str, Any] | None = None
    """message, type, param and code, where the answer failed."""


class Embedding(AnswerFields):
    """One vector."""

    object: Literal["embedding"]
    """What it is."""
    embedding: list[float] | str
    """The components, or the base64 of their little-endian float32."""
    index: int
    """Which input it is of."""


class EmbeddingAnswer(AnswerFields):
    """Vectors, in the order of the inputs."""

    id: str
    """Unique."""
    object: Literal["list"]
    """What it is."""
    model: str
    """The name that the request used."""
    data: list[Embedding]
    """The vectors, each of length 1."""
    usage: UsageInfo
    """Tokens read."""
    dimension: int
    """Components of each vector."""
    embedding_model: str
    """The model that made them, whatever name the request used."""
    truncated: list[int] | None = None
    """Inputs whose end was cut off; absent when there is none."""
    warning: str | None = None
    """The same in words."""


class ModelCapabilities(AnswerFields):
    """What a model can do."""

    completion_chat: bool
    """Answers conversations."""
    completion_fim: bool
    """Fills in the middle."""
    function_calling: bool
    """Calls tools."""
    fine_tuning: bool
    """Over this API; always false."""
    vision: bool
    """Always false."""
    classification: bool
    """Always false."""


class ModelCard(AnswerFields):
    """A model under one of its names."""

    id: str
    """The name."""
    object: Literal["model"]
    """What it is."""
    created: int
    """When the server started, Unix seconds."""
    owned_by: str
    """Who serves it."""
    name: str
    """The name again, as Mistral has it."""
    aliases: list[str]
    """Its other names."""
    capabilities: ModelCapabilities
    """What it can do."""
    description: str
    """What is behind the name."""
    max_context_length: int | None = None
    """Tokens of prompt and answer; absent while an embedding model is being loaded."""
    default_model_temperature: float | None
    """The temperature without a request's own."""
    deprecation: None
    """Always null."""
    type: Literal["base", "fine-tuned"]
    """Mistral's kind of card; an adapter is fine-tuned."""
    root: str
    """What answers: the model's own name, or the folder of the adapter."""
    parent: str | None
    """Name of the model that an adapter belongs to; null for a model."""
    job: str | None = None
    """Empty for an adapter, which no job of this server made; absent for a model."""
    archived: bool | None = None
    """False for an adapter; absent for a model."""
    permission: list[str]
    """Always empty; old clients look for it."""


class ModelListAnswer(AnswerFields):
    """All models."""

    object: Literal["list"]
    """What it is."""
    data: list[ModelCard]
    """A card for each name."""


class TokensAnswer(AnswerFields):
    """Tokens of a text or a conversation."""

    object: Literal["tokens"]
    """What it is."""
    tokens: list[int]
    """Their ids."""
    count: int
    """How many."""
    max_model_len: int
    """How many the server reads, the answer included."""
    pieces: list[str] | None = None
    """Their texts, where asked for."""


class TextAnswer(AnswerFields):
    """Text of tokens."""

    object: Literal["text"]
    """What it is."""
    text: str
    """The text; control tokens have none."""
