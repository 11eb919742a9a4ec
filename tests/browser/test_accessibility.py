"""axe-core finds nothing grave in any view, in both themes, on a desktop and a phone."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from tests.browser.axe import problems_of
from tests.browser.conftest import DESKTOP, PHONE
from tests.browser.views import EXPECTED_ERRORS, VIEWS, wait_until

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.browser


@pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desktop", "phone"])
@pytest.mark.parametrize("name", VIEWS)
def test_nobody_is_kept_out_of_a_view(
    open_page: "Callable[..., Page]",
    allowed_errors: list[str],
    name: str,
    viewport: dict[str, int],
) -> None:
    allowed_errors += [EXPECTED_ERRORS[name]] if name in EXPECTED_ERRORS else []
    page = open_page("/", viewport=viewport, color_scheme="light", reduced_motion="reduce")
    VIEWS[name](page)
    assert problems_of(page) == []
    page.emulate_media(color_scheme="dark")
    assert problems_of(page, only="color-contrast") == []  # Nothing else depends on the theme.
    excess = page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
    assert excess <= 0, "the page is wider than the window"


def test_axe_finds_what_is_wrong(page: "Page") -> None:
    page.evaluate(
        """() => {
          const box = document.createElement("div");
          const button = document.createElement("button");
          button.append(document.createElement("img"));
          box.append(button);
          document.querySelector("#messages").append(box);
          document.querySelector(".brand").style.color = "#ddd";
        }"""
    )
    assert any(line.startswith("button-name (critical)") for line in problems_of(page))
    (pale,) = problems_of(page, only="color-contrast")
    assert pale.startswith("color-contrast (serious)")


def test_a_chosen_theme_holds_whatever_the_system_has(open_page: "Callable[..., Page]") -> None:
    page = open_page("/#settings", color_scheme="light")
    background = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(background)
    page.get_by_test_id("theme-choice").select_option("dark")
    dark = page.evaluate(background)
    assert light != dark
    wait_until(page, "(localStorage['mixtral.preferences'] ?? '').includes('dark')")
    page.reload()
    assert page.evaluate(background) == dark


def test_answers_are_told_once_and_not_token_by_token(page: "Page") -> None:
    page.evaluate(
        """() => {
          const live = document.querySelector("#live");
          const note = () => window.spoken.push(live.textContent);
          window.spoken = [];
          new MutationObserver(note).observe(live, { childList: true });
        }"""
    )
    VIEWS["chat"](page)
    wait_until(page, "window.spoken.length >= 2")
    spoken = page.evaluate("window.spoken")
    assert spoken[0] == "The model is answering."
    assert spoken[-1].startswith("The answer: A **mixture of experts**")
    assert len(spoken) == 2
