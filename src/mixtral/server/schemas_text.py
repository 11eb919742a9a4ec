"""Fields of ``/v1/completions``, ``/v1/fim/completions``, ``/v1/tokenize`` and its opposite."""

from collections.abc import Mapping
from typing import Annotated, ClassVar

from pydantic import Field

from mixtral.server.schemas import Fields, ResponseFormat, SamplingFields, Texts, TokenId, TokenIds
from mixtral.server.schemas_chat import Message, ToolDefinition

MAX_PROMPTS = 128
"""Prompts of one request, and answers to all of them."""

SomeTokenIds = Annotated[list[TokenId], Field(min_length=1, fail_fast=True)]


class CompletionRequest(SamplingFields):
    """A text, or several, to be gone on with."""

    unsupported: ClassVar[Mapping[str, str]] = {
        "suffix": "POST /v1/fim/completions fills in text before a suffix.",
    }

    prompt: (
        str
        | Annotated[Texts, Field(min_length=1, max_length=MAX_PROMPTS)]
        | SomeTokenIds
        | Annotated[list[SomeTokenIds], Field(min_length=1, max_length=MAX_PROMPTS, fail_fast=True)]
    )
    """A text, texts, token ids, or lists of token ids. A text gets ``<s>`` in front."""
    echo: bool | None = None
    """Repeat the prompt at the beginning of each answer. Not together with ``logprobs``."""
    logprobs: Annotated[int, Field(ge=0, le=5)] | None = None
    """Report the log-probability of every token, and of this many beside it."""
    best_of: Annotated[int, Field(ge=1, le=128)] | None = None
    """Only the same as ``n``: no answers are made to be thrown away."""
    response_format: ResponseFormat | None = None
    """What the answer looks like."""
    routing: bool | None = None
    """Report which experts each token visited; ours. Default false."""
    suffix: None = None
    """Not supported here; null. Use ``/v1/fim/completions``."""


class FIMCompletionRequest(SamplingFields):
    """A gap to be filled."""

    prompt: str
    """The text before the gap."""
    suffix: str | None = None
    """The text behind it."""


class TokenizeRequest(Fields):
    """A text or a conversation to be counted."""

    model: str | None = None
    """A name from ``GET /v1/models``; null takes the one there is."""
    text: str | None = None
    """A text; either this or ``messages``."""
    bos: bool | None = None
    """Put ``<s>`` in front of ``text``. Default true."""
    messages: Annotated[list[Message], Field(min_length=1, fail_fast=True)] | None = None
    """A conversation."""
    tools: Annotated[list[ToolDefinition], Field(fail_fast=True)] | None = None
    """Functions that the model may call; with ``messages``."""
    safe_prompt: bool | None = None
    """Put Mistral's official safety text first; with ``messages``. Default false."""
    pieces: bool | None = None
    """Also return the text of each token. Default false."""


class DetokenizeRequest(Fields):
    """Token ids to be read."""

    model: str | None = None
    """A name from ``GET /v1/models``; null takes the one there is."""
    tokens: TokenIds
    """Token ids."""
