"""Fields of ``/v1/route`` and what it answers."""

from typing import Annotated, Literal

from pydantic import Field

from mixtral.server.schemas import Fields
from mixtral.server.schemas_answers import AnswerFields
from mixtral.server.schemas_chat import Message, ToolDefinition
from mixtral.server.schemas_text import SomeTokenIds


class RouteRequest(Fields):
    """A prompt whose tokens are to be followed: a conversation, a text or token ids."""

    model: str | None = None
    """A name from ``GET /v1/models``, of an adapter too; null takes the model as it is."""
    messages: Annotated[list[Message], Field(min_length=1, fail_fast=True)] | None = None
    """A conversation, as in ``/v1/chat/completions``."""
    tools: Annotated[list[ToolDefinition], Field(fail_fast=True)] | None = None
    """Functions that the model may call; with ``messages``."""
    safe_prompt: bool | None = None
    """Put Mistral's official safety text first; with ``messages``. Default false."""
    prompt: str | None = None
    """A text; it gets ``<s>`` in front."""
    tokens: SomeTokenIds | None = None
    """Token ids; nothing is added to them."""


class RouteAnswer(AnswerFields):
    """Which experts each token visited: T tokens, L layers, A experts per token."""

    object: Literal["routing"]
    """What it is."""
    tokens: list[int]
    """T ids of tokens, control tokens included."""
    pieces: list[str]
    """Their texts, T of them."""
    num_layers: int
    """L, layers of the model."""
    num_experts: int
    """E, experts of each layer."""
    num_experts_per_tok: int
    """A, experts that a token visits in each layer."""
    expert_ids: list[list[list[int]]]
    """[T, L, A], numbers from 0 to E - 1 by falling weight."""
    routing_weights: list[list[list[float]]]
    """[T, L, A], in four decimals; those of one layer sum to 1."""
