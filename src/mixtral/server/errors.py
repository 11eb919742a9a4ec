"""Every error that leaves the server: one flat JSON body, and the status of each exception.

The body is flat because it must be read by ten clients:

    {"object": "error", "message": "...", "type": "invalid_request_error", "param": null,
     "code": null}

``mistralai`` 0.x recognises an error by ``object`` and needs ``message`` to be a string; the
``openai`` client takes message, type, param and code from the flat body as well; ``mistralai`` 1.x
and later parse a 422 as HTTPValidationError, whose ``detail`` may be absent, or a list of objects
with ``loc``, ``msg`` and ``type``.

    400  a value is wrong, a field is not supported, the model is unknown, the prompt is too long
    401  no API key, or a wrong one         403  the key may not do this
    404  no such path                       405  no such method
    413  the body is too large              422  a field is missing, unknown or of a wrong type
    429  too many requests or a full queue; Retry-After tells when to come back
    500  a failure of ours                  501  a path of Mistral's API that is not offered
    503  the engine has stopped, or the server is going down
"""

from collections.abc import Mapping, Sequence
from typing import Any

import orjson
from starlette.responses import Response

from mixtral.errors import (
    ContextLengthExceeded,
    EngineDead,
    EngineError,
    Error,
    QueueFull,
    RequestError,
    TokenizerError,
    UnsupportedError,
)

TYPES_BY_STATUS = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    429: "rate_limit_error",
}
"""The field ``type`` where the caller names none; other 4xx are ``invalid_request_error``."""

RETRY_AFTER_S = 1
"""Seconds after which a client that met a full queue or a stopping server may come back."""


class ApiError(Exception):
    """An error with everything that its HTTP answer needs; the routes raise it."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        type: str | None = None,
        param: str | None = None,
        code: str | None = None,
        detail: Sequence[Mapping[str, Any]] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.type = type or type_of_status(status)
        self.param = param
        self.code = code
        self.detail = detail
        self.headers = headers

    def response(self) -> Response:
        """Return the answer to send."""
        return error_response(
            self.status,
            self.message,
            type=self.type,
            param=self.param,
            code=self.code,
            detail=self.detail,
            headers=self.headers,
        )


def type_of_status(status: int) -> str:
    """Return the field ``type`` that goes with a status."""
    if status >= 500:
        return "server_error"
    return TYPES_BY_STATUS.get(status, "invalid_request_error")


def error_body(
    message: str, *, type: str, param: str | None = None, code: str | None = None
) -> dict[str, Any]:
    """Return the flat body."""
    return {"object": "error", "message": message, "type": type, "param": param, "code": code}


def error_response(
    status: int,
    message: str,
    *,
    type: str | None = None,
    param: str | None = None,
    code: str | None = None,
    detail: Sequence[Mapping[str, Any]] | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """Return an ASGI response with the flat body.

    Args:
        status: HTTP status.
        message: One line: what is wrong, the value, what is allowed, what to do.
        type: Kind of error; None takes the one of the status.
        param: The field of the request that is wrong.
        code: A word or number that programs compare.
        detail: FastAPI's list of ``{"loc", "msg", "type"}``, for 422 alone.
        headers: More headers.
    """
    body = error_body(message, type=type or type_of_status(status), param=param, code=code)
    if detail is not None:
        body["detail"] = list(detail)
    return Response(
        orjson.dumps(body),
        status_code=status,
        media_type="application/json",
        headers=None if headers is None else dict(headers),
    )


def to_api_error(error: Exception) -> ApiError:
    """Return what the client is told about an exception; unknown ones tell nothing of ours."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, ContextLengthExceeded):
        return ApiError(400, str(error), code="context_length_exceeded")
    if isinstance(error, QueueFull):
        return ApiError(429, str(error), code="queue_full", headers=_retry_after())
    if isinstance(error, UnsupportedError | TokenizerError):
        return ApiError(400, str(error), code="unsupported")
    if isinstance(error, RequestError):
        return ApiError(400, str(error))
    if isinstance(error, EngineDead):
        return ApiError(503, str(error), code="engine_dead", headers=_retry_after())
    if isinstance(error, EngineError):
        return ApiError(500, str(error), code="engine_error")
    if isinstance(error, Error):
        return ApiError(500, str(error))
    return ApiError(500, "internal error of the server; its log has the details")


def _retry_after() -> dict[str, str]:
    return {"Retry-After": str(RETRY_AFTER_S)}
