"""Text completions in OpenAI's shape; a piece of a stream looks like a whole answer."""

from collections.abc import Callable, Sequence
from typing import Any

from mixtral.outputs import CompletionChunk, TokenChoice, Usage
from mixtral.server.answers import Answer
from mixtral.server.errors import ApiError
from mixtral.server.render import Envelope, routing_json, stream_error_json


class TextRenderer:
    """Writes ``text_completion``.

    Args:
        model: The name that the client used.
        spell: Names a token.
        echoes: The text of each prompt, where it is to be repeated.
        n: Answers per prompt.
        has_logprobs: Whether the client wants them.
        has_routing: Whether the client wants the experts.
    """

    def __init__(
        self,
        *,
        model: str,
        spell: Callable[[int], str],
        echoes: Sequence[str] | None = None,
        n: int = 1,
        has_logprobs: bool = False,
        has_routing: bool = False,
    ) -> None:
        self._envelope = Envelope(prefix="cmpl", object="text_completion", model=model)
        self._spell = spell
        self._echoes = echoes
        self._n = n
        self._has_logprobs = has_logprobs
        self._has_routing = has_routing
        self._offsets: dict[int, int] = {}

    def whole(self, answers: Sequence[Answer], usage: Usage) -> dict[str, Any]:
        """Return the body of an answer that is not streamed."""
        choices = []
        for answer in answers:
            choice = self._choice(
                answer.index,
                self._echo(answer.index) + answer.text,
                answer.finish_reason,
                answer.logprobs,
            )
            if self._has_routing:
                choice["routing"] = routing_json(answer.routing)
            choices.append(choice)
        return self._envelope.around(choices, usage)

    def begin(self, index: int) -> dict[str, Any] | None:
        """Return the piece that repeats the prompt."""
        if self._echoes is None:
            return None
        return self._envelope.around([self._choice(index, self._echo(index), None, ())], None)

    def piece(self, chunk: CompletionChunk, usage: Usage | None) -> dict[str, Any] | None:
        """Return one piece, unless it has nothing that the client would see."""
        if not (chunk.text or chunk.finish_reason or chunk.logprobs or chunk.routing):
            return None
        choice = self._choice(chunk.index, chunk.text, chunk.finish_reason, chunk.logprobs)
        if self._has_routing:
            choice["routing"] = routing_json(chunk.routing)
        return self._envelope.around([choice], usage)

    def usage_only(self, usage: Usage) -> dict[str, Any]:
        """Return OpenAI's extra last piece."""
        return self._envelope.around([], usage)

    def failure(self, error: ApiError) -> dict[str, Any]:
        """Return the piece that tells of an error after the stream began."""
        piece = self._envelope.around([self._choice(0, "", "error", ())], None)
        return {**piece, "error": stream_error_json(error)}

    def _echo(self, index: int) -> str:
        return "" if self._echoes is None else self._echoes[index // self._n]

    def _choice(
        self,
        index: int,
        text: str,
        finish_reason: str | None,
        logprobs: Sequence[TokenChoice],
    ) -> dict[str, Any]:
        return {
            "index": index,
            "text": text,
            "logprobs": self._logprobs(index, logprobs) if self._has_logprobs else None,
            "finish_reason": finish_reason,
        }

    def _logprobs(self, index: int, choices: Sequence[TokenChoice]) -> dict[str, Any]:
        """Return OpenAI's legacy shape: four lists with one entry per token."""
        tokens = [self._spell(choice.token_id) for choice in choices]
        offset = self._offsets.get(index, 0)
        offsets = []
        for token in tokens:
            offsets.append(offset)
            offset += len(token)
        self._offsets[index] = offset
        return {
            "tokens": tokens,
            "token_logprobs": [choice.logprob for choice in choices],
            "top_logprobs": [
                {self._spell(token_id): value for token_id, value in choice.top_logprobs.items()}
                for choice in choices
            ],
            "text_offset": offsets,
        }
