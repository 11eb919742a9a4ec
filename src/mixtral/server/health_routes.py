"""``/health``, ``/ready`` and ``/metrics``: what those who look after a server ask."""

import asyncio

from fastapi import APIRouter
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4
from starlette.responses import JSONResponse, Response

from mixtral.server.errors import error_response
from mixtral.server.openapi import answers, error_answers
from mixtral.server.schemas_answers import StatusAnswer
from mixtral.server.service import Service


def health_router(service: Service) -> APIRouter:
    """Return the routes that tell how the server is."""
    router = APIRouter(tags=["operation"])

    @router.get("/health", summary="The process runs", responses=answers(StatusAnswer, errors=()))
    async def health() -> Response:
        return JSONResponse({"object": "status", "status": "ok"})

    @router.get(
        "/ready",
        summary="The model answers",
        responses={**answers(StatusAnswer, errors=()), **error_answers([503])},
    )
    async def ready() -> Response:
        if not service.llm.is_alive:
            return error_response(503, "the engine has stopped.", code="engine_dead")
        return JSONResponse({"object": "status", "status": "ready"})

    @router.get(
        "/metrics",
        summary="Counters in Prometheus' text format",
        responses={
            200: {
                "description": "All metrics.",
                "content": {"text/plain": {"schema": {"type": "string"}}},
            },
            **error_answers([401]),
        },
    )
    async def metrics() -> Response:
        # In a thread: 8 experts of 56 layers and a few keys make a text of 50 kB.
        text = await asyncio.to_thread(service.metrics.text)
        return Response(text, media_type=CONTENT_TYPE_PLAIN_0_0_4)

    return router
