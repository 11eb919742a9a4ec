"""Paths of Mistral's API that this server does not offer; they say so with 501, not with 404."""

from collections.abc import Awaitable, Callable

from fastapi import APIRouter
from starlette.responses import Response

from mixtral.server.errors import error_response
from mixtral.server.openapi import error_answers

ABSENT = {
    "/v1/moderations": "this server has no moderation model; check texts with another service.",
    "/v1/agents/completions": (
        "this server has no agents; send the agent's instructions as a system message to "
        "/v1/chat/completions."
    ),
}
"""Path -> why it is not there, and what to do instead."""


def absent_router() -> APIRouter:
    """Return the routes that say what is not there."""
    router = APIRouter(tags=["not offered"])
    for path, message in ABSENT.items():
        router.add_api_route(
            path,
            _refusal(message),
            methods=["POST"],
            summary="Not offered",
            responses=error_answers([401, 501]),
        )
    return router


def _refusal(message: str) -> Callable[[], Awaitable[Response]]:
    async def refuse() -> Response:
        return error_response(501, message, type="not_implemented_error", code="not_implemented")

    return refuse
