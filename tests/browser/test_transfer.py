"""Conversations go to a file and back, into another browser too, and nothing is overwritten."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.browser.api_stub import ChatStub, text_answer
from tests.browser.views import open_view, say, wait_until, wait_until_answered

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.browser


def talk(page: "Page") -> None:
    ChatStub([text_answer("first"), text_answer("second")]).attach(page)
    say(page, "Remember this")
    wait_until_answered(page)
    page.get_by_test_id("regenerate").last.click()
    page.get_by_text("second", exact=True).wait_for()
    wait_until_answered(page)


def export_to(page: "Page", folder: Path) -> Path:
    open_view(page, "settings")
    with page.expect_download() as download:
        page.get_by_test_id("export").click()
    file = folder / download.value.suggested_filename
    download.value.save_as(file)
    return file


def import_from(page: "Page", content: bytes) -> str:
    open_view(page, "settings")
    page.get_by_test_id("import").set_input_files(
        {"name": "c.json", "mimeType": "application/json", "buffer": content}
    )
    wait_until(page, "document.querySelector('#transfer-status').textContent !== ''")
    return page.get_by_test_id("transfer-status").inner_text()


def test_a_file_brings_conversations_with_their_branches_to_another_browser(
    open_page: "Callable[..., Page]", tmp_path: Path
) -> None:
    first = open_page("/")
    talk(first)
    file = export_to(first, tmp_path)
    assert file.name.startswith("mixtral-conversations-")
    assert json.loads(file.read_text())["format"] == "mixtral-playground"

    other = open_page("/")
    assert import_from(other, file.read_bytes()).startswith("1 imported")
    assert "there already" in _again(other, file)
    open_view(other, "chat")
    other.get_by_test_id("open-conversation").get_by_text("Remember this").click()
    answer = other.locator("[data-testid=message][data-role=assistant]")
    assert answer.get_by_test_id("branch-place").inner_text() == "2 of 2"
    answer.get_by_test_id("branch-previous").click()
    assert answer.get_by_test_id("message-body").inner_text() == "first"


def _again(page: "Page", file: Path) -> str:
    page.evaluate("document.querySelector('#transfer-status').textContent = ''")
    return import_from(page, file.read_bytes())


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"not json", "not JSON"),
        (b'{"format": "something else"}', "something else"),
        (b'{"format": "mixtral-playground", "version": 99}', "99"),
        (b'{"format": "mixtral-playground", "version": 1, "conversations": [{}]}', "lacks"),
    ],
)
def test_a_file_that_is_not_ours_is_refused_whole(page: "Page", content: bytes, word: str) -> None:
    before = page.get_by_test_id("open-conversation").count()
    told = import_from(page, content)
    assert told.startswith("Nothing imported.")
    assert word in told
    open_view(page, "chat")
    assert page.get_by_test_id("open-conversation").count() == before


def test_everything_can_be_deleted_after_a_question(page: "Page") -> None:
    talk(page)
    open_view(page, "settings")
    page.get_by_test_id("delete-all").click()
    page.get_by_test_id("confirm-no").click()
    wait_until(page, "Object.keys(localStorage).join().includes('mixtral.conversation.')")
    page.get_by_test_id("delete-all").click()
    page.get_by_test_id("confirm-yes").click()
    page.reload()
    open_view(page, "chat")
    assert page.get_by_test_id("open-conversation").all_inner_texts() == ["New conversation"]


def test_a_new_conversation_takes_the_place_of_the_last_one(page: "Page") -> None:
    talk(page)
    page.get_by_test_id("delete-conversation").click()
    page.get_by_test_id("confirm-yes").click()
    page.get_by_test_id("welcome").wait_for()
    assert page.get_by_test_id("open-conversation").all_inner_texts() == ["New conversation"]
