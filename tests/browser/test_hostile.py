"""What a model, a document or a file says can be read and can do nothing.

The page and its Content-Security-Policy are the real ones; only the answers are made up. Every
window is watched (conftest.py): a dialog, a request to another place or a breach of the policy
fails the test, too, so the policy never has to be the one that stops an attack.
"""

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from tests.browser.api_stub import ChatStub, answer_json, call_answer, text_answer
from tests.browser.views import (
    DOCUMENT,
    PASSAGE,
    RAG_ANSWER,
    open_view,
    say,
    stub_documents,
    wait_until,
    wait_until_answered,
)

if TYPE_CHECKING:
    from playwright.sync_api import Page, Route

pytestmark = pytest.mark.browser

HIT = "window.hit = 1"
ATTACKS = (
    f"<script>{HIT}</script>",
    f"<img src=x onerror='{HIT}'>",
    f"<svg onload='{HIT}'><script>{HIT}</script></svg>",
    f"<svg><animate onbegin='{HIT}' attributeName=x dur=1s></svg>",
    f"<math><mtext><table><mglyph><style><!--</style><img title='--><img src=x onerror={HIT}>'>",
    f"<iframe srcdoc='<script>parent.{HIT}</script>'></iframe>",
    "<iframe src='https://attacker.example/'></iframe>",
    f"<object data='javascript:{HIT}'></object><embed src='javascript:{HIT}'>",
    f"<details open ontoggle='{HIT}'>x</details>",
    f"<input autofocus onfocus='{HIT}'>",
    "<style>@import 'https://attacker.example/x.css'; body { display: none }</style>",
    "<link rel=stylesheet href='https://attacker.example/x.css'>",
    "<meta http-equiv=refresh content='0; url=https://attacker.example/'>",
    "<base href='https://attacker.example/'>",
    "<form action='https://attacker.example/'><button>Log in again</button></form>",
    "<div style='position: fixed; inset: 0; background: url(https://attacker.example/x)'>x</div>",
    f"[a link](javascript:{HIT})",
    f"[a link](JaVaScRiPt&colon;{HIT})",
    "[a link](data:text/html;base64,PHNjcmlwdD4=)",
    f"[a link](vbscript:{HIT})",
    f'[a link](https://example.org/" onmouseover="{HIT})',
    "[a link](/v1/models)",
    "![a picture](https://attacker.example/pixel.png)",
    f"![a picture](javascript:{HIT})",
    f'![x](https://example.org/x"onerror="{HIT})',
    "![a][b]\n\n[b]: https://attacker.example/pixel.png",
    f"<https://example.org/><img src=x onerror={HIT}>",
    f"```html\n<script>{HIT}</script>\n```",
    f'```"><img src=x onerror={HIT}>\n<b>x</b>\n```',
    f"`<img src=x onerror={HIT}>`",
    f"| a |\n|---|\n| <img src=x onerror={HIT}> |",
    f"# <img src=x onerror={HIT}>",
    "<a href='https://example.org' id='send' name='composer-text'>x</a>",
    "<form id=composer><input name=submit><input name=attributes></form>",
    f"<noscript><p title='</noscript><img src=x onerror={HIT}>'>",
    f"<template><script>{HIT}</script></template>",
    f"\u0000<scr\u0000ipt>{HIT}</script>",
    f"<img src=x onerror=\u2028{HIT}>",
    "[" * 2000 + "](" + ")" * 2000,
    "> " * 500 + "deep",
)
"""Ways in that browsers and renderers of Markdown have had; each sets ``window.hit`` or asks for
something from attacker.example if it works."""

INERT = """root => {
  const forbidden = "script, style, link, meta, base, iframe, object, embed, img, picture, video, "
    + "audio, source, svg, math, form, input, textarea, select, template, noscript, dialog";
  const problems = [...root.querySelectorAll(forbidden)].map(one => `element ${one.tagName}`);
  for (const one of root.querySelectorAll("*")) {
    for (const { name, value } of one.attributes) {
      if (name.startsWith("on") || /^(style|src|srcset|id|name|action)$/.test(name))
        problems.push(`${one.tagName} has ${name}=${value}`);
      if (name === "href" && !/^(https?|mailto):/.test(value)) problems.push(`a link to ${value}`);
    }
    if (one.tagName === "A" && one.hasAttribute("href")) {
      const rel = one.getAttribute("rel") ?? "";
      if (!rel.includes("noopener") || one.target !== "_blank") problems.push("link keeps page");
    }
  }
  return problems;
}"""


