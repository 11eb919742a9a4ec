"""The experts: tokens in the colours of the experts that the server names, at every layer."""

from math import floor
from typing import TYPE_CHECKING, Any

import pytest

from tests.browser.views import open_view, wait_until

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.browser
TEXT = "Two experts read each token."
COLOURS = 8  # js/routes.js


def read_text(page: "Page") -> Any:
    """Show the experts of a text, and return what the server says of it."""
    open_view(page, "experts")
    page.get_by_test_id("route-text").fill(TEXT)
    page.get_by_test_id("route-read").click()
    page.get_by_test_id("token").first.wait_for()
    return page.request.post("/v1/route", data={"prompt": TEXT}).json()


def drawn(page: "Page") -> list[dict[str, str]]:
    found: list[dict[str, str]] = page.get_by_test_id("token").evaluate_all(
        "all => all.map(one => ({ classes: one.className, label: one.ariaLabel,"
        " seen: one.innerText, number: one.querySelector('sub').textContent }))"
    )
    return found


def check_colours(page: "Page", route: Any, layer: int) -> None:
    tokens = drawn(page)
    assert len(tokens) == len(route["tokens"])
    for token, ids, weights in zip(
        tokens, route["expert_ids"], route["routing_weights"], strict=True
    ):
        first = ids[layer][0]
        assert token["number"] == str(first)
        assert token["label"].startswith(f"{token['seen']}: ")
        assert f"expert-{first % COLOURS}" in token["classes"].split()
        for expert, weight in zip(ids[layer], weights[layer], strict=True):
            # A half goes up in a browser, and to the even number in Python.
            assert f"expert {expert} with {floor(100 * weight + 0.5)} %" in token["label"]


def test_tokens_have_the_colours_of_their_first_expert_at_the_chosen_layer(page: "Page") -> None:
    route = read_text(page)
    check_colours(page, route, layer=0)
    slider = page.get_by_test_id("layer")
    last = route["num_layers"] - 1
    assert slider.get_attribute("max") == str(last)
    slider.focus()
    page.keyboard.press("End")
    assert slider.get_attribute("aria-valuetext") == f"Layer {last} (0 to {last})"
    check_colours(page, route, layer=last)


def test_colours_of_experts_differ(page: "Page") -> None:
    route = read_text(page)
    swatches = page.get_by_test_id("expert-legend").locator(".swatch")
    assert swatches.count() == route["num_experts"]
    colours = swatches.evaluate_all("all => all.map(one => getComputedStyle(one).backgroundColor)")
    assert len(set(colours)) == min(route["num_experts"], COLOURS)


def test_pointing_at_a_token_shows_its_experts_and_weights_in_all_layers(page: "Page") -> None:
    route = read_text(page)
    page.get_by_test_id("token").nth(2).hover()
    wait_until(page, "document.querySelector('#token-details').textContent.includes('3 of')")
    rows = page.get_by_test_id("layer-row").all()
    assert len(rows) == route["num_layers"]
    for layer, row in enumerate(rows):
        ids, weights = route["expert_ids"][2][layer], route["routing_weights"][2][layer]
        assert row.locator("th").inner_text() == str(layer)
        cells = row.locator("td").all_inner_texts()
        assert [int(cell.split()[0]) for cell in cells] == ids
        assert [cell.split()[1] for cell in cells] == [f"{100 * w:.0f}" for w in weights]


def test_the_keyboard_moves_from_token_to_token(page: "Page") -> None:
    route = read_text(page)
    page.get_by_test_id("token-list").focus()
    for key, place in (("Home", 0), ("ArrowRight", 1), ("ArrowDown", 2), ("End", -1)):
        page.keyboard.press(key)
        number = place % len(route["tokens"]) + 1
        name = page.get_by_test_id("token-name").inner_text()
        assert name.endswith(f"{number} of {len(route['tokens'])}")
        active = page.get_by_test_id("token-list").get_attribute("aria-activedescendant")
        assert page.locator(f"#{active}").get_attribute("aria-selected") == "true"


def test_an_answer_is_coloured_while_it_is_written(page: "Page") -> None:
    open_view(page, "experts")
    page.get_by_test_id("route-text").fill("Who are you?")
    page.get_by_test_id("route-max").select_option("16")
    page.get_by_test_id("route-generate").click()
    page.wait_for_selector(".token.answer")
    page.get_by_test_id("route-stop").wait_for(state="hidden")
    tokens = drawn(page)
    written = [token for token in tokens if "answer" in token["classes"].split()]
    assert 1 <= len(written) <= 16
    # Every token but the very last was read by experts.
    assert [token["number"] == "·" for token in tokens] == [False] * (len(tokens) - 1) + [True]
    status = page.get_by_test_id("route-status").inner_text()
    assert status == f"{len(tokens) - len(written)} tokens read, {len(written)} written."


def test_the_load_of_the_server_goes_on_live(page: "Page") -> None:
    open_view(page, "experts")
    page.get_by_test_id("live-scope").select_option("opened")
    page.get_by_test_id("live-heat").locator("td").first.wait_for()
    route = page.request.post("/v1/route", data={"prompt": TEXT}).json()
    wait_until(
        page,
        "[...document.querySelectorAll('#live-heat td')].some(td => !/^0 /.test(td.textContent))",
    )
    rows = page.get_by_test_id("live-heat").locator("tbody tr")
    assert rows.locator("th").all_inner_texts() == [str(i) for i in range(route["num_layers"])]
    shares = [int(text.split()[0]) for text in rows.first.locator("td").all_inner_texts()]
    assert len(shares) == route["num_experts"]
    assert sum(shares) == pytest.approx(100, abs=len(shares) / 2)


def test_a_long_text_through_many_layers_has_its_experts_counted(page: "Page") -> None:
    count = """async () => {
      const { numExpertsOf } = await import("./playground/js/routes.js");
      const expertIds = Array.from({ length: 1000 }, (_, layer) => [layer % 7, 0]);
      return numExpertsOf(Array.from({ length: 300 }, () => ({ expertIds })));
    }"""
    assert page.evaluate(count) == 7


def test_a_prompt_that_is_too_long_is_told(page: "Page", allowed_errors: list[str]) -> None:
    allowed_errors.append("400")
    open_view(page, "experts")
    page.get_by_test_id("route-text").fill("word " * 9000)
    page.get_by_test_id("route-read").click()
    wait_until(page, "document.querySelector('#route-status').textContent.includes('at most')")
    assert page.get_by_test_id("route-read").is_visible()
