"""Refuses what a browser sends in the name of another web page.

A browser asks before most requests from one origin to another (``Cors`` answers), but not before a
form: a page that somebody looks at could put documents into the store of a server on the same
machine. So a request that changes something or costs something has to come from a page of this
server, from a page whose origin is allowed, or from no page at all.

Browsers say where a request comes from in ``Sec-Fetch-Site`` (Fetch Metadata, W3C), and pages
cannot write that header. Over plain HTTP from another machine they leave it out; there ``Origin``
is compared with ``Host``. Programs send neither.
"""

from collections.abc import Collection

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from mixtral.server.errors import error_response

_HARMLESS = frozenset({"GET", "HEAD", "OPTIONS"})
_OWN = frozenset({"same-origin", "none"})


class OriginCheck:
    """Lets requests of other pages pass only where their origin is allowed.

    Args:
        app: What is inside.
        allowed: Origins of pages that may call the API; ``*`` is every one.
    """

    def __init__(self, app: ASGIApp, *, allowed: Collection[str]) -> None:
        self._app = app
        self._allowed = frozenset(allowed)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the application, or answer 403."""
        if scope["type"] == "http" and scope["method"] not in _HARMLESS:
            headers = Headers(scope=scope)
            if not self._may_pass(headers):
                origin = headers.get("origin", "another site")
                message = (
                    f"a page of {origin!r} may not make this request; --cors-origin allows origins."
                )
                await error_response(403, message, code="cors")(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _may_pass(self, headers: Headers) -> bool:
        origin, site = headers.get("origin"), headers.get("sec-fetch-site")
        if "*" in self._allowed or (origin is not None and origin in self._allowed):
            return True
        if site is not None:
            return site in _OWN
        return origin is None or origin.partition("://")[2] == headers.get("host")