def check_inert(page: "Page", selector: str) -> None:
    """Nothing was run, and nothing is there that could be."""
    # Long enough for a picture that is not there to fail.
    page.evaluate("new Promise(resolve => setTimeout(resolve, 50))")
    assert page.evaluate("window.hit") is None
    for element in page.locator(selector).all():
        assert element.evaluate(INERT) == []


def show_answer(page: "Page", *texts: str) -> None:
    ChatStub([text_answer(*texts)]).attach(page)
    say(page, "Hello")
    wait_until_answered(page)


# ---- Answers ---------------------------------------------------------------------------------


def test_no_answer_can_do_anything(page: "Page") -> None:
    ChatStub([text_answer(attack) for attack in ATTACKS]).attach(page)
    for attack in ATTACKS:
        say(page, "Hello")
        wait_until(
            page,
            f"document.querySelectorAll('.message').length === {2 * (ATTACKS.index(attack) + 1)}",
        )
        wait_until_answered(page)
        assert page.evaluate("window.hit") is None, attack
        problems = page.locator(".message .body").last.evaluate(INERT)
        assert problems == [], attack
    check_inert(page, ".message .body")
    assert page.get_by_test_id("composer-text").is_visible()


def test_html_is_shown_as_the_text_that_it_is(page: "Page") -> None:
    show_answer(page, f"Look: <img src=x onerror='{HIT}'> and <b>bold</b>.")
    text = page.get_by_test_id("message-body").last.inner_text()
    assert text == f"Look: <img src=x onerror='{HIT}'> and <b>bold</b>."


def test_pieces_are_safe_wherever_a_stream_is_cut(page: "Page") -> None:
    text = f"<img src=x onerror='{HIT}'>[a](javascript:{HIT})<script>{HIT}</script>"
    show_answer(page, *text)
    check_inert(page, ".message .body")


def test_good_markdown_still_works(page: "Page") -> None:
    show_answer(page, "A [link](https://example.org), **bold**, `code`.\n\n```python\nx = 1\n```\n")
    body = page.get_by_test_id("message-body").last
    assert body.locator("a").get_attribute("href") == "https://example.org"
    assert body.locator("strong").inner_text() == "bold"
    assert body.locator("pre code [class^=hljs]").count() > 0
    check_inert(page, ".message .body")


# ---- Everything else that comes from elsewhere -----------------------------------------------


@pytest.mark.parametrize("attack", ATTACKS[:4])
def test_names_and_arguments_of_tools_are_text(page: "Page", attack: str) -> None:
    ChatStub([call_answer(attack, json.dumps({"city": attack}))]).attach(page)
    say(page, "Hello")
    card = page.get_by_test_id("tool-call")
    card.wait_for()
    assert card.get_by_test_id("tool-call-name").inner_text() == attack
    assert page.evaluate("window.hit") is None
    assert card.locator("img, script, svg, iframe").count() == 0


def test_errors_and_titles_are_text(page: "Page", allowed_errors: list[str]) -> None:
    allowed_errors.append("400")
    attack = f"<img src=x onerror='{HIT}'>"
    body = {"object": "error", "message": attack, "type": "t", "param": None, "code": None}
    page.route(
        "**/v1/chat/completions",
        lambda route: route.fulfill(
            status=400, content_type="application/json", body=json.dumps(body)
        ),
    )
    say(page, attack)
    error = page.get_by_test_id("message-error").last
    error.wait_for()
    assert error.inner_text() == attack
    assert page.get_by_test_id("open-conversation").inner_text() == attack
    check_inert(page, "#messages .body, #conversation-list, #conversation-title")


