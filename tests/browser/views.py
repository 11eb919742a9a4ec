"""Every view of the playground with something in it, for the checks that look at all of them.

Chats and documents are canned, so that a picture shows the same today and tomorrow; models, tokens,
experts and loads are the real server's.
"""

import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from tests.browser.api_stub import ChatStub, answer_json, call_answer, text_answer

if TYPE_CHECKING:
    from playwright.sync_api import Page, Route

ANSWER = """A **mixture of experts** has several feed-forward blocks per layer; a router picks two
for each token.

| model | experts | active parameters |
|---|---:|---:|
| 8x7B | 8 | 12.9 B |
| 8x22B | 8 | 39.1 B |

1. The router scores all experts.
2. The best two run, and their outputs are added up by weight.

```python
def route(x, gate, k=2):
    scores = x @ gate.T
    return scores.topk(k)
```

> See [the paper](https://arxiv.org/abs/2401.04088), section 2.1; the call is `route(x, gate)`.
"""
ANSWER_USAGE = {"prompt_tokens": 12, "completion_tokens": 204, "total_tokens": 216}
TOOLS = json.dumps(
    [
        {
            "type": "function",
            "function": {
                "name": "get_weather",
                "description": "Weather of a city today",
                "parameters": {
                    "type": "object",
                    "properties": {"city": {"type": "string", "maxLength": 12}},
                    "required": ["city"],
                    "additionalProperties": False,
                },
            },
        }
    ]
)
DOCUMENT_TEXT = (
    "Weights are packed.\n\nint4 stores 32 rows side by side, in groups of 128 inputs.\n"
)
CITED = "int4 stores 32 rows side by side, in groups of 128 inputs."
DOCUMENT = {
    "object": "rag.document",
    "id": "0123456789abcdef",
    "source": "packing.md",
    "title": "Packing",
    "num_chunks": 2,
    "num_characters": len(DOCUMENT_TEXT),
    "num_pages": None,
    "added_at": 1_700_000_000.0,
}
PASSAGE = {
    "id": 1,
    "document_id": DOCUMENT["id"],
    "source": "packing.md",
    "title": "Packing",
    "page": None,
    "start": DOCUMENT_TEXT.index(CITED),
    "end": DOCUMENT_TEXT.index(CITED) + len(CITED),
    "heading": "Layout",
    "text": CITED,
    "score": 0.9,
    "similarity": 0.71,
}
RAG_ANSWER = {
    "object": "rag.answer",
    "answer": "Thirty-two rows lie side by side, in groups of 128 inputs [1].",
    "is_found": True,
    "citations": [{"number": 1, "is_supported": True, **PASSAGE}],
    "nearest": None,
    "passages": [PASSAGE],
    "usage": {"prompt_tokens": 50, "completion_tokens": 20, "total_tokens": 70},
}


def wait_until(page: "Page", expression: str) -> None:
    """Wait until an expression is true in the page.

    As a function: an expression by itself would be evaluated anew each time, which the page's
    policy forbids.
    """
    page.wait_for_function(f"() => {expression}")


def say(page: "Page", text: str) -> None:
    """Write a message and send it."""
    page.get_by_test_id("composer-text").fill(text)
    page.get_by_test_id("composer-text").press("Enter")


def wait_until_answered(page: "Page") -> None:
    """Wait until no answer is being made."""
    page.get_by_test_id("stop").wait_for(state="hidden")
    page.wait_for_selector("[data-testid=message][data-role=assistant]:not([aria-busy=true])")


def open_view(page: "Page", name: str) -> None:
    """Open one of the four tabs."""
    page.get_by_test_id(f"tab-{name}").click()
    page.get_by_test_id(f"panel-{name}").wait_for()


def is_narrow(page: "Page") -> bool:
    size = page.viewport_size
    return size is not None and size["width"] < 832  # 52rem, js/panels.js


def open_options(page: "Page") -> None:
    """Show the options of the conversation, where they are not beside it."""
    if not page.get_by_test_id("system-text").is_visible():
        page.get_by_test_id("toggle-options").click()
        page.get_by_test_id("system-text").wait_for()


def unfold(page: "Page", name: str) -> None:
    """Open one of the folded parts of the options."""
    part = page.get_by_test_id(name)
    if part.get_attribute("open") is None:
        part.locator("> summary").click()


