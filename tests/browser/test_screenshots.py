"""A picture of every view, both themes, desktop and phone, for people to look at.

    export SCREENSHOTS=docs/pictures/playground
    .venv/bin/pytest -m browser tests/browser/test_screenshots.py \\
        -k '(chat or experts or documents) and not absent and (desktop-light or phone-dark)'

Without the variable nothing is written. These are the pictures of docs/playground.md; without
``-k`` there is one of each view.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.browser.conftest import DESKTOP, PHONE
from tests.browser.views import EXPECTED_ERRORS, VIEWS

if TYPE_CHECKING:
    from playwright.sync_api import Page

FOLDER = os.environ.get("SCREENSHOTS")
SIZES = {"desktop": DESKTOP, "phone": PHONE}
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(FOLDER is None, reason="SCREENSHOTS names no folder to write pictures to"),
]


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", [*VIEWS, "status"])
def test_a_view_can_be_looked_at(
    open_page: "Callable[..., Page]", allowed_errors: list[str], name: str, size: str, theme: str
) -> None:
    allowed_errors += [EXPECTED_ERRORS[name]] if name in EXPECTED_ERRORS else []
    options = {"viewport": SIZES[size], "color_scheme": theme, "reduced_motion": "reduce"}
    page = open_page("/status" if name == "status" else "/", **options)
    if name == "status":
        page.wait_for_selector("#state[data-state=live]")
    else:
        VIEWS[name](page)
    page.evaluate(
        "document.querySelector('#log')?.scrollTo(0, 0)"
    )  # A talk begins with its question.
    assert FOLDER is not None
    file = Path(FOLDER) / f"{name}-{size}-{theme}.png"
    file.parent.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=file, animations="disabled", caret="hide")
    assert file.stat().st_size > 1000