def test_models_are_text(open_page: "Callable[..., Page]") -> None:
    page = open_page("/docs")  # Routes are in place before the page begins to ask.
    attack = f"<img src=x onerror='{HIT}'>"
    card = page.request.get("/v1/models").json()["data"][0]
    models = {"object": "list", "data": [{**card, "id": attack, "description": attack}]}
    answer_json(page, "**/v1/models", models)
    page.goto("/#settings")
    wait_until(page, "document.querySelector('#model-name').textContent.includes('img')")
    assert page.get_by_test_id("model-name").inner_text() == attack
    assert page.locator("img").count() == 0
    assert page.evaluate("window.hit") is None


def test_documents_passages_and_citations_are_text(page: "Page") -> None:
    attack = f"<img src=x onerror='{HIT}'><script>{HIT}</script>"
    hostile = {**PASSAGE, "text": attack, "title": attack, "source": attack, "heading": attack}
    answer = {
        **RAG_ANSWER,
        "answer": f"{attack} [1] [x](javascript:{HIT}) [1](javascript:{HIT})",
        "citations": [{"number": 1, **hostile}],
        "passages": [hostile],
    }
    stub_documents(page, answer=answer)
    document = {**DOCUMENT, "title": attack, "source": attack}
    answer_json(page, "**/v1/rag/documents", {"object": "list", "data": [document]})
    answer_json(page, "**/v1/rag/documents/*", {**document, "text": f"{attack} and more {attack}"})
    open_view(page, "documents")
    page.get_by_test_id("question").fill("Who?")
    page.get_by_test_id("ask-send").click()
    page.get_by_test_id("citation-mark").first.click()
    page.get_by_test_id("cited").wait_for()
    assert page.get_by_test_id("cited").inner_text() == attack
    assert page.evaluate("window.hit") is None
    assert page.locator("#panel-documents img, #panel-documents iframe, dialog img").count() == 0


def test_names_of_uploads_are_text(page: "Page") -> None:
    attack = f"<img src=x onerror='{HIT}'>"
    stub_documents(page)
    added = {"id": "0" * 16, "source": attack, "title": attack, "status": "refused"}
    body = {"object": "list", "data": [{**added, "num_chunks": 0, "reason": attack}]}

    def refuse(route: "Route") -> None:
        if route.request.method == "GET":
            route.fallback()
        else:
            route.fulfill(content_type="application/json", body=json.dumps(body))

    page.route("**/v1/rag/documents", refuse)
    open_view(page, "documents")
    page.get_by_test_id("file-input").set_input_files(
        {"name": "a.txt", "mimeType": "text/plain", "buffer": b"x"}
    )
    page.get_by_test_id("upload-result").wait_for()
    assert attack in page.get_by_test_id("upload-result").inner_text()
    assert page.locator("#panel-documents img").count() == 0
    assert page.evaluate("window.hit") is None


def test_tokens_are_text(page: "Page") -> None:
    attack = f"<img src=x onerror='{HIT}'>"
    route = {
        "object": "routing",
        "tokens": [1],
        "pieces": [attack],
        "num_layers": 1,
        "num_experts": 2,
        "num_experts_per_tok": 2,
        "expert_ids": [[[0, 1]]],
        "routing_weights": [[[0.5, 0.5]]],
    }
    answer_json(page, "**/v1/route", route)
    open_view(page, "experts")
    page.get_by_test_id("route-read").click()
    page.get_by_test_id("token").wait_for()
    assert "img" in page.get_by_test_id("token").inner_text()
    assert page.locator("#panel-experts img").count() == 0
    assert page.evaluate("window.hit") is None


def exported(text: str, **changes: Any) -> str:
    """A file of conversations as somebody else might write it."""
    root = {"id": "n0", "parent": None, "children": ["n1"], "chosen": "n1", "message": None}
    message = {"role": "assistant", "content": text, "finishReason": "stop"}
    node = {"id": "n1", "parent": "n0", "children": [], "chosen": None, "message": message}
    options: dict[str, Any] = {
        "system": "",
        "safePrompt": False,
        "sampling": {},
        "format": "text",
        "jsonSchema": "",
        "regex": "",
        "choices": "",
        "tools": "",
        "toolChoice": "auto",
        "parallelToolCalls": True,
    }
    conversation = {
        "id": "00000000-0000-4000-8000-000000000000",
        "title": text[:60],
        "createdAt": 1,
        "updatedAt": 1,
        "options": options,
        "tree": {"nextNumber": 2, "nodes": {"n0": root, "n1": node}},
        **changes,
    }
    return json.dumps(
        {"format": "mixtral-playground", "version": 1, "conversations": [conversation]}
    )


