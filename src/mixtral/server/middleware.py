"""What surrounds the application: who may come in, how much, and what is written down of it.

``protect`` wraps an ASGI application in these layers, outermost first; the body and the limits of a
key have a file of their own, ``middleware_body``, and so has the origin:

    access   gives the request an id and a record; writes the access line at the end
    CORS     only where origins were allowed
    origin   refuses what pages of other origins send; 403
    drain    refuses work once the server was told to stop
    key      finds the API key; 401
    body     reads the body, within its size and time; 413, 408
    limits   the rates and the queue of the key; 429

They are plain ASGI, without tasks or queues between the layers: a token of a stream costs one more
function call. Whatever is refused is answered with the flat body of ``errors``.
"""

import logging
import re
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mixtral.server.errors import error_response, to_api_error
from mixtral.server.keys import InvalidKey, KeyRing
from mixtral.server.limits import Limits
from mixtral.server.logs import CURRENT_REQUEST_ID, RequestRecord, log_request, record_of
from mixtral.server.middleware_body import BodyReader, KeyLimits
from mixtral.server.middleware_origin import OriginCheck
from mixtral.server.settings import ServerSettings

logger = logging.getLogger(__name__)

PROBES = frozenset({"/health", "/ready", "/metrics", "/v1/status"})
"""Paths that are answered to the end, also while the server is about to stop."""

OPEN_PATHS = frozenset(
    {"/", "/playground", "/health", "/ready", "/status", "/docs", "/redoc", "/openapi.json"}
)
"""Paths that need no key: they say nothing about anybody, and cost nothing."""

UPLOAD_PATH = "/v1/rag/documents"
"""The path whose bodies are files, which have a limit of their own."""

_METRICS = frozenset({"/metrics", "/v1/status"})
_OPEN_PREFIXES = ("/docs/", "/playground/", "/status/")  # The files of these pages.
_DRAIN_RETRY_S = 5  # About what a restart of a small model takes.
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")


@dataclass(slots=True)
class Traffic:
    """What goes on now; changed on the event loop and by the signal handler."""

    num_running: int = 0
    """Requests being answered, probes left out."""
    is_draining: bool = False
    """Whether the server was told to stop."""


def protect(
    app: ASGIApp,
    *,
    settings: ServerSettings,
    keys: KeyRing,
    traffic: Traffic | None = None,
    on_request: Callable[[RequestRecord], None] | None = None,
) -> ASGIApp:
    """Return the application behind everything that the settings ask for.

    Args:
        app: The application.
        settings: Limits, times, origins, what to log.
        keys: The API keys.
        traffic: Is told what runs, and tells when to refuse.
        on_request: Called with the record of each request when it is over.
    """
    app = KeyLimits(app, limits=Limits())
    app = BodyReader(
        app,
        max_bytes=settings.max_body_bytes,
        larger={UPLOAD_PATH: settings.max_upload_bytes},
        timeout_s=settings.body_timeout_s,
        keeps_text=settings.log_prompts,
    )
    open_paths = OPEN_PATHS | _METRICS if settings.metrics_without_key else OPEN_PATHS
    app = KeyCheck(app, keys=keys, open_paths=open_paths)
    app = DrainCheck(app, traffic=traffic or Traffic())
    app = OriginCheck(app, allowed=settings.cors_origins)
    if settings.cors_origins:
        app = Cors(
            app,
            allow_origins=settings.cors_origins,
            allow_methods=("GET", "POST", "DELETE", "OPTIONS"),
            allow_headers=("*",),
            expose_headers=("X-Request-Id", "Retry-After"),
        )
    return AccessLog(app, on_request=on_request)


