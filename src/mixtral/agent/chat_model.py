"""What an agent asks of a model, and an ``LLM`` in this process that answers it.

The one question is: here are a conversation and tools, what comes next? ``HttpModel`` answers it
through a server. Anything else with a ``next_turn`` will do, a list of prepared turns in a test
for one.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

from mixtral.outputs import ToolCall

if TYPE_CHECKING:
    from collections.abc import Generator

    from mixtral.engine import SamplingParams
    from mixtral.outputs import CompletionChunk


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelTurn:
    """One answer of a model."""

    text: str
    """What it said; may be empty beside calls."""
    finish_reason: Literal["stop", "length", "tool_calls", "timeout"]
    """As in ``Completion``, or that ``timeout_s`` ended it."""
    tool_calls: list[ToolCall] = field(default_factory=list)
    """The tools that it wants called."""
    prompt_tokens: int = 0
    """Tokens of the conversation."""
    completion_tokens: int = 0
    """Tokens of the answer."""


@runtime_checkable
class ChatModel(Protocol):
    """Answers conversations in which tools may be called."""

    def next_turn(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]],
        tool_choice: str | Mapping[str, Any],
        parallel_tool_calls: bool,
        params: "SamplingParams | None",
        timeout_s: float | None,
    ) -> ModelTurn:
        """Return the next turn of a conversation.

        Args:
            messages: The conversation, as in OpenAI's API.
            tools: What may be called, as in OpenAI's API.
            tool_choice: auto, none, any (or required), or the function to call.
            parallel_tool_calls: Whether one answer may hold several calls.
            params: How to choose tokens and when to stop; None takes the model's own way.
            timeout_s: Seconds after which the answer ends with "timeout"; None waits for it.
        """


class StreamsChat(Protocol):
    """The part of ``LLM`` that an agent uses."""

    def stream_chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        params: "SamplingParams | None" = None,
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        tool_choice: str | Mapping[str, Any] = "auto",
        parallel_tool_calls: bool = True,
        adapter: str | None = None,
    ) -> "Generator[CompletionChunk, None, None]":
        """Yield an answer piece by piece; see ``LLM.stream_chat``."""


class LocalModel:
    """An ``LLM`` in this process.

    Args:
        llm: The model. Nothing else may use it while it answers.
        adapter: Name of an adapter; None asks the model as it is.
    """

    def __init__(self, llm: StreamsChat, *, adapter: str | None = None) -> None:
        self._llm = llm
        self._adapter = adapter

    def next_turn(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]],
        tool_choice: str | Mapping[str, Any],
        parallel_tool_calls: bool,
        params: "SamplingParams | None",
        timeout_s: float | None,
    ) -> ModelTurn:
        """Return the next turn; see ``ChatModel.next_turn``.

        Raises:
            InvalidRequest: The conversation or a tool is wrong.
            ContextLengthExceeded: The conversation does not fit into the context.
        """
        start = time.perf_counter()
        # Streamed, because only so can an answer be ended in its middle.
        stream = self._llm.stream_chat(
            messages,
            params,
            tools=tools or None,
            tool_choice=tool_choice,
            parallel_tool_calls=parallel_tool_calls,
            adapter=self._adapter,
        )
        text: list[str] = []
        calls: list[ToolCall] = []
        finish_reason: Literal["stop", "length", "tool_calls"] | None = None
        usage = None
        try:
            for chunk in stream:
                text.append(chunk.text)
                calls += chunk.tool_calls
                finish_reason, usage = chunk.finish_reason, chunk.usage
                if timeout_s is not None and time.perf_counter() - start > timeout_s:
                    break
        finally:
            stream.close()
        return ModelTurn(
            text="".join(text),
            finish_reason=finish_reason or "timeout",
            tool_calls=calls,
            prompt_tokens=usage.prompt_tokens if usage else 0,
            completion_tokens=usage.completion_tokens if usage else 0,
        )
