"""``/docs``: a page that reads ``/openapi.json`` and lets a person try the paths.

FastAPI's own page loads Swagger UI from another site, which a server without internet cannot give
to a browser, and which would then see the API key. This one is a single file of ours without any
outside part, and its policy forbids the browser to load one.
"""

from importlib.resources import files

from fastapi import APIRouter
from starlette.responses import HTMLResponse, Response

CONTENT_SECURITY_POLICY = (
    "default-src 'none'; connect-src 'self'; script-src 'unsafe-inline'; "
    "style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""The page may talk to this server and to nobody else."""


def docs_router() -> APIRouter:
    """Return the route of the page."""
    router = APIRouter(include_in_schema=False)
    page = files("mixtral.server").joinpath("docs.html").read_text(encoding="utf-8")

    @router.get("/docs")
    async def docs() -> Response:
        return HTMLResponse(page, headers={"Content-Security-Policy": CONTENT_SECURITY_POLICY})

    return router
