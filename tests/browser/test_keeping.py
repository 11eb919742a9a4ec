"""What the browser keeps: at once, whole, and nothing of another tab is undone."""

from typing import TYPE_CHECKING, Any

import pytest

from tests.browser.api_stub import ChatStub, HeldStream, piece, text_answer
from tests.browser.views import open_view, say, wait_until, wait_until_answered

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.browser

FULL = """() => {
  const real = Storage.prototype.setItem;
  window.isFull = true;
  Storage.prototype.setItem = function (...entry) {
    if (window.isFull) throw new DOMException("full", "QuotaExceededError");
    return real.apply(this, entry);
  };
}"""
BLOCKED = """for (const name of ["localStorage", "sessionStorage"])
  Object.defineProperty(window, name, {
    get() { throw new DOMException("denied", "SecurityError"); },
  });"""


def stored(page: "Page") -> str:
    text: str = page.evaluate("JSON.stringify({ ...localStorage })")
    return text


def preferences(page: "Page") -> Any:
    return page.evaluate('JSON.parse(localStorage.getItem("mixtral.preferences"))')


def hide(page: "Page") -> None:
    """Let the page believe that another tab is shown."""
    page.evaluate(
        """() => {
          Object.defineProperty(document, "visibilityState", { get: () => "hidden" });
          document.dispatchEvent(new Event("visibilitychange"));
        }"""
    )


def test_an_answer_is_kept_while_it_still_grows(page: "Page") -> None:
    page.clock.install()
    stream = HeldStream(page)
    say(page, "Hello")
    for word in ("red", "green", "blue", "white"):
        stream.send(piece({"content": f"{word} "}))
        wait_until(page, f"document.querySelector('#messages').textContent.includes('{word}')")
        page.clock.run_for(200)  # Less than the delay of saving, each time.
    assert "red green" in stored(page)


def test_a_hidden_page_is_kept_at_once(page: "Page") -> None:
    page.clock.install()
    stream = HeldStream(page)
    say(page, "Hello")
    stream.send(piece({"content": "half an answer"}))
    page.get_by_text("half an answer").wait_for()
    assert "half an answer" not in stored(page)
    hide(page)
    assert "half an answer" in stored(page)


def test_what_found_no_room_is_kept_once_there_is_some(page: "Page") -> None:
    ChatStub([text_answer("first")]).attach(page)
    page.evaluate(FULL)
    say(page, "Remember this")
    wait_until_answered(page)
    wait_until(page, "document.querySelector('#notice-text').textContent.includes('full')")
    assert "Remember this" not in stored(page)
    page.evaluate("window.isFull = false")
    page.get_by_test_id("new-conversation").click()
    wait_until(page, "JSON.stringify({ ...localStorage }).includes('Remember this')")


def test_a_notice_of_full_storage_stays_closed_while_the_answer_grows(page: "Page") -> None:
    page.clock.install()
    stream = HeldStream(page)
    page.evaluate(FULL)
    say(page, "Hello")
    stream.send(piece({"content": "red "}))
    page.get_by_text("red", exact=True).wait_for()
    page.clock.run_for(600)
    page.get_by_test_id("notice-close").click()
    stream.send(piece({"content": "green"}))
    page.get_by_text("red green", exact=True).wait_for()
    page.clock.run_for(600)
    assert page.get_by_test_id("notice").is_hidden()


def test_blocked_site_data_are_told_of_and_the_page_works(page: "Page") -> None:
    page.add_init_script(BLOCKED)
    page.reload()
    page.get_by_test_id("notice").wait_for()
    assert "keeps no data" in page.get_by_test_id("notice").inner_text()
    ChatStub([text_answer("It works.")]).attach(page)
    say(page, "Hello")
    wait_until_answered(page)
    assert page.get_by_test_id("message-body").last.inner_text() == "It works."


def test_all_is_deleted_also_what_this_tab_never_read(page: "Page") -> None:
    page.evaluate('localStorage.setItem("mixtral.conversation.of-another-tab", "{}")')
    page.evaluate('localStorage.setItem("of.another.page", "stays")')
    open_view(page, "settings")
    page.get_by_test_id("delete-all").click()
    page.get_by_test_id("confirm-yes").click()
    wait_until(page, "document.querySelector('#transfer-status').textContent.includes('deleted')")
    kept = page.evaluate("Object.keys(localStorage)")
    assert "mixtral.conversation.of-another-tab" not in kept
    assert "of.another.page" in kept


def test_a_theme_that_another_tab_chose_is_not_undone(page: "Page") -> None:
    wait_until(page, "document.querySelector('#model-name').textContent !== 'no model'")
    wait_until(page, "localStorage.getItem('mixtral.preferences') !== null")
    before = preferences(page)
    other = page.context.new_page()
    other.goto("/#settings")
    other.get_by_test_id("theme-choice").select_option("dark")
    other.close(run_before_unload=False)
    wait_until(page, "localStorage.getItem('mixtral.preferences').includes('dark')")
    page.get_by_test_id("new-conversation").click()  # It is the shown one now, a preference, too.
    shown = "JSON.parse(localStorage.getItem('mixtral.preferences')).currentId"
    wait_until(page, f"{shown} !== {before['currentId']!r}")
    assert preferences(page) == {**before, "theme": "dark", "currentId": page.evaluate(shown)}


def test_a_long_conversation_stands_at_its_end_after_a_reload(page: "Page") -> None:
    lines = "\n\n".join(f"Line {number}." for number in range(100))
    ChatStub([text_answer(lines)]).attach(page)
    say(page, "Count.")
    wait_until_answered(page)
    page.reload()
    page.get_by_text("Line 99.").wait_for()
    log = page.get_by_test_id("log")
    below, height = log.evaluate(
        "log => [log.scrollHeight - log.scrollTop - log.clientHeight, log.clientHeight]"
    )
    assert below < 2
    assert height > 0
