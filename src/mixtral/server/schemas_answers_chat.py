"""What chat answers look like, for the OpenAPI document and the tests."""

from typing import Any, Literal

from mixtral.server.schemas_answers import (
    AnswerFields,
    FinishReason,
    TokenRouteAnswer,
    UsageInfo,
)


class CalledFunctionAnswer(AnswerFields):
    """What to call."""

    name: str
    """Name of the tool."""
    arguments: str
    """A JSON object as text."""


class ToolCallAnswer(AnswerFields):
    """A call that the model wants."""

    id: str
    """Nine letters and digits."""
    type: Literal["function"]
    """The only kind."""
    function: CalledFunctionAnswer
    """What to call."""
    index: int
    """Position among the calls of this answer."""


class TokenLogprobAnswer(AnswerFields):
    """A token and its log-probability."""

    token: str
    """Its text."""
    logprob: float
    """Natural logarithm."""
    bytes: list[int]
    """Its UTF-8 bytes."""
    token_id: int
    """Its id."""


class ChosenLogprobAnswer(TokenLogprobAnswer):
    """A token of the answer, and those that could have stood there."""

    top_logprobs: list[TokenLogprobAnswer]
    """The likeliest tokens, best first."""


class LogprobsAnswer(AnswerFields):
    """Log-probabilities of an answer."""

    content: list[ChosenLogprobAnswer]
    """One per token."""
    refusal: None
    """OpenAI's key; always null."""


class AssistantMessageAnswer(AnswerFields):
    """What the model said."""

    role: Literal["assistant"]
    """Who speaks."""
    content: str
    """The text; empty beside tool calls, never null."""
    tool_calls: list[ToolCallAnswer] | None
    """What it wants called."""


class ChatChoice(AnswerFields):
    """One answer."""

    index: int
    """Which of the n it is."""
    message: AssistantMessageAnswer
    """The message."""
    finish_reason: FinishReason
    """Why it ended."""
    logprobs: LogprobsAnswer | None
    """Where asked for."""
    routing: list[TokenRouteAnswer] | None = None
    """Where asked for."""


class ChatCompletionAnswer(AnswerFields):
    """The answer to a conversation."""

    id: str
    """Unique."""
    object: Literal["chat.completion"]
    """What it is."""
    created: int
    """Unix seconds."""
    model: str
    """The name that the request used."""
    choices: list[ChatChoice]
    """The answers."""
    usage: UsageInfo
    """Tokens taken."""
    data: None
    """Always null; Mistral's description names the key as required."""


class Delta(AnswerFields):
    """What is new."""

    role: Literal["assistant"] | None = None
    """In the first piece."""
    content: str
    """New text; may be empty."""
    tool_calls: list[ToolCallAnswer] | None = None
    """Whole calls."""


class ChatPieceChoice(AnswerFields):
    """A piece of one answer."""

    index: int
    """Which of the n it belongs to."""
    delta: Delta
    """What is new."""
    finish_reason: FinishReason | Literal["error"] | None
    """In the last piece."""
    logprobs: LogprobsAnswer | None = None
    """Where asked for."""
    routing: list[TokenRouteAnswer] | None = None
    """Where asked for."""


class ChatCompletionPiece(AnswerFields):
    """One event of a streamed answer."""

    id: str
    """The same in all pieces."""
    object: Literal["chat.completion.chunk"]
    """What it is."""
    created: int
    """Unix seconds, the same in all pieces."""
    model: str
    """The name that the request used."""
    choices: list[ChatPieceChoice]
    """One; none in the extra piece of ``include_usage``."""
    usage: UsageInfo | None = None
    """In the last piece."""
    error: dict[str, Any] | None = None
    """message, type, param and code, where the answer failed."""
