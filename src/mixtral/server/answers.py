"""Pieces of answers to whole answers, while the client stays.

Works on anything that gives ``CompletionChunk`` and can be cancelled: one ``AnswerStream``, several
of them joined (``MergedAnswers``), or none at all (``EmptyAnswers``, for ``max_tokens`` 0).
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from starlette.types import Receive

from mixtral.outputs import CompletionChunk, TokenChoice, TokenRoute, ToolCall
from mixtral.server.errors import ApiError
from mixtral.server.progress import Progress

Result = TypeVar("Result")


class AnswerSource(Protocol):
    """Pieces of one or more answers, in the order in which they are made."""

    def __aiter__(self) -> AsyncIterator[CompletionChunk]:
        """Give the pieces."""
        ...

    def cancel(self) -> None:
        """Stop; the pieces end soon."""
        ...


class ClientGone(Exception):
    """The client closed the connection before its answer was complete."""


@dataclass(kw_only=True, slots=True)
class Answer:
    """One of the answers to a request, growing with its pieces."""

    index: int
    texts: list[str] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    tool_calls: list[ToolCall] = field(default_factory=list)
    logprobs: list[TokenChoice] = field(default_factory=list)
    routing: list[TokenRoute] = field(default_factory=list)
    finish_reason: str | None = None

    @property
    def text(self) -> str:
        """Everything said so far."""
        return "".join(self.texts)

    def push(self, chunk: CompletionChunk) -> None:
        """Take the next piece."""
        self.texts.append(chunk.text)
        self.token_ids += chunk.token_ids
        self.tool_calls += chunk.tool_calls
        self.logprobs += chunk.logprobs
        self.routing += chunk.routing
        self.finish_reason = chunk.finish_reason or self.finish_reason


async def collect(source: AnswerSource, num_answers: int, progress: Progress) -> list[Answer]:
    """Wait for all answers of a source."""
    answers = [Answer(index=i) for i in range(num_answers)]
    async for chunk in source:
        progress.push(chunk)
        answers[chunk.index].push(chunk)
    return answers


class LimitedAnswers:
    """The pieces of a source, but no longer than a time limit.

    Args:
        source: Gives the pieces.
        limit_s: Seconds from the first look; 0 for no limit.
    """

    def __init__(self, source: AnswerSource, limit_s: float) -> None:
        self._source = source
        self._limit_s = limit_s
        self._is_late = False

    def cancel(self) -> None:
        """Stop the source."""
        self._source.cancel()

    async def __aiter__(self) -> AsyncIterator[CompletionChunk]:
        """Give the pieces.

        Raises:
            ApiError: 408: the limit was reached. Clients are told not to try again.
        """
        timer = None
        if self._limit_s:
            timer = asyncio.get_running_loop().call_later(self._limit_s, self._end)
        try:
            async for chunk in self._source:
                yield chunk
        finally:
            if timer is not None:
                timer.cancel()
        if self._is_late:
            raise ApiError(
                408,
                f"the answer took longer than {self._limit_s:g} s, the limit of this server. "
                "Ask for fewer tokens, or raise request_timeout_s.",
                code="timeout",
                headers={"x-should-retry": "false"},
            )

    def _end(self) -> None:
        self._is_late = True
        self._source.cancel()


async def unless_disconnected(
    work: Coroutine[Any, Any, Result], receive: Receive, cancel: Callable[[], None]
) -> Result:
    """Run ``work`` until it is done or the client goes away.

    Args:
        work: What to run.
        receive: ASGI's, after the body was read.
        cancel: Called when the work was not finished, whatever the reason.

    Raises:
        ClientGone: The client closed the connection.
    """
    worker = asyncio.create_task(work)
    watcher = asyncio.create_task(_disconnected(receive))
    is_done = False
    try:
        await asyncio.wait((worker, watcher), return_when=asyncio.FIRST_COMPLETED)
        if not worker.done():
            raise ClientGone
        result = worker.result()
        is_done = True
        return result
    finally:
        if not is_done:
            cancel()
        worker.cancel()
        watcher.cancel()
        await asyncio.gather(worker, watcher, return_exceptions=True)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