class AccessLog:
    """Gives each request its id and its record, and ends both.

    Args:
        app: What is inside.
        on_request: Called with the record of each request when it is over.
    """

    def __init__(
        self, app: ASGIApp, *, on_request: Callable[[RequestRecord], None] | None = None
    ) -> None:
        self._app = app
        self._on_request = on_request

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the application, and answer 500 where it fails before it has answered."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        record = _new_record(scope)
        scope.setdefault("state", {})["record"] = record
        token = CURRENT_REQUEST_ID.set(record.request_id)
        send = _noting_send(send, record)
        try:
            await self._app(scope, receive, send)
        except Exception as error:
            logger.exception("a request failed inside the server")
            if record.status is None:
                await to_api_error(error).response()(scope, receive, send)
        finally:
            self._end(scope, record)
            CURRENT_REQUEST_ID.reset(token)

    def _end(self, scope: Scope, record: RequestRecord) -> None:
        record.ended_s = time.perf_counter()
        record.route = getattr(scope.get("route"), "path", "")
        log_request(record)
        if self._on_request is not None:
            self._on_request(record)


class DrainCheck:
    """Counts the requests that run, and refuses new ones once the server is about to stop.

    Args:
        app: What is inside.
        traffic: Where the count and the order to stop are.
    """

    def __init__(self, app: ASGIApp, *, traffic: Traffic) -> None:
        self._app = app
        self._traffic = traffic

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the application, or answer 503; /ready is never ready while draining."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        is_probe = scope["path"] in PROBES
        if self._traffic.is_draining and (not is_probe or scope["path"] == "/ready"):
            headers = {"Retry-After": str(_DRAIN_RETRY_S), "Connection": "close"}
            message = "the server is about to stop; try again in a moment, or another server."
            await error_response(503, message, code="stopping", headers=headers)(
                scope, receive, send
            )
            return
        if is_probe:
            await self._app(scope, receive, send)
            return
        self._traffic.num_running += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._traffic.num_running -= 1


class KeyCheck:
    """Finds the API key of a request and puts it into its record.

    Args:
        app: What is inside.
        keys: The keys.
        open_paths: Paths that need none.
    """

    def __init__(self, app: ASGIApp, *, keys: KeyRing, open_paths: frozenset[str]) -> None:
        self._app = app
        self._keys = keys
        self._open_paths = open_paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the application, or answer 401."""
        if scope["type"] == "http" and not self._is_open(scope["path"]):
            try:
                key = self._keys.authenticate(Headers(scope=scope).get("authorization"))
            except InvalidKey as error:
                headers = {"WWW-Authenticate": "Bearer"}
                response = error_response(401, str(error), code="invalid_api_key", headers=headers)
                await response(scope, receive, send)
                return
            record_of(scope).key = key
        await self._app(scope, receive, send)

    def _is_open(self, path: str) -> bool:
        return path in self._open_paths or path.startswith(_OPEN_PREFIXES)


class Cors(CORSMiddleware):
    """Starlette's, but with the body that all our errors have."""

    def preflight_response(self, request_headers: Headers) -> Response:
        """Answer a browser that asks whether it may ask."""
        response = super().preflight_response(request_headers)
        if response.status_code < 400:
            return response
        origin = request_headers["origin"]
        return error_response(
            400,
            f"a page of {origin!r} may not make this request; --cors-origin allows origins.",
            code="cors",
            headers={"Vary": response.headers["vary"]},
        )


def _new_record(scope: Scope) -> RequestRecord:
    given = Headers(scope=scope).get("x-request-id", "")
    client = scope.get("client")
    return RequestRecord(
        request_id=given if _REQUEST_ID.fullmatch(given) else secrets.token_hex(8),
        method=scope["method"],
        path=scope["path"],
        client=client[0] if client else "",
    )


def _noting_send(send: Send, record: RequestRecord) -> Send:
    """Return a ``send`` that adds the request id and notes status and end."""
    header = (b"x-request-id", record.request_id.encode())

    async def noting(message: Message) -> None:
        if message["type"] == "http.response.start":
            record.status = message["status"]
            message = {**message, "headers": [*message.get("headers", ()), header]}
            await send(message)
            return
        await send(message)
        if not message.get("more_body", False):
            record.is_complete = True

    return noting
