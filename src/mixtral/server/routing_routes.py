"""``/v1/route``: which experts read each token of a prompt.

The prompt goes to the engine like any other, as a request for one token that also wants its
routing; the token is thrown away. So it waits its turn and counts for its API key like a
completion. The engine takes none of its blocks from the prefix cache, because a token that is not
run visits no expert (``engine/block_manager.py``): every token of the prompt is reported.
"""

import asyncio
from typing import Any

import orjson
from fastapi import APIRouter, Request
from starlette.responses import Response

from mixtral.engine import SamplingParams
from mixtral.errors import ContextLengthExceeded, InvalidRequest, UnsupportedError
from mixtral.outputs import TokenRoute
from mixtral.request import Request as EngineRequest
from mixtral.server.answers import AnswerSource, ClientGone, LimitedAnswers, unless_disconnected
from mixtral.server.body import read_body
from mixtral.server.generate import CLIENT_GONE_STATUS
from mixtral.server.logs import record_of
from mixtral.server.openapi import answers, body_of
from mixtral.server.schemas_routing import RouteAnswer, RouteRequest
from mixtral.server.service import Service
from mixtral.server.submit import Caller, submit

MAX_ROUTED_TOKENS = 4096
"""Longest prompt: its answer has 5 MB for 56 layers."""

_ONE_TOKEN = SamplingParams(temperature=0, max_tokens=1)


def routing_router(service: Service) -> APIRouter:
    """Return the route that follows a prompt through the experts."""
    router = APIRouter(tags=["tokens"])

    @router.post(
        "/v1/route",
        summary="Show which experts read each token of a prompt",
        openapi_extra=body_of(RouteRequest),
        responses=answers(RouteAnswer, errors=(400, 401, 408, 413, 415, 422, 429, 503)),
    )
    async def route(request: Request) -> Response:
        fields = await read_body(request, RouteRequest, service.settings)
        adapter = None if fields.model is None else service.find_adapter(fields.model)
        caller = Caller.of(request.scope, None)
        built = await asyncio.to_thread(_build, service, fields, caller, adapter)
        source = LimitedAnswers(
            submit(service.llm, [built], max_tokens=None), service.settings.request_timeout_s
        )
        # Before the answer: the prompt may have been read when the client leaves.
        record_of(request.scope).num_prompt_tokens += len(built.prompt_token_ids)
        try:
            routes = await unless_disconnected(_routes(source), request.receive, source.cancel)
        except ClientGone:
            return Response(status_code=CLIENT_GONE_STATUS)
        # In a thread: a long prompt makes megabytes.
        body = await asyncio.to_thread(_body, service, built, routes)
        return Response(body, media_type="application/json")

    return router


def _build(
    service: Service, fields: RouteRequest, caller: Caller, adapter: str | None
) -> EngineRequest:
    if service.llm.config.is_dense:
        raise UnsupportedError("this model is dense; it has no experts to report on.")
    token_ids = _prompt(service, fields)
    limit = min(MAX_ROUTED_TOKENS, service.llm.max_model_len - 1)
    if len(token_ids) > limit:
        raise ContextLengthExceeded(
            f"the prompt has {len(token_ids)} tokens; /v1/route reports on at most {limit}. "
            "Send a part of it."
        )
    _ = service.llm.tokenizer  # refuses here what could not be spelled later
    return service.llm.requests.completion(
        token_ids,
        _ONE_TOKEN,
        needs_routing=True,
        priority=caller.priority,
        owner=caller.owner,
        adapter=adapter,
    )


def _prompt(service: Service, fields: RouteRequest) -> list[int]:
    given = [name for name in ("messages", "prompt", "tokens") if getattr(fields, name) is not None]
    if len(given) != 1:
        found = " and ".join(given) or "none"
        raise InvalidRequest(f"one of messages, prompt and tokens must be there; there is {found}.")
    if fields.messages is None:
        for name in ("tools", "safe_prompt"):
            if getattr(fields, name):
                raise InvalidRequest(f"{name} is set; it goes with messages, not with {given[0]}.")
        prompt = fields.tokens if fields.prompt is None else fields.prompt
        assert prompt is not None
        return service.llm.requests.encode_prompt(prompt)
    return service.llm.requests.chat(
        [message.as_sent() for message in fields.messages],
        SamplingParams(),
        tools=[tool.as_sent() for tool in fields.tools] if fields.tools else None,
        safe_prompt=bool(fields.safe_prompt),
    ).prompt_token_ids


async def _routes(source: AnswerSource) -> list[TokenRoute]:
    return [route async for chunk in source for route in chunk.routing]


def _body(service: Service, built: EngineRequest, routes: list[TokenRoute]) -> bytes:
    config = service.llm.config
    token_ids = built.prompt_token_ids
    assert [route.token_id for route in routes] == token_ids
    body: dict[str, Any] = {
        "object": "routing",
        "tokens": token_ids,
        "pieces": [service.llm.tokenizer.decode_token(token_id) for token_id in token_ids],
        "num_layers": config.num_hidden_layers,
        "num_experts": config.num_local_experts,
        "num_experts_per_tok": config.num_experts_per_tok,
        "expert_ids": [route.expert_ids for route in routes],
        "routing_weights": [
            [[round(weight, 4) for weight in layer] for layer in route.routing_weights]
            for route in routes
        ],
    }
    return orjson.dumps(body)
