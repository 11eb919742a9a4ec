"""Built requests to the engine, in the name of whoever asked."""

from collections.abc import MutableMapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mixtral.errors import ContextLengthExceeded, InvalidRequest
from mixtral.server.answers import AnswerSource
from mixtral.server.logs import record_of
from mixtral.server.merged_answers import EmptyAnswers, MergedAnswers

if TYPE_CHECKING:
    from mixtral.async_llm import AsyncLLM
    from mixtral.request import Request


@dataclass(frozen=True, kw_only=True, slots=True)
class Caller:
    """Who a request is for."""

    owner: str
    """Name of the API key; empty without one."""
    priority: int
    """Larger runs first."""

    @classmethod
    def of(cls, scope: MutableMapping[str, Any], priority: int | None) -> "Caller":
        """Return the caller of an HTTP request.

        Args:
            scope: ASGI's.
            priority: What the request itself asks for.

        Raises:
            InvalidRequest: It asks for more than its key has.
        """
        key = record_of(scope).key
        if key is None:
            return cls(owner="", priority=priority or 0)
        if priority is not None and priority > 0:
            raise InvalidRequest(
                f"priority is {priority}; with an API key it may be 0 or less, because it is "
                "added to the priority of the key."
            )
        return cls(owner=key.name, priority=key.priority + (priority or 0))


def submit(
    llm: "AsyncLLM", requests: "Sequence[Request]", *, max_tokens: int | None
) -> AnswerSource:
    """Hand requests to the engine; they have the same ``n``.

    Args:
        llm: The engine.
        requests: One per prompt, at least one.
        max_tokens: 0 gives empty answers without asking the engine.

    Raises:
        RequestError: One cannot be served; then none is.
        EngineDead: The engine stopped.
    """
    n = requests[0].params.n
    sources: list[AnswerSource] = []
    try:
        for request in requests:
            sources.append(_empty(llm, request) if max_tokens == 0 else llm.submit(request))
    except Exception:
        for source in sources:
            source.cancel()
        raise
    return sources[0] if len(sources) == 1 else MergedAnswers(sources, n=n)


def _empty(llm: "AsyncLLM", request: "Request") -> EmptyAnswers:
    num_tokens = len(request.prompt_token_ids)
    if num_tokens > llm.max_model_len:
        raise ContextLengthExceeded(
            f"the prompt has {num_tokens} tokens; this server reads {llm.max_model_len}."
        )
    return EmptyAnswers(n=request.params.n, num_prompt_tokens=num_tokens)
