"""Reads a streamed answer: when its tokens came, how many they were, and whether it ended well.

An event costs a search for line ends and a clock value. Only the first events, until one has text,
and the last three are parsed as JSON: the first tell when the first token came, the last carry the
reason of the end and the counts. The number of tokens is what the server says in ``usage``; where
it says nothing, an event with text counts as one token.
"""

import json
from collections import deque
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

_MAX_ERROR_BYTES = 4096
# The last token, the finish reason, the usage: three events where a server sends them apart.
_TAIL_EVENTS = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """A streamed answer that ended; times are of ``perf_counter``."""

    first_s: float
    """When the first token came."""
    last_s: float
    """When the last one came, or the finish reason if that was sent alone."""
    end_s: float
    """When the stream said that it is over."""
    gaps_s: list[float]
    """Seconds between neighbouring events from the first token to the last."""
    num_tokens: int
    num_prompt_tokens: int | None
    """None where the server does not say."""
    finish_reason: str | None
    has_usage: bool
    """Whether the server counted the tokens."""


class BadAnswer(Exception):
    """The server answered, but not with a whole stream."""


class StreamReader:
    """Takes the body of one answer; satisfies ``Receiver``."""

    def __init__(self) -> None:
        self._status = 0
        self._content_type = ""
        self._rest = b""
        self._error = b""
        self._times_s: list[float] = []
        self._first: int | None = None
        self._done_s: float | None = None
        self._tail: deque[tuple[int, bytes]] = deque(maxlen=_TAIL_EVENTS)

    def on_head(self, status: int, content_type: str) -> None:
        """Note the status."""
        self._status, self._content_type = status, content_type

    def on_body(self, data: bytes, now_s: float) -> None:
        """Take bytes that arrived at ``now_s``."""
        if self._status != 200 or self._content_type.startswith("application/json"):
            self._error = (self._error + data)[:_MAX_ERROR_BYTES]
            return
        lines = (self._rest + data).split(b"\n")
        self._rest = lines.pop()
        for line in lines:
            if line.startswith(b"data:"):
                self._take(line[5:].strip(), now_s)

    def answer(self) -> Answer:
        """Return the answer, when the response is over.

        Raises:
            BadAnswer: It is an error, or not a whole stream.
        """
        if self._status != 200:
            raise BadAnswer(f"HTTP {self._status}: {_error_message(self._error)}")
        if not self._times_s:
            raise BadAnswer(f"no events in the answer, which is {self._content_type or 'untyped'}")
        events = [(index, _parse(payload)) for index, payload in self._tail]
        usage = _last(e["usage"] for _, e in events if isinstance(e.get("usage"), dict)) or {}
        num_tokens, num_prompt = usage.get("completion_tokens"), usage.get("prompt_tokens")
        finish_reason = _last(
            choice["finish_reason"]
            for _, event in events
            for choice in _choices(event)
            if choice.get("finish_reason")
        )
        if (
            error := _last(event["error"] for _, event in events if event.get("error"))
        ) is not None:
            raise BadAnswer(f"error in the stream: {_message_of(error)}")
        if self._done_s is None and finish_reason is None:
            raise BadAnswer("the stream ended before its last event")
        last = _last(index for index, event in events if _choices(event))
        if last is None:
            raise BadAnswer("the stream ended without a choice")
        # Tokens may have no text at all, such as control tokens that are not shown.
        first = min(last, self._first if self._first is not None else 0)
        times = self._times_s[first : last + 1]
        silent = sum(index > first and not _has_text(event) for index, event in events)
        with_text = len(self._times_s) - first - silent
        return Answer(
            first_s=times[0],
            last_s=times[-1],
            end_s=self._done_s or self._times_s[-1],
            gaps_s=[after - before for before, after in pairwise(times)],
            num_tokens=num_tokens if isinstance(num_tokens, int) else with_text,
            num_prompt_tokens=num_prompt if isinstance(num_prompt, int) else None,
            finish_reason=finish_reason,
            has_usage=isinstance(num_tokens, int),
        )

    def _take(self, payload: bytes, now_s: float) -> None:
        if payload == b"[DONE]":
            self._done_s = now_s
            return
        index = len(self._times_s)
        if self._first is None and _has_text(_parse(payload)):
            self._first = index
        self._times_s.append(now_s)
        self._tail.append((index, payload))


class BodyReader:
    """Collects a short answer as it is; satisfies ``Receiver``."""

    def __init__(self) -> None:
        self.status = 0
        self.body = b""

    def on_head(self, status: int, content_type: str) -> None:
        """Note the status."""
        self.status = status

    def on_body(self, data: bytes, now_s: float) -> None:
        """Take bytes."""
        self.body += data

    def parsed(self) -> dict[str, Any]:
        """Return the JSON object of the body; empty if it is something else."""
        return _parse(self.body)

    def error(self) -> str:
        """Return what the body says went wrong, in one line."""
        return _error_message(self.body)


def _parse(payload: bytes) -> dict[str, Any]:
    try:
        value = json.loads(payload)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _choices(event: dict[str, Any]) -> list[dict[str, Any]]:
    choices = event.get("choices")
    return [c for c in choices if isinstance(c, dict)] if isinstance(choices, list) else []


def _has_text(event: dict[str, Any]) -> bool:
    for choice in _choices(event):
        delta = choice.get("delta")
        # reasoning_content: what llama-server and vLLM call the thoughts of a model.
        keys = ("content", "tool_calls", "reasoning_content")
        if choice.get("text") or (isinstance(delta, dict) and any(delta.get(k) for k in keys)):
            return True
    return False


def _last(values: Any) -> Any:
    found = list(values)
    return found[-1] if found else None


def _error_message(body: bytes) -> str:
    """Return the message of an error body, of whichever shape, in one short line."""
    value = _parse(body)
    text = _message_of(value.get("error") or value) if value else body.decode("utf-8", "replace")
    return " ".join(text.split())[:200] or "no message"


def _message_of(error: Any) -> str:
    if isinstance(error, dict):
        error = error.get("message") or error.get("detail") or error
    return error if isinstance(error, str) else json.dumps(error)
