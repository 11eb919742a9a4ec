"""``/v1/completions``: one text or several, gone on with."""

import asyncio
from collections.abc import Sequence

from fastapi import APIRouter, Request
from starlette.responses import Response

from mixtral.errors import InvalidRequest
from mixtral.request import Request as EngineRequest
from mixtral.server.body import read_body
from mixtral.server.convert import to_sampling_params
from mixtral.server.generate import Generation, respond
from mixtral.server.openapi import body_of, stream_answers
from mixtral.server.render_text import TextRenderer
from mixtral.server.schemas_answers import TextCompletionAnswer, TextCompletionPiece
from mixtral.server.schemas_text import MAX_PROMPTS, CompletionRequest
from mixtral.server.service import Service
from mixtral.server.submit import Caller, submit

DEFAULT_MAX_TOKENS = 16
"""OpenAI's default for this path alone; a chat has none."""


def completion_router(service: Service) -> APIRouter:
    """Return the route that goes on with texts."""
    router = APIRouter(tags=["completions"])

    @router.post(
        "/v1/completions",
        summary="Go on with a text",
        openapi_extra=body_of(CompletionRequest),
        responses=stream_answers(TextCompletionAnswer, TextCompletionPiece),
    )
    async def completions(request: Request) -> Response:
        fields = await read_body(request, CompletionRequest, service.settings)
        adapter = service.find_adapter(fields.model)
        caller = Caller.of(request.scope, fields.priority)
        built = await asyncio.to_thread(_build, service, fields, caller, adapter)
        n = built[0].params.n
        return await respond(
            request,
            Generation(
                renderer=TextRenderer(
                    model=fields.model,
                    spell=lambda token_id: service.llm.tokenizer.decode_token(token_id),
                    echoes=_echoes(service, fields) if fields.echo else None,
                    n=n,
                    has_logprobs=fields.logprobs is not None,
                    has_routing=bool(fields.routing),
                ),
                prompt_tokens=[len(prompt.prompt_token_ids) for prompt in built],
                # Last: what fails above must not leave a request at the engine.
                source=submit(service.llm, built, max_tokens=fields.max_tokens),
                n=n,
                is_stream=bool(fields.stream),
                include_usage=bool(fields.stream_options and fields.stream_options.include_usage),
            ),
            service,
        )

    return router


def _build(
    service: Service, fields: CompletionRequest, caller: Caller, adapter: str | None
) -> list[EngineRequest]:
    params = to_sampling_params(
        fields,
        max_tokens=DEFAULT_MAX_TOKENS if fields.max_tokens is None else fields.max_tokens,
        logprobs=fields.logprobs,
    )
    prompts = _prompts(fields)
    _check(fields, num_answers=len(prompts) * params.n, n=params.n)
    if fields.logprobs is not None:
        _ = service.llm.tokenizer  # refuses here what could not be spelled later
    return [
        service.llm.requests.completion(
            prompt,
            params,
            response_format=None
            if fields.response_format is None
            else fields.response_format.wire(),
            needs_routing=bool(fields.routing),
            priority=caller.priority,
            owner=caller.owner,
            adapter=adapter,
        )
        for prompt in prompts
    ]


def _check(fields: CompletionRequest, *, num_answers: int, n: int) -> None:
    if num_answers > MAX_PROMPTS:
        raise InvalidRequest(
            f"the prompts and n make {num_answers} answers; one request may have {MAX_PROMPTS}."
        )
    if fields.best_of not in (None, n):
        raise InvalidRequest(
            f"best_of is {fields.best_of} and n is {n}; they must be the same, because no answers "
            "are made to be thrown away."
        )
    if fields.echo and fields.logprobs is not None:
        raise InvalidRequest(
            "echo and logprobs are both set; log-probabilities of a prompt are not reported. "
            "Leave one out."
        )


def _prompts(fields: CompletionRequest) -> Sequence[str | list[int]]:
    prompt = fields.prompt
    if isinstance(prompt, str):
        return [prompt]
    if isinstance(prompt[0], int):
        return [[item for item in prompt if isinstance(item, int)]]
    return [item for item in prompt if not isinstance(item, int)]


def _echoes(service: Service, fields: CompletionRequest) -> list[str]:
    return [
        prompt if isinstance(prompt, str) else service.llm.tokenizer.decode(prompt)
        for prompt in _prompts(fields)
    ]
