"""Other spellings of the paths, which clients with a wrong base address send.

``mistralai`` wants an address without /v1, ``openai`` and LangChain one with it; a client told
otherwise sends /v1/v1/chat/completions or /chat/completions. Both are answered. They are not in the
OpenAPI document.
"""

from starlette.types import ASGIApp, Receive, Scope, Send

VERSIONED = (
    "/agents",
    "/chat",
    "/completions",
    "/detokenize",
    "/embeddings",
    "/fim",
    "/models",
    "/moderations",
    "/tokenize",
)
"""How the paths go on behind /v1."""


def usual_path(path: str) -> str:
    """Return the path as the routes spell it.

    >>> usual_path("/v1/v1/models"), usual_path("/chat/completions/"), usual_path("/health")
    ('/v1/models', '/v1/chat/completions', '/health')
    """
    if len(path) > 1:
        path = path.rstrip("/") or "/"
    while path.startswith("/v1/v1/"):
        path = path[3:]
    if any(path == name or path.startswith(name + "/") for name in VERSIONED):
        path = "/v1" + path
    return path


class ForgivingPaths:
    """Gives the application the usual path; plain ASGI.

    Args:
        app: The application.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the application."""
        if scope["type"] == "http":
            # In place: the layers around read from the scope which route answered.
            scope["path"] = usual_path(scope["path"])
        await self._app(scope, receive, send)
