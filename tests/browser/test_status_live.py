"""The page ``/status`` with a real server, one that is away, and one that wants a key."""

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from tests.browser.axe import problems_of
from tests.browser.conftest import PHONE
from tests.browser.views import wait_until

if TYPE_CHECKING:
    from playwright.sync_api import Page, Route

pytestmark = pytest.mark.browser
STATUS = "**/v1/status"


def wait_for_state(page: "Page", state: str) -> str:
    page.wait_for_selector(f"#state[data-state={state}]")
    return page.inner_text("#state")


def test_numbers_come_from_the_server_and_go_on(open_page: "Callable[..., Page]") -> None:
    page = open_page("/status")
    wait_for_state(page, "live")
    report = page.request.get("/v1/status").json()
    assert page.inner_text("#model") == report["model"]
    rows = page.locator("#experts tbody tr")
    assert rows.count() == report["num_layers"]
    assert rows.first.locator("td").count() == report["num_experts"]
    assert page.locator("#charts svg").count() == 6
    wait_until(page, "document.querySelector('#charts svg .line')?.getAttribute('d').includes('L')")


def test_a_prompt_shows_in_the_load_of_the_last_minute(open_page: "Callable[..., Page]") -> None:
    page = open_page("/status")
    wait_for_state(page, "live")
    page.get_by_label("of the last minute").check()
    answer = page.request.post("/v1/route", data={"prompt": "Who reads this?"})
    assert answer.status == 200
    wait_until(
        page,
        "[...document.querySelectorAll('#experts td')].some(cell => Number(cell.textContent) > 0)",
    )


def test_a_server_that_is_away_is_told_and_found_again(
    open_page: "Callable[..., Page]", allowed_errors: list[str]
) -> None:
    allowed_errors.append("ERR_")
    page = open_page("/status")
    wait_for_state(page, "live")
    page.route(STATUS, lambda route: route.abort())
    assert "has not answered since" in wait_for_state(page, "away")
    assert page.locator("#numbers").is_visible()  # the last numbers stay
    page.unroute(STATUS)
    wait_for_state(page, "live")


def test_a_server_with_keys_asks_for_one_and_keeps_it_in_the_tab(
    open_page: "Callable[..., Page]", allowed_errors: list[str]
) -> None:
    allowed_errors.append("401")
    page = open_page("/status")
    wait_for_state(page, "live")
    report = page.request.get("/v1/status").json()

    def guard(route: "Route") -> None:
        is_known = route.request.headers.get("authorization") == "Bearer hush"
        body: Any = report if is_known else {"object": "error", "message": "no"}
        route.fulfill(
            status=200 if is_known else 401, content_type="application/json", body=json.dumps(body)
        )

    page.route(STATUS, guard)
    wait_for_state(page, "key")
    page.get_by_label("API key").fill("hush")
    page.get_by_role("button", name="Use it").click()
    wait_for_state(page, "live")
    assert not page.locator("#key-form").is_visible()
    assert page.evaluate("Object.values(localStorage).join()").count("hush") == 0
    page.reload()
    wait_for_state(page, "live")


@pytest.mark.parametrize("color_scheme", ["light", "dark"])
@pytest.mark.parametrize("viewport", [None, PHONE], ids=["desktop", "phone"])
def test_nobody_is_kept_out(
    open_page: "Callable[..., Page]", color_scheme: str, viewport: dict[str, int] | None
) -> None:
    options = {"viewport": viewport} if viewport else {}
    page = open_page("/status", color_scheme=color_scheme, **options)
    wait_for_state(page, "live")
    assert problems_of(page) == []
    width = page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
    assert width <= 0, "the page is wider than the window"


def test_the_theme_of_the_playground_holds_here_too(open_page: "Callable[..., Page]") -> None:
    page = open_page("/status", color_scheme="light")
    page.evaluate("localStorage.setItem('mixtral.preferences', JSON.stringify({theme: 'dark'}))")
    page.reload()
    wait_for_state(page, "live")
    colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert colour == "rgb(20, 23, 27)"
