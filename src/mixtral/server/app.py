"""The application: routes, error handlers, other spellings of paths, the OpenAPI document."""

import logging
from collections.abc import Callable
from typing import Any

from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from mixtral import __version__
from mixtral.errors import Error
from mixtral.server.absent_routes import absent_router
from mixtral.server.chat_routes import chat_router
from mixtral.server.completion_routes import completion_router
from mixtral.server.docs_routes import docs_router
from mixtral.server.embedding_routes import embedding_router
from mixtral.server.errors import ApiError, error_response, to_api_error
from mixtral.server.fim_routes import fim_router
from mixtral.server.health_routes import health_router
from mixtral.server.model_routes import model_router
from mixtral.server.openapi import document
from mixtral.server.paths import ForgivingPaths
from mixtral.server.playground_routes import playground_router
from mixtral.server.rag_routes import rag_router
from mixtral.server.routing_routes import routing_router
from mixtral.server.service import Service
from mixtral.server.status_routes import status_router
from mixtral.server.token_routes import token_router

logger = logging.getLogger(__name__)


def create_app(service: Service) -> FastAPI:
    """Return the application of one model.

    It has no middleware for keys, limits or origins; ``mixtral.server.middleware.protect`` adds
    them around it. It makes nothing and closes nothing: the service is its caller's.
    """
    app = FastAPI(
        title="mixtral",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    for make_router in (
        chat_router,
        completion_router,
        fim_router,
        embedding_router,
        model_router,
        token_router,
        rag_router,
        routing_router,
        health_router,
        status_router,
    ):
        app.include_router(make_router(service))
    app.include_router(absent_router())
    app.include_router(docs_router())
    app.include_router(playground_router())
    app.add_middleware(ForgivingPaths)
    app.add_exception_handler(ApiError, _on_error)
    app.add_exception_handler(Error, _on_error)
    app.add_exception_handler(HTTPException, _on_http_error)
    app.add_exception_handler(ClientDisconnect, _on_disconnect)
    app.add_exception_handler(Exception, _on_error)
    app.openapi = _cached(  # type: ignore[method-assign]
        lambda: document(
            app, chat_names=service.generating_names, embedder_names=service.embedder_names
        )
    )
    service.metrics.watch_engine(service.llm.stats)
    return app


async def _on_error(request: Request, error: Exception) -> Response:
    told = to_api_error(error)
    if told.status == 500:
        logger.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return told.response()


async def _on_http_error(request: Request, error: Exception) -> Response:
    """Answer what the router itself refuses."""
    assert isinstance(error, HTTPException)
    path = request.url.path
    messages = {
        404: f"there is no {path}; /docs lists the paths of this server.",
        405: f"{path} does not take {request.method}; /docs lists the methods.",
    }
    message = messages.get(error.status_code, str(error.detail))
    return error_response(error.status_code, message, headers=error.headers)


async def _on_disconnect(request: Request, error: Exception) -> Response:
    """Answer nobody: the client left before its request was complete."""
    return Response(status_code=499)


def _cached(make: Callable[[], dict[str, Any]]) -> Callable[[], dict[str, Any]]:
    """Return a function that makes its value once."""
    made: list[dict[str, Any]] = []

    def get() -> dict[str, Any]:
        if not made:
            made.append(make())
        return made[0]

    return get
