"""Fields of ``/v1/chat/completions``.

Messages are checked twice: their shape here, who may speak after whom by the tokenizer, which owns
the template.
"""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from mixtral.server.schemas import Count, Fields, ResponseFormat, SamplingFields

UNSUPPORTED_FIELDS = {
    "reasoning_effort": "Mixtral is no reasoning model.",
    "prompt_mode": "Mixtral is no reasoning model.",
    "prediction": "this server does not take predicted outputs.",
    "guardrails": "this server has no moderation model.",
    "service_tier": "this server has one tier; priority orders requests.",
    "store": "this server stores no answers.",
    "modalities": "Mixtral writes text only.",
    "audio": "Mixtral writes text only.",
    "web_search_options": "this server does not search the web.",
    "functions": "it is OpenAI's old name; use tools.",
    "function_call": "it is OpenAI's old name; use tool_choice.",
    "prompt_logprobs": "log-probabilities are reported for the answer only.",
    "top_prompt_logprobs": "log-probabilities are reported for the answer only.",
    "verbosity": "Mixtral has no such setting; ask for it in the prompt.",
    "prompt_cache_retention": "the prefix cache keeps blocks while there is room.",
}
"""Why each of these takes its harmless values alone."""


class TextChunk(Fields):
    """A piece of a message; Mixtral reads text only."""

    type: Literal["text"] = "text"
    """Kind of piece."""
    text: str
    """The text."""
    cache_control: Any = None
    """A note for another API; has no effect."""
    annotations: Any = None
    """A note for another API; has no effect."""


class CalledFunction(Fields):
    """The function of a tool call in the history."""

    name: str
    """Name of the tool."""
    arguments: str | dict[str, Any] | None = None
    """Its arguments: a JSON object, or one written as a string."""


class MessageToolCall(Fields):
    """A tool call in the history."""

    id: str | None = None
    """As the model's answer had it; nine letters and digits."""
    type: Literal["function"] | None = None
    """Kind of tool."""
    index: int | None = None
    """Position among the calls; has no effect."""
    function: CalledFunction
    """What was called."""


class Message(Fields):
    """One message of a conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    """``developer`` is OpenAI's newer name for ``system``."""
    content: str | list[TextChunk] | None = None
    """The text; null or absent only for an assistant that called tools."""
    name: str | None = None
    """Of a tool result, the tool; otherwise without effect."""
    tool_calls: list[MessageToolCall] | None = None
    """Of an assistant: what it called."""
    tool_call_id: str | None = None
    """Of a tool result: which call it answers; absent, the next open one."""
    prefix: bool | None = None
    """Of a last assistant message: true lets the answer begin with it."""
    refusal: None = None
    """OpenAI's clients send it back as null."""
    audio: None = None
    """OpenAI's clients send it back as null."""
    function_call: None = None
    """OpenAI's clients send it back as null."""
    reasoning_content: None = None
    """Some clients send it back as null."""
    parsed: None = None
    """OpenAI's clients send it back as null."""
    annotations: Any = None
    """A note of the client; has no effect."""
    cache_control: Any = None
    """A note for another API; has no effect."""
    id: Any = None
    """A note of the client; has no effect."""
    index: Any = None
    """A note of the client; has no effect."""
    type: Any = None
    """A note of the client; has no effect."""
    weight: Any = None
    """A note of the client; has no effect."""


class FunctionDefinition(Fields):
    """A function that the model may call."""

    name: Annotated[str, Field(pattern="^[a-zA-Z0-9_-]{1,64}$")]
    """Letters, digits, ``_`` and ``-``."""
    description: str | None = None
    """What it does, for the model."""
    parameters: dict[str, Any] | None = None
    """JSON schema of its arguments."""
    strict: bool | None = None
    """Has no effect: arguments always follow the schema."""


class ToolDefinition(Fields):
    """A tool that the model may use."""

    type: Literal["function"] | None = None
    """The only kind there is."""
    function: FunctionDefinition
    """The function."""


class FunctionName(Fields):
    """Names one function."""

    name: str
    """Name of the tool."""


class NamedTool(Fields):
    """Forces the call of one tool."""

    type: Literal["function"] | None = None
    """The only kind there is."""
    function: FunctionName
    """The function to call."""


class ContentPrediction(Fields):
    """Mistral's default of ``prediction``, which predicts nothing."""

    type: Literal["content"] = "content"
    """The only kind."""
    content: Literal[""] = ""
    """Empty."""


class ChatCompletionRequest(SamplingFields):
    """A conversation to be answered."""

    unsupported: ClassVar[Mapping[str, str]] = UNSUPPORTED_FIELDS

    messages: Annotated[list[Message], Field(min_length=1, fail_fast=True)]
    """The conversation so far."""
    max_completion_tokens: Count | None = None
    """OpenAI's newer name of ``max_tokens``."""
    safe_prompt: bool | None = None
    """Put Mistral's official safety text first. Default false."""
    tools: Annotated[list[ToolDefinition], Field(fail_fast=True)] | None = None
    """Functions that the model may call."""
    tool_choice: Literal["auto", "none", "any", "required"] | NamedTool | None = None
    """``any`` (Mistral) and ``required`` (OpenAI) are the same. Default auto."""
    parallel_tool_calls: bool | None = None
    """Whether one answer may call several tools. Default true."""
    response_format: ResponseFormat | None = None
    """What the answer looks like."""
    logprobs: bool | None = None
    """Report the log-probability of every token. Default false."""
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    """And of this many likeliest tokens beside it; only with ``logprobs``."""
    routing: bool | None = None
    """Report which experts each token visited; ours. Default false."""
    reasoning_effort: Literal["none"] | None = None
    """Not supported; ``none`` or null."""
    prompt_mode: None = None
    """Not supported; null."""
    prediction: ContentPrediction | None = None
    """Not supported; null, or empty as in Mistral's default."""
    guardrails: Annotated[list[Any], Field(max_length=0)] | None = None
    """Not supported; null or empty."""
    service_tier: Literal["auto", "default"] | None = None
    """Not supported; ``auto``, ``default`` or null."""
    store: Literal[False] | None = None
    """Not supported; false or null."""
    modalities: Annotated[list[Literal["text"]], Field(min_length=1, max_length=1)] | None = None
    """Not supported; ``["text"]`` or null."""
    audio: None = None
    """Not supported; null."""
    web_search_options: None = None
    """Not supported; null."""
    functions: None = None
    """Not supported; null. Use ``tools``."""
    function_call: None = None
    """Not supported; null. Use ``tool_choice``."""
    prompt_logprobs: Literal[False] | None = None
    """Not supported; false or null."""
    top_prompt_logprobs: None = None
    """Not supported; null."""
    verbosity: None = None
    """Not supported; null."""
    prompt_cache_retention: None = None
    """Not supported; null."""