def import_file(page: "Page", text: str) -> str:
    open_view(page, "settings")
    page.get_by_test_id("import").set_input_files(
        {"name": "c.json", "mimeType": "application/json", "buffer": text.encode()}
    )
    wait_until(page, "document.querySelector('#transfer-status').textContent !== ''")
    return page.get_by_test_id("transfer-status").inner_text()


def test_imported_conversations_are_as_harmless_as_answers(page: "Page") -> None:
    attack = "\n\n".join(ATTACKS[:30])
    assert import_file(page, exported(attack)) == "1 imported."
    open_view(page, "chat")
    page.get_by_test_id("open-conversation").first.click()
    page.get_by_test_id("message").wait_for()
    check_inert(page, ".message .body, #conversation-list, #conversation-title")


def test_an_imported_file_cannot_reach_the_objects_of_the_page(page: "Page") -> None:
    text = exported("x", tree={"nextNumber": 2, "nodes": {"__proto__": {"hit": 1}, "n0": {}}})
    assert import_file(page, text).startswith("Nothing imported.")
    assert page.evaluate("({}).hit") is None


# ---- The policy itself -----------------------------------------------------------------------


def test_the_policy_would_stop_what_got_through(page: "Page", allowed_errors: list[str]) -> None:
    allowed_errors += ["Content Security Policy", "TrustedHTML", "TrustedScript", "ERR_"]
    tried = page.evaluate(
        """async () => {
          const blocked = [];
          document.addEventListener(
            "securitypolicyviolation", event => blocked.push(event.effectiveDirective));
          const tries = {
            inlineScript: () => {
              const script = document.createElement("script");
              script.append("window.hit = 1");
              document.body.append(script);
            },
            html: () => { document.body.innerHTML += "<img src=x onerror='window.hit = 1'>"; },
            eval: () => { (0, eval)("window.hit = 1"); },
            handler: () => {
              const button = document.createElement("button");
              button.setAttribute("onclick", "window.hit = 1");
              document.body.append(button);
              button.click();
            },
            style: () => document.body.setAttribute("style", "display: none"),
            fetch: () => fetch("https://attacker.example/"),
            frame: () => {
              const frame = document.createElement("iframe");
              frame.src = "https://attacker.example/";
              document.body.append(frame);
            },
          };
          const thrown = [];
          // While the debugger's own call runs, the browser lets eval pass.
          await new Promise(resolve => setTimeout(resolve));
          for (const [name, work] of Object.entries(tries)) {
            try { await work(); } catch { thrown.push(name); }
          }
          await new Promise(resolve => setTimeout(resolve, 100));
          return { thrown, blocked, hit: window.hit ?? null,
            display: getComputedStyle(document.body).display };
        }"""
    )
    assert tried["hit"] is None
    assert tried["display"] != "none"
    assert {"html", "eval", "fetch"} <= set(tried["thrown"])
    assert {"connect-src", "frame-src"} <= set(tried["blocked"])


def test_the_watch_itself_sees_what_goes_wrong(page: "Page", allowed_errors: list[str]) -> None:
    """A watch that never bites proves nothing: the console tells of a breach."""
    allowed_errors.append("Content Security Policy")
    with page.expect_console_message(lambda message: message.type == "error") as seen:
        page.evaluate("document.body.setAttribute('style', 'color: red')")
    assert "Content Security Policy" in seen.value.text


def test_an_answer_of_many_pieces_is_shown_whole(page: "Page") -> None:
    show_answer(page, *(f"- line {i} with **bold** and `code`\n" for i in range(1500)))
    assert page.locator(".message .body li").count() == 1500
