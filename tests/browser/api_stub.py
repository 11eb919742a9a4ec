"""The API as a test wants it to answer instead of the server; the page stays the real one."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from playwright.sync_api import Page, Route

CHAT = "**/v1/chat/completions"
USAGE = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}


def piece(
    delta: dict[str, Any], *, finish_reason: str | None = None, index: int = 0, **more: Any
) -> dict[str, Any]:
    """One event of a streamed chat."""
    choice_fields = {name: more.pop(name) for name in ("routing", "logprobs") if name in more}
    choice = {"index": index, "delta": delta, "finish_reason": finish_reason, **choice_fields}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "nano",
        "choices": [choice],
        **more,
    }


def text_answer(*texts: str, usage: Mapping[str, int] = USAGE) -> list[dict[str, Any]]:
    """The events of an answer in these pieces."""
    first = piece({"role": "assistant", "content": ""})
    last = piece({"content": ""}, finish_reason="stop", usage=usage)
    return [first, *(piece({"content": text}) for text in texts), last]


def call_answer(name: str, arguments: str) -> list[dict[str, Any]]:
    """The events of an answer that calls a tool."""
    call = {
        "id": "abcDEF123",
        "type": "function",
        "index": 0,
        "function": {"name": name, "arguments": arguments},
    }
    return [
        piece({"role": "assistant", "content": ""}),
        piece({"content": "", "tool_calls": [call]}, finish_reason="tool_calls", usage=USAGE),
    ]


def events(pieces: Sequence[dict[str, Any]]) -> str:
    """The body of a stream."""
    lines = [f"data: {json.dumps(one)}\n\n" for one in pieces]
    return "".join(lines) + "data: [DONE]\n\n"


@dataclass
class ChatStub:
    """Answers chats in turn and keeps what was asked."""

    answers: list[list[dict[str, Any]]]
    asked: list[dict[str, Any]] = field(default_factory=list)

    def attach(self, page: "Page") -> "ChatStub":
        page.route(CHAT, self._answer)
        return self

    def _answer(self, route: "Route") -> None:
        self.asked.append(json.loads(route.request.post_data or "{}"))
        body = events(self.answers[min(len(self.asked), len(self.answers)) - 1])
        route.fulfill(status=200, content_type="text/event-stream; charset=utf-8", body=body)


_HELD = """path => {
  const real = window.fetch;
  window.fetch = (url, options) => {
    if (!String(url).endsWith(path)) return real(url, options);
    const start = controller => {
      window.heldStream = controller;
      options.signal.addEventListener("abort", () => controller.error(options.signal.reason));
    };
    const headers = { "content-type": "text/event-stream; charset=utf-8" };
    return Promise.resolve(new Response(new ReadableStream({ start }), { headers }));
  };
}"""


class HeldStream:
    """A stream whose events arrive when a test sends them, and that ends when it says so.

    ``page.route`` gives an answer as a whole; what happens while one grows needs this. The page is
    loaded anew.
    """

    def __init__(self, page: "Page", path: str = "/v1/chat/completions") -> None:
        self._page = page
        page.add_init_script(f"({_HELD})({json.dumps(path)})")
        page.reload()

    def send(self, *pieces: dict[str, Any]) -> None:
        """Let these events arrive; the question was asked, or is being asked."""
        self._push("".join(f"data: {json.dumps(one)}\n\n" for one in pieces))

    def end(self) -> None:
        """Tell the end."""
        self._push("data: [DONE]\n\n")
        self._page.evaluate("window.heldStream.close()")

    def _push(self, text: str) -> None:
        self._page.wait_for_function("() => window.heldStream")
        push = "text => window.heldStream.enqueue(new TextEncoder().encode(text))"
        self._page.evaluate(push, text)


def answer_json(page: "Page", path: str, body: Callable[[], Any] | Any) -> None:
    """Let a path answer with this JSON."""

    def answer(route: "Route") -> None:
        value = body() if callable(body) else body
        route.fulfill(status=200, content_type="application/json", body=json.dumps(value))

    page.route(path, answer)
