"""``/v1/chat/completions``."""

import asyncio

from fastapi import APIRouter, Request
from starlette.responses import Response

from mixtral.errors import InvalidRequest
from mixtral.request import Request as EngineRequest
from mixtral.server.body import read_body
from mixtral.server.convert import merged, to_num_top_logprobs, to_sampling_params
from mixtral.server.generate import Generation, respond
from mixtral.server.openapi import body_of, stream_answers
from mixtral.server.render_chat import ChatRenderer
from mixtral.server.schemas_answers_chat import ChatCompletionAnswer, ChatCompletionPiece
from mixtral.server.schemas_chat import ChatCompletionRequest, NamedTool
from mixtral.server.service import Service
from mixtral.server.submit import Caller, submit


def chat_router(service: Service) -> APIRouter:
    """Return the route that answers conversations."""
    router = APIRouter(tags=["chat"])

    @router.post(
        "/v1/chat/completions",
        summary="Answer a conversation",
        openapi_extra=body_of(ChatCompletionRequest),
        responses=stream_answers(ChatCompletionAnswer, ChatCompletionPiece),
    )
    async def chat_completions(request: Request) -> Response:
        fields = await read_body(request, ChatCompletionRequest, service.settings)
        adapter = service.find_adapter(fields.model)
        caller = Caller.of(request.scope, fields.priority)
        built, max_tokens = await asyncio.to_thread(_build, service, fields, caller, adapter)
        return await respond(
            request,
            Generation(
                renderer=ChatRenderer(
                    model=fields.model,
                    tokenizer=service.llm.tokenizer,
                    is_stream=bool(fields.stream),
                    has_logprobs=bool(fields.logprobs),
                    has_routing=bool(fields.routing),
                ),
                prompt_tokens=[len(built.prompt_token_ids)],
                # Last: what fails above must not leave a request at the engine.
                source=submit(service.llm, [built], max_tokens=max_tokens),
                n=built.params.n,
                is_stream=bool(fields.stream),
                include_usage=bool(fields.stream_options and fields.stream_options.include_usage),
            ),
            service,
        )

    return router


def _build(
    service: Service, fields: ChatCompletionRequest, caller: Caller, adapter: str | None
) -> tuple[EngineRequest, int | None]:
    """Check, convert and tokenise; runs in a thread, because a large grammar takes its time."""
    max_tokens = merged(
        "max_tokens", fields.max_tokens, "max_completion_tokens", fields.max_completion_tokens
    )
    limit = service.settings.max_messages
    if len(fields.messages) > limit:
        raise InvalidRequest(f"messages has {len(fields.messages)} entries; {limit} are allowed.")
    params = to_sampling_params(
        fields,
        max_tokens=max_tokens,
        logprobs=to_num_top_logprobs(fields.logprobs, fields.top_logprobs),
    )
    choice = fields.tool_choice
    built = service.llm.requests.chat(
        [message.as_sent() for message in fields.messages],
        params,
        tools=[tool.as_sent() for tool in fields.tools] if fields.tools else None,
        tool_choice=choice.as_sent() if isinstance(choice, NamedTool) else choice or "auto",
        parallel_tool_calls=fields.parallel_tool_calls is not False,
        response_format=None if fields.response_format is None else fields.response_format.wire(),
        safe_prompt=bool(fields.safe_prompt),
        needs_routing=bool(fields.routing),
        priority=caller.priority,
        owner=caller.owner,
        adapter=adapter,
    )
    return built, max_tokens
