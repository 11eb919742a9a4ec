"""``/v1/tokenize`` and ``/v1/detokenize``: what a prompt costs, exactly as the model sees it."""

import asyncio
from typing import Any

import orjson
from fastapi import APIRouter, Request
from starlette.responses import Response

from mixtral.engine import SamplingParams
from mixtral.errors import InvalidRequest
from mixtral.server.body import read_body
from mixtral.server.openapi import answers, body_of
from mixtral.server.schemas_answers import TextAnswer, TokensAnswer
from mixtral.server.schemas_text import DetokenizeRequest, TokenizeRequest
from mixtral.server.service import Service


def token_router(service: Service) -> APIRouter:
    """Return the routes that turn text into tokens and back."""
    router = APIRouter(tags=["tokens"])

    @router.post(
        "/v1/tokenize",
        summary="Turn a text or a conversation into tokens",
        openapi_extra=body_of(TokenizeRequest),
        responses=answers(TokensAnswer, errors=(400, 401, 413, 415, 422, 429)),
    )
    async def tokenize(request: Request) -> Response:
        fields = await read_body(request, TokenizeRequest, service.settings)
        if fields.model is not None:
            service.check_chat_model(fields.model)
        return _json(await asyncio.to_thread(_tokenize, service, fields))

    @router.post(
        "/v1/detokenize",
        summary="Turn tokens into text",
        openapi_extra=body_of(DetokenizeRequest),
        responses=answers(TextAnswer, errors=(400, 401, 413, 415, 422, 429)),
    )
    async def detokenize(request: Request) -> Response:
        fields = await read_body(request, DetokenizeRequest, service.settings)
        if fields.model is not None:
            service.check_chat_model(fields.model)
        text = await asyncio.to_thread(service.llm.tokenizer.decode, fields.tokens)
        return _json({"object": "text", "text": text})

    return router


def _tokenize(service: Service, fields: TokenizeRequest) -> dict[str, Any]:
    if (fields.text is None) == (fields.messages is None):
        raise InvalidRequest("either text or messages must be there, and not both.")
    tokenizer = service.llm.tokenizer
    if fields.text is not None:
        for name in ("tools", "safe_prompt"):
            if getattr(fields, name):
                raise InvalidRequest(f"{name} is set, but it goes with messages, not with text.")
        tokens = tokenizer.encode(fields.text, bos=fields.bos is not False)
    else:
        if fields.bos is not None:
            raise InvalidRequest("bos is set, but it goes with text; messages always have it.")
        tokens = service.llm.requests.chat(
            [message.as_sent() for message in fields.messages or ()],
            SamplingParams(),
            tools=[tool.as_sent() for tool in fields.tools] if fields.tools else None,
            safe_prompt=bool(fields.safe_prompt),
        ).prompt_token_ids
    result: dict[str, Any] = {
        "object": "tokens",
        "tokens": tokens,
        "count": len(tokens),
        "max_model_len": service.llm.max_model_len,
    }
    if fields.pieces:
        result["pieces"] = [tokenizer.decode_token(token_id) for token_id in tokens]
    return result


def _json(body: dict[str, Any]) -> Response:
    return Response(orjson.dumps(body), media_type="application/json")