def stub_documents(page: "Page", *, answer: Mapping[str, Any] = RAG_ANSWER) -> None:
    """Give the server a store with one document, and an answer from it."""
    listed = {"object": "list", "data": [DOCUMENT]}
    answer_json(page, "**/v1/rag/documents", listed)
    answer_json(page, "**/v1/rag/documents/*", {**DOCUMENT, "text": DOCUMENT_TEXT})

    def ask(route: "Route") -> None:
        pieces = [
            {"object": "rag.passages", "data": answer["passages"]},
            {"object": "rag.delta", "text": answer["answer"]},
            answer,
        ]
        lines = [f"data: {json.dumps(piece)}\n\n" for piece in pieces]
        route.fulfill(
            content_type="text/event-stream; charset=utf-8",
            body="".join(lines) + "data: [DONE]\n\n",
        )

    page.route("**/v1/rag/ask", ask)


def show_welcome(page: "Page") -> None:
    page.get_by_test_id("welcome").wait_for()


def show_chat(page: "Page") -> None:
    lines = ANSWER.splitlines(keepends=True)
    ChatStub([text_answer(*lines, usage=ANSWER_USAGE)]).attach(page)
    say(page, "What is a mixture of experts?")
    wait_until_answered(page)


def show_tool_call(page: "Page") -> None:
    ChatStub([call_answer("get_weather", '{"city": "Paris"}')]).attach(page)
    say(page, "What is the weather in Paris?")
    page.get_by_test_id("tool-result-text").wait_for()


def show_options(page: "Page") -> None:
    open_options(page)
    for name in ("sampling-more", "format", "tools"):
        unfold(page, name)
    page.get_by_test_id("format-kind").select_option("json_schema")
    page.get_by_test_id("schema-text").fill('{"type": "struct", "properties": {}}')
    page.get_by_test_id("tools-text").fill(TOOLS)
    page.get_by_test_id("field-temperature").fill("9")


def show_snippet(page: "Page") -> None:
    page.get_by_test_id("composer-text").fill("Hello")
    page.get_by_test_id("show-snippet").click()
    page.get_by_test_id("snippet-code").wait_for()


def show_absent_documents(page: "Page") -> None:
    error = {"object": "error", "message": "this server has no store.", "type": "server_error"}

    def refuse(route: "Route") -> None:
        route.fulfill(status=501, content_type="application/json", body=json.dumps(error))

    page.route("**/v1/rag/documents", refuse)
    open_view(page, "documents")
    page.get_by_test_id("documents-absent").wait_for()


def show_documents(page: "Page") -> None:
    stub_documents(page)
    open_view(page, "documents")
    page.get_by_test_id("question").fill("How is int4 packed?")
    page.get_by_test_id("ask-send").click()
    page.get_by_test_id("citation-mark").wait_for()


def show_source(page: "Page") -> None:
    show_documents(page)
    page.get_by_test_id("citation-mark").click()
    page.get_by_test_id("cited").wait_for()


def show_experts(page: "Page") -> None:
    open_view(page, "experts")
    page.get_by_test_id("route-read").click()
    page.get_by_test_id("token").first.wait_for()
    page.get_by_test_id("token").nth(3).click()
    page.get_by_test_id("live-heat").locator("td").first.wait_for()


def show_settings(page: "Page") -> None:
    open_view(page, "settings")


def show_confirmation(page: "Page") -> None:
    open_view(page, "settings")
    page.get_by_test_id("delete-all").click()
    page.get_by_test_id("confirm-no").wait_for()


VIEWS: Mapping[str, "Callable[[Page], None]"] = {
    "welcome": show_welcome,
    "chat": show_chat,
    "tool-call": show_tool_call,
    "options": show_options,
    "copy-as-code": show_snippet,
    "documents": show_documents,
    "documents-absent": show_absent_documents,
    "source": show_source,
    "experts": show_experts,
    "settings": show_settings,
    "confirmation": show_confirmation,
}
"""Name of a picture -> what brings the page there."""

EXPECTED_ERRORS: Mapping[str, str] = {"documents-absent": "501"}
"""What the browser itself writes on the console in a view."""
