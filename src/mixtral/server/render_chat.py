"""Chat answers in the shape that all of Mistral's and OpenAI's clients accept.

What looks odd is some client's need: ``content`` is "" and not null beside tool calls, every piece
has ``finish_reason``, a tool call comes whole in one piece, ``usage`` comes with the last one, and
a whole answer has ``data: null``, because Mistral's own description names that key as required.
"""

from collections.abc import Sequence
from typing import Any

from mixtral.outputs import CompletionChunk, TokenChoice, ToolCall, Usage
from mixtral.server.answers import Answer
from mixtral.server.errors import ApiError
from mixtral.server.render import Envelope, routing_json, stream_error_json
from mixtral.tokenizer import Tokenizer


class ChatRenderer:
    """Writes ``chat.completion`` and ``chat.completion.chunk``.

    Args:
        model: The name that the client used.
        tokenizer: Spells tokens of log-probabilities.
        has_logprobs: Whether the client wants them.
        has_routing: Whether the client wants the experts.
        is_stream: Whether the answer goes out in pieces.
    """

    def __init__(
        self,
        *,
        model: str,
        tokenizer: Tokenizer,
        is_stream: bool,
        has_logprobs: bool = False,
        has_routing: bool = False,
    ) -> None:
        self._envelope = Envelope(
            prefix="chatcmpl",
            object="chat.completion.chunk" if is_stream else "chat.completion",
            model=model,
        )
        self._tokenizer = tokenizer
        self._has_logprobs = has_logprobs
        self._has_routing = has_routing
        self._num_calls: dict[int, int] = {}

    def whole(self, answers: Sequence[Answer], usage: Usage) -> dict[str, Any]:
        """Return the body of an answer that is not streamed."""
        choices = []
        for answer in answers:
            choice: dict[str, Any] = {
                "index": answer.index,
                "message": {
                    "role": "assistant",
                    "content": answer.text,
                    "tool_calls": tool_calls_json(answer.tool_calls) or None,
                },
                "finish_reason": answer.finish_reason,
                "logprobs": self._logprobs(answer.logprobs) if self._has_logprobs else None,
            }
            if self._has_routing:
                choice["routing"] = routing_json(answer.routing)
            choices.append(choice)
        return {**self._envelope.around(choices, usage), "data": None}

    def begin(self, index: int) -> dict[str, Any]:
        """Return the piece that names the role."""
        return self._piece(index, {"role": "assistant", "content": ""}, None)

    def piece(self, chunk: CompletionChunk, usage: Usage | None) -> dict[str, Any] | None:
        """Return one piece, unless it has nothing that the client would see."""
        shows = chunk.text or chunk.tool_calls or chunk.finish_reason
        if not (shows or chunk.logprobs or chunk.routing):
            return None
        delta: dict[str, Any] = {"content": chunk.text}
        if chunk.tool_calls:
            begin = self._num_calls.get(chunk.index, 0)
            self._num_calls[chunk.index] = begin + len(chunk.tool_calls)
            delta["tool_calls"] = tool_calls_json(chunk.tool_calls, begin=begin)
        piece = self._piece(chunk.index, delta, chunk.finish_reason, usage)
        if self._has_logprobs:
            piece["choices"][0]["logprobs"] = self._logprobs(chunk.logprobs)
        if self._has_routing:
            piece["choices"][0]["routing"] = routing_json(chunk.routing)
        return piece

    def usage_only(self, usage: Usage) -> dict[str, Any]:
        """Return OpenAI's extra last piece."""
        return self._envelope.around([], usage)

    def failure(self, error: ApiError) -> dict[str, Any]:
        """Return the piece that tells of an error after the stream began."""
        return {**self._piece(0, {"content": ""}, "error"), "error": stream_error_json(error)}

    def _piece(
        self,
        index: int,
        delta: dict[str, Any],
        finish_reason: str | None,
        usage: Usage | None = None,
    ) -> dict[str, Any]:
        choice = {"index": index, "delta": delta, "finish_reason": finish_reason}
        return self._envelope.around([choice], usage)

    def _logprobs(self, choices: Sequence[TokenChoice]) -> dict[str, Any]:
        return {"content": [self._logprob(choice) for choice in choices], "refusal": None}

    def _logprob(self, choice: TokenChoice) -> dict[str, Any]:
        return {
            **self._token(choice.token_id, choice.logprob),
            "top_logprobs": [
                self._token(token_id, logprob) for token_id, logprob in choice.top_logprobs.items()
            ],
        }

    def _token(self, token_id: int, logprob: float) -> dict[str, Any]:
        return {
            "token": self._tokenizer.decode_token(token_id),
            "logprob": logprob,
            "bytes": list(self._tokenizer.token_bytes(token_id)),
            "token_id": token_id,
        }


def tool_calls_json(calls: Sequence[ToolCall], *, begin: int = 0) -> list[dict[str, Any]]:
    """Return tool calls with their positions from ``begin`` on."""
    return [
        {
            "id": call.id,
            "type": "function",
            "function": {"name": call.function.name, "arguments": call.function.arguments},
            "index": begin + position,
        }
        for position, call in enumerate(calls)
    ]
