"""Everything can be reached and used by keyboard alone, and one sees where one is."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from tests.browser.api_stub import ChatStub, text_answer
from tests.browser.views import VIEWS, unfold, wait_until

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.browser

FOCUSED = """() => {
  const one = document.activeElement;
  const box = one.getBoundingClientRect();
  const style = getComputedStyle(one);
  const label = one.closest("label");
  const ring = [one, label].filter(Boolean).map(each => getComputedStyle(each));
  return {
    name: one.dataset.testid || one.id || one.className || one.tagName,
    tag: one.tagName,
    isVisible: box.width > 0 && box.height > 0 && style.visibility !== "hidden",
    hasRing: ring.some(each => (each.outlineStyle !== "none" && parseFloat(each.outlineWidth) > 0)
      || each.boxShadow !== "none"),
  };
}"""
MAX_STEPS = 120


def to_the_top(page: "Page") -> None:
    """Let the next Tab begin where the page begins; blur alone would go on from the old place."""
    page.evaluate("document.body.tabIndex = -1")
    page.evaluate("document.body.focus()")
    page.evaluate("document.body.removeAttribute('tabindex')")


def walk(page: "Page", key: str = "Tab") -> list[dict[str, Any]]:
    """Press a key until the focus leaves the page or comes back; what was focused, in order."""
    seen: list[dict[str, Any]] = []
    page.evaluate("window.places = new Set()")
    for _ in range(MAX_STEPS):
        page.keyboard.press(key)
        if page.evaluate("document.activeElement === document.body"):
            return seen
        if page.evaluate("places.size === places.add(document.activeElement).size"):
            return seen
        seen.append(page.evaluate(FOCUSED))
    pytest.fail(f"the focus does not end: {[one['name'] for one in seen]}")


@pytest.mark.parametrize("name", ["chat", "options", "documents", "experts", "settings"])
def test_tab_reaches_everything_that_can_be_used_and_shows_where_it_is(
    page: "Page", name: str
) -> None:
    VIEWS[name](page)
    to_the_top(page)
    steps = walk(page)
    assert all(step["isVisible"] for step in steps), [s for s in steps if not s["isVisible"]]
    assert all(step["hasRing"] for step in steps), [s for s in steps if not s["hasRing"]]
    missed = page.evaluate(
        """() => [...document.querySelectorAll("button, input, select, textarea, a[href], summary")]
          .filter(one => one.checkVisibility({ visibilityProperty: true }) && !one.disabled)
          .filter(one => one.getAttribute("tabindex") !== "-1" && !places.has(one))
          .map(one => one.dataset.testid || one.id || one.outerHTML.slice(0, 80))"""
    )
    assert missed == []


def test_the_first_stop_leads_past_everything_to_the_content(page: "Page") -> None:
    to_the_top(page)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"


def test_arrows_move_between_the_views(page: "Page") -> None:
    page.get_by_test_id("tab-chat").focus()
    for key, name in (
        ("ArrowRight", "documents"),
        ("ArrowRight", "experts"),
        ("End", "settings"),
        ("ArrowRight", "chat"),
        ("ArrowLeft", "settings"),
        ("Home", "chat"),
    ):
        page.keyboard.press(key)
        page.get_by_test_id(f"panel-{name}").wait_for()
        assert page.evaluate("document.activeElement.dataset.testid") == f"tab-{name}"
        assert page.get_by_test_id(f"tab-{name}").get_attribute("aria-selected") == "true"
    page.go_back()
    page.get_by_test_id("panel-settings").wait_for()


def test_a_conversation_from_question_to_branch_without_a_mouse(page: "Page") -> None:
    ChatStub([text_answer("first"), text_answer("second")]).attach(page)
    page.get_by_test_id("composer-text").focus()
    page.keyboard.type("One line")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("and another")
    page.keyboard.press("Enter")
    page.get_by_text("first", exact=True).wait_for()
    wait_until(page, "document.activeElement.id === 'composer-text'")
    page.get_by_test_id("regenerate").last.focus()
    page.keyboard.press("Enter")
    page.get_by_text("second", exact=True).wait_for()
    page.get_by_test_id("stop").wait_for(state="hidden")
    page.get_by_test_id("branch-previous").last.focus()
    page.keyboard.press("Enter")
    page.get_by_text("first", exact=True).wait_for()
    # The button that was used cannot go further back; the focus is on its neighbour, not lost.
    assert page.evaluate("document.activeElement.dataset.testid") == "branch-next"
    page.get_by_test_id("edit-message").first.focus()
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.dataset.testid") == "edit-text"
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement.dataset.testid") == "edit-message"


def test_escape_stops_an_answer_and_the_next_message_can_be_written(page: "Page") -> None:
    unfold(page, "sampling-more")
    page.get_by_test_id("field-ignore_eos").check()
    page.get_by_test_id("field-max_tokens").fill("1000")
    page.get_by_test_id("composer-text").focus()
    page.keyboard.type("Tell me a long story.")
    page.keyboard.press("Enter")
    wait_until(page, "document.querySelector('.message.assistant .body')?.textContent.length")
    page.keyboard.press("Escape")
    page.get_by_test_id("stop").wait_for(state="hidden")
    wait_until(page, "document.activeElement.id === 'composer-text'")


@pytest.mark.parametrize("name", ["copy-as-code", "source", "confirmation"])
def test_a_dialog_keeps_the_focus_and_gives_it_back(page: "Page", name: str) -> None:
    VIEWS[name](page)
    assert page.evaluate("document.activeElement.closest('dialog') !== null")
    for _ in range(6):
        page.keyboard.press("Tab")
        assert page.evaluate(
            "document.activeElement === document.body"
            " || document.activeElement.closest('dialog') !== null"
        )
    page.keyboard.press("Escape")
    wait_until(page, "!document.querySelector('dialog[open]')")
    assert page.evaluate("document.activeElement !== document.body")


def test_less_motion_is_none(open_page: "Callable[..., Page]") -> None:
    page = open_page("/", reduced_motion="reduce")
    VIEWS["chat"](page)
    moving = page.evaluate(
        """() => [...document.querySelectorAll("*")].filter(one => {
          const { transitionDuration, animationDuration, scrollBehavior } = getComputedStyle(one);
          const seconds = [transitionDuration, animationDuration].join().split(",").map(parseFloat);
          return Math.max(...seconds) > 0.01 || scrollBehavior === "smooth";
        }).length"""
    )
    assert moving == 0
