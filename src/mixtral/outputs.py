"""What a generation gives back. Importing this file does not import torch."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, kw_only=True, slots=True)
class Usage:
    """Tokens that a request took."""

    prompt_tokens: int
    """Tokens of the prompt."""
    completion_tokens: int
    """Generated tokens, the end token included."""

    @property
    def total_tokens(self) -> int:
        """Both together."""
        return self.prompt_tokens + self.completion_tokens


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenChoice:
    """One generated token and what stood beside it."""

    token_id: int
    """The token."""
    token: str
    """Its text."""
    logprob: float
    """Its natural log-probability under the model, before temperature and penalties."""
    top_logprobs: Mapping[int, float]
    """Likeliest token ids with their log-probabilities, best first."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenRoute:
    """Which experts one token visited."""

    token_id: int
    """The token."""
    expert_ids: list[list[int]]
    """Experts in the order of their weight, L lists of A."""
    routing_weights: list[list[float]]
    """Their weights, L lists of A; each list sums to 1."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Completion:
    """One finished answer."""

    text: str
    """The answer, without stop string and control tokens; empty for a model without tokenizer."""
    token_ids: list[int]
    """Generated token ids, the end token included."""
    finish_reason: Literal["stop", "length", "tool_calls"]
    """"stop": end token or stop string; "length": max_tokens or the context was reached."""
    usage: Usage
    """Tokens taken."""
    logprobs: list[TokenChoice] | None = None
    """One entry per generated token, where asked for."""
    index: int = 0
    """Which of the ``n`` answers to its prompt this is."""
    routing: list[TokenRoute] | None = None
    """One entry per token of prompt and answer but the last, which no step ran; where asked for."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FunctionCall:
    """A function that the model wants called."""

    name: str
    """Name of the tool."""
    arguments: str
    """Its arguments, a JSON object as text."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ToolCall:
    """A call with its id."""

    id: str
    """Nine letters and digits."""
    function: FunctionCall
    """What to call."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ChatCompletion(Completion):
    """One finished turn of a conversation."""

    tool_calls: list[ToolCall] = field(default_factory=list)
    """Functions that the model wants called; empty when there is none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CompletionChunk:
    """A piece of an answer while it is made."""

    text: str
    """New text; may be empty while a character or a stop string is incomplete."""
    token_ids: list[int]
    """New tokens."""
    finish_reason: Literal["stop", "length", "tool_calls"] | None
    """Set in the last piece alone."""
    usage: Usage
    """Tokens taken so far."""
    index: int = 0
    """Which of the ``n`` answers this belongs to."""
    tool_calls: list[ToolCall] = field(default_factory=list)
    """Calls that became complete with this piece."""
    logprobs: list[TokenChoice] = field(default_factory=list)
    """One entry per new token, where asked for."""
    routing: list[TokenRoute] = field(default_factory=list)
    """Tokens that the model ran since the last piece, where asked for."""
