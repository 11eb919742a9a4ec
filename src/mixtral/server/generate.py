"""From a request that is built to the answer that is sent: what all generating routes share."""

import logging
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response

from mixtral.errors import RequestError
from mixtral.server.answers import (
    AnswerSource,
    ClientGone,
    LimitedAnswers,
    collect,
    unless_disconnected,
)
from mixtral.server.errors import ApiError, to_api_error
from mixtral.server.logs import record_of
from mixtral.server.progress import Progress
from mixtral.server.render import Renderer
from mixtral.server.service import Service
from mixtral.server.sse import DONE, EventResponse, event

logger = logging.getLogger(__name__)

CLIENT_GONE_STATUS = 499
"""nginx's status for a client that closed the connection; seen in logs and metrics only."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Generation:
    """Answers that are being made, and how they are to be sent."""

    source: AnswerSource
    """The pieces."""
    renderer: Renderer
    """Writes them."""
    prompt_tokens: Sequence[int]
    """Tokens of each prompt."""
    n: int = 1
    """How many answers each of them gets."""
    is_stream: bool
    """Whether they go out in pieces."""
    include_usage: bool
    """Whether the usage of a stream goes out in a piece of its own."""
    opening: Mapping[str, Any] | None = None
    """What a stream begins with before anything is made; None: nothing."""


async def respond(request: Request, generation: Generation, service: Service) -> Response:
    """Return the HTTP answer; a stream has not begun when this returns.

    Raises:
        Error: The generation failed before anything was sent.
    """
    settings = service.settings
    progress = Progress(
        service.metrics,
        record_of(request.scope),
        n=generation.n,
        prompt_tokens=generation.prompt_tokens,
    )
    source = LimitedAnswers(generation.source, settings.request_timeout_s)
    if generation.is_stream:
        return EventResponse(
            _events(generation, source, progress),
            cancel=source.cancel,
            ping_s=settings.keepalive_s,
            write_timeout_s=settings.write_timeout_s,
        )
    num_answers = len(generation.prompt_tokens) * generation.n
    is_complete = is_refused = False
    try:
        answers = await unless_disconnected(
            collect(source, num_answers, progress), request.receive, source.cancel
        )
        is_complete = True
    except ClientGone:
        return Response(status_code=CLIENT_GONE_STATUS)
    except RequestError:
        is_refused = True
        raise
    finally:
        progress.finish(is_complete=is_complete, is_refused=is_refused)
    body = generation.renderer.whole(answers, progress.usage)
    return Response(orjson.dumps(body), media_type="application/json")


async def _events(
    generation: Generation, source: AnswerSource, progress: Progress
) -> AsyncGenerator[bytes, None]:
    """Give every event of a stream; an error becomes the last but one."""
    renderer = generation.renderer
    num_running = len(generation.prompt_tokens) * generation.n
    begun: set[int] = set()
    is_complete = is_refused = False
    try:
        if generation.opening is not None:
            yield event(generation.opening)
        async for chunk in source:
            progress.push(chunk)
            num_running -= chunk.finish_reason is not None
            is_last = num_running == 0 and not generation.include_usage
            piece = renderer.piece(chunk, progress.usage if is_last else None)
            if piece is None:
                continue
            data = event(piece)
            if chunk.index not in begun:
                begun.add(chunk.index)
                first = renderer.begin(chunk.index)
                data = data if first is None else event(first) + data
            yield data
        if generation.include_usage:
            yield event(renderer.usage_only(progress.usage))
        is_complete = num_running == 0
    except Exception as error:  # the status is sent; the stream itself must tell
        is_refused = isinstance(error, RequestError)
        yield event(renderer.failure(_logged(error)))
    finally:
        progress.finish(is_complete=is_complete, is_refused=is_refused)
    yield DONE


def _logged(error: Exception) -> ApiError:
    """Return what the client is told; log what is a failure of ours."""
    told = to_api_error(error)
    if told.status >= 500:
        logger.error("a stream failed: %s", error, exc_info=error)
    return told
