"""``/v1/fim/completions``: the text between a prompt and a suffix, answered like a chat."""

import asyncio

from fastapi import APIRouter, Request
from starlette.responses import Response

from mixtral.request import Request as EngineRequest
from mixtral.server.body import read_body
from mixtral.server.convert import to_sampling_params
from mixtral.server.generate import Generation, respond
from mixtral.server.openapi import body_of, stream_answers
from mixtral.server.render_chat import ChatRenderer
from mixtral.server.schemas_answers_chat import ChatCompletionAnswer, ChatCompletionPiece
from mixtral.server.schemas_text import FIMCompletionRequest
from mixtral.server.service import Service
from mixtral.server.submit import Caller, submit


def fim_router(service: Service) -> APIRouter:
    """Return the route that fills in the middle."""
    router = APIRouter(tags=["fim"])

    @router.post(
        "/v1/fim/completions",
        summary="Fill in the middle",
        openapi_extra=body_of(FIMCompletionRequest),
        responses=stream_answers(ChatCompletionAnswer, ChatCompletionPiece),
    )
    async def fim_completions(request: Request) -> Response:
        fields = await read_body(request, FIMCompletionRequest, service.settings)
        adapter = service.find_adapter(fields.model)
        caller = Caller.of(request.scope, fields.priority)
        built = await asyncio.to_thread(_build, service, fields, caller, adapter)
        is_stream = bool(fields.stream)
        return await respond(
            request,
            Generation(
                renderer=ChatRenderer(
                    model=fields.model, tokenizer=service.llm.tokenizer, is_stream=is_stream
                ),
                prompt_tokens=[len(built.prompt_token_ids)],
                # Last: what fails above must not leave a request at the engine.
                source=submit(service.llm, [built], max_tokens=fields.max_tokens),
                n=built.params.n,
                is_stream=is_stream,
                include_usage=bool(fields.stream_options and fields.stream_options.include_usage),
            ),
            service,
        )

    return router


def _build(
    service: Service, fields: FIMCompletionRequest, caller: Caller, adapter: str | None
) -> EngineRequest:
    return service.llm.requests.fim(
        fields.prompt,
        fields.suffix,
        to_sampling_params(fields, max_tokens=fields.max_tokens, logprobs=None),
        priority=caller.priority,
        owner=caller.owner,
        adapter=adapter,
    )
