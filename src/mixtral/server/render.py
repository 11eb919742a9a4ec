"""Answers as JSON, the parts that chat and text completions share."""

import time
import uuid
from collections.abc import Sequence
from typing import Any, Protocol

from mixtral.outputs import CompletionChunk, TokenRoute, Usage
from mixtral.server.answers import Answer
from mixtral.server.errors import ApiError


class Renderer(Protocol):
    """Writes one request's answers, whole or in pieces, in the shape of one API."""

    def whole(self, answers: Sequence[Answer], usage: Usage) -> dict[str, Any]:
        """Return the body of an answer that is not streamed."""
        ...

    def begin(self, index: int) -> dict[str, Any] | None:
        """Return what comes before the first piece of an answer, if anything does."""
        ...

    def piece(self, chunk: CompletionChunk, usage: Usage | None) -> dict[str, Any] | None:
        """Return one piece; None when it shows nothing. ``usage`` comes with the very last."""
        ...

    def usage_only(self, usage: Usage) -> dict[str, Any]:
        """Return OpenAI's extra last piece."""
        ...

    def failure(self, error: ApiError) -> dict[str, Any]:
        """Return the piece that tells of an error after the stream began."""
        ...


class Envelope:
    """The keys around the choices, the same in every piece of one answer.

    Args:
        prefix: How the id begins.
        object: The key of that name.
        model: The name that the client used.
    """

    def __init__(self, *, prefix: str, object: str, model: str) -> None:
        self._keys = {
            "id": f"{prefix}-{uuid.uuid4().hex}",
            "object": object,
            "created": int(time.time()),
            "model": model,
        }

    def around(self, choices: list[dict[str, Any]], usage: Usage | None) -> dict[str, Any]:
        """Return a body or piece; without usage the key is absent, never null."""
        if usage is None:
            return {**self._keys, "choices": choices}
        return {**self._keys, "choices": choices, "usage": usage_json(usage)}


def usage_json(usage: Usage) -> dict[str, int]:
    """Return the usage as all clients read it."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.total_tokens,
    }


def routing_json(routing: Sequence[TokenRoute]) -> list[dict[str, Any]]:
    """Return which experts each token visited."""
    return [
        {
            "token_id": route.token_id,
            "expert_ids": route.expert_ids,
            "routing_weights": route.routing_weights,
        }
        for route in routing
    ]


def stream_error_json(error: ApiError) -> dict[str, Any]:
    """Return the object under ``error`` of a failed stream."""
    return {
        "message": error.message,
        "type": error.type,
        "param": error.param,
        "code": error.code,
    }
