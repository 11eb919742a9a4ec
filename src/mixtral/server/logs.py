"""What the server writes down: one line per request, as text or as JSON.

A ``RequestRecord`` goes through a request. The middlewares fill in who asked and how it ended, the
routes what the model did; at the end it becomes the access line and is shown to the metrics. Of the
words of a request it holds none, unless the server was told to log prompts.

    {"time": "2026-01-31T12:00:00.123Z", "level": "info", "logger": "mixtral.access",
     "message": "request", "request_id": "9f86d081884c7d65", "key": "alice", "method": "POST",
     "path": "/v1/chat/completions", "status": 200, "duration_ms": 812.4, "ttft_ms": 95.0,
     "prompt_tokens": 64, "completion_tokens": 64, "client": "10.0.0.7"}
"""

import json
import logging
import sys
import time
from collections.abc import Mapping, MutableMapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from mixtral.server.keys import ApiKey

ACCESS_LOGGER = "mixtral.access"
"""Name of the logger of access lines."""

CURRENT_REQUEST_ID: ContextVar[str] = ContextVar("request_id")
"""Id of the request in whose task we are; every line that is logged there says it."""

_QUIET_PATHS = ("/health", "/ready", "/metrics", "/v1/status")
_CLIENT_GONE = 499  # nginx's number for a client that left before its answer began.


@dataclass(kw_only=True, slots=True)
class RequestRecord:
    """What one request was and did; written to while it runs, on the event loop only."""

    request_id: str
    """Sent back in the header X-Request-Id."""
    method: str
    """HTTP method."""
    path: str
    """Path as it was sent, without the query."""
    client: str = ""
    """Address of the other end."""
    started_s: float = field(default_factory=time.perf_counter)
    """When the headers were there, ``perf_counter`` seconds."""
    key: ApiKey | None = None
    """The API key; None where none was needed, or none was valid."""
    route: str = ""
    """Template of the path that answered, such as /v1/models/{id}; empty where none did."""
    status: int | None = None
    """HTTP status; None before the answer began."""
    is_complete: bool = False
    """Whether the whole answer was handed to the connection."""
    num_prompt_tokens: int = 0
    """Tokens of the prompts; the routes add them."""
    num_completion_tokens: int = 0
    """Tokens of the answers; the routes add them."""
    first_token_s: float | None = None
    """When the first token was there, ``perf_counter`` seconds; the routes set it."""
    ended_s: float | None = None
    """When the request was over."""
    body: str | None = None
    """The body, where prompts are logged."""

    @property
    def key_name(self) -> str:
        """Name of the API key, or a dash."""
        return "-" if self.key is None else self.key.name

    @property
    def duration_s(self) -> float:
        """Seconds from the headers to the end of the answer, or to now."""
        return (self.ended_s or time.perf_counter()) - self.started_s

    def fields(self) -> dict[str, Any]:
        """Return what the access line says, in its order."""
        ttft_s = None if self.first_token_s is None else self.first_token_s - self.started_s
        values = {
            "request_id": self.request_id,
            "key": self.key_name,
            "method": self.method,
            "path": self.path,
            "status": self.status or _CLIENT_GONE,
            "duration_ms": _ms(self.duration_s),
            "ttft_ms": None if ttft_s is None else _ms(ttft_s),
            "prompt_tokens": self.num_prompt_tokens,
            "completion_tokens": self.num_completion_tokens,
            "client": self.client,
        }
        if not self.is_complete:
            values["cut"] = True
        if self.body is not None:
            values["body"] = self.body
        return values


def record_of(scope: MutableMapping[str, Any]) -> RequestRecord:
    """Return the record of a request; one that nobody reads where no middleware made one."""
    state = scope.setdefault("state", {})
    if "record" not in state:
        state["record"] = RequestRecord(
            request_id="", method=scope.get("method", ""), path=scope.get("path", "")
        )
    record = state["record"]
    assert isinstance(record, RequestRecord)
    return record


def log_request(record: RequestRecord) -> None:
    """Write the access line; those of probes are for debugging only."""
    is_quiet = record.path in _QUIET_PATHS and record.status == 200
    level = logging.DEBUG if is_quiet else logging.INFO
    logger = logging.getLogger(ACCESS_LOGGER)
    if logger.isEnabledFor(level):
        logger.log(level, "request", extra={"fields": record.fields()})


def configure_logging(log_format: Literal["text", "json"], level: str) -> None:
    """Send the messages of the server and of uvicorn to standard error.

    Args:
        log_format: ``text`` or ``json``.
        level: Least important level that is written.
    """
    handler = _StderrHandler()
    handler.setFormatter(_JsonFormatter() if log_format == "json" else _TextFormatter())
    for name in ("mixtral", "uvicorn"):
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.propagate = False
        logger.setLevel(level.upper())
    if level != "debug":
        # What uvicorn says of its start and of garbage on a connection is said by ours.
        logging.getLogger("uvicorn").setLevel(logging.ERROR)


class _StderrHandler(logging.Handler):
    """Writes to whatever standard error is at that moment."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line; a log that cannot be written must not end a request."""
        try:
            sys.stderr.write(self.format(record) + "\n")
            sys.stderr.flush()
        except (OSError, ValueError):
            return


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        values: dict[str, Any] = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_fields(record),
        }
        if record.exc_info:
            values["exception"] = self.formatException(record.exc_info)
        return json.dumps(values, default=str)


class _TextFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        parts = [_time(record), record.levelname.lower(), _one_line(record.getMessage())]
        parts += [f"{k}={_text(v)}" for k, v in _fields(record).items() if v is not None]
        text = " ".join(parts)
        if record.exc_info:
            text += "\n" + self.formatException(record.exc_info)
        return text


def _fields(record: logging.LogRecord) -> Mapping[str, Any]:
    fields = getattr(record, "fields", None)
    if isinstance(fields, Mapping):
        return fields
    request_id = CURRENT_REQUEST_ID.get("")
    return {"request_id": request_id} if request_id else {}


def _time(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _text(value: Any) -> str:
    """Spell a value so that no path or header can make up a field or a line of its own."""
    text = str(value)
    is_plain = text.isascii() and text.isprintable() and not set(text) & set(" \"'=\\")
    return text if is_plain and text else json.dumps(text)


def _one_line(text: str) -> str:
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 1)
