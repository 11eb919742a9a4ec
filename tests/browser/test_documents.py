"""Documents: files are added and removed on the real server; citations open at their place."""

from typing import TYPE_CHECKING

import pytest

from tests.browser.api_stub import HeldStream
from tests.browser.views import (
    CITED,
    DOCUMENT_TEXT,
    RAG_ANSWER,
    open_view,
    show_absent_documents,
    stub_documents,
    wait_until,
)

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.browser

GUIDE = """# The lighthouse

## Opening hours

The lighthouse of Westerland is open from nine to five, except on Mondays.

## Height

It is 62 metres high and has 295 steps.
"""


def add_file(page: "Page", name: str, text: str) -> str:
    """Add a file and return what the page says of it."""
    page.get_by_test_id("file-input").set_input_files(
        {"name": name, "mimeType": "text/markdown", "buffer": text.encode()}
    )
    wait_until(page, "document.querySelector('#upload-status').textContent === 'Done.'")
    return page.get_by_test_id("upload-result").last.inner_text()


# ---- With a store ----------------------------------------------------------------------------


def test_a_file_is_added_asked_and_removed(page: "Page") -> None:
    open_view(page, "documents")
    assert "added" in add_file(page, "lighthouse.md", GUIDE)
    document = page.get_by_test_id("document").filter(has_text="lighthouse")
    document.wait_for()
    assert "was there already" in add_file(page, "lighthouse.md", GUIDE)

    document.get_by_test_id("open-document").click()
    page.get_by_test_id("source-text").get_by_text("295 steps").wait_for()
    page.get_by_test_id("source-close").click()

    page.get_by_test_id("question").fill("How high is the lighthouse?")
    page.get_by_test_id("ask-send").click()
    page.get_by_test_id("ask-stop").wait_for(state="hidden")
    assert page.get_by_test_id("ask-status").inner_text() == "The answer is complete."
    page.get_by_test_id("rag-passages").locator("summary").click()
    assert "62 metres" in page.get_by_test_id("rag-passages").inner_text()

    document.get_by_test_id("remove-document").click()
    page.get_by_test_id("confirm-yes").click()
    document.wait_for(state="detached")
    assert page.request.get("/v1/rag/documents").json()["data"] == []


def test_a_file_can_be_dropped(page: "Page") -> None:
    open_view(page, "documents")
    page.get_by_test_id("drop-zone").evaluate(
        """zone => {
          const dataTransfer = new DataTransfer();
          dataTransfer.items.add(new File(["A dropped text."], "dropped.txt"));
          const options = { dataTransfer, bubbles: true, cancelable: true };
          for (const name of ["dragover", "drop"])
            zone.dispatchEvent(new DragEvent(name, options));
        }"""
    )
    page.get_by_test_id("upload-result").wait_for()
    assert "dropped" in page.get_by_test_id("upload-result").inner_text()
    document = page.get_by_test_id("document").filter(has_text="dropped")
    document.get_by_test_id("remove-document").click()
    page.get_by_test_id("confirm-yes").click()
    document.wait_for(state="detached")


def test_a_file_that_cannot_be_read_is_refused_with_the_reason(page: "Page") -> None:
    open_view(page, "documents")
    page.get_by_test_id("file-input").set_input_files(
        {"name": "broken.pdf", "mimeType": "application/pdf", "buffer": b"%PDF-1.7 nothing"}
    )
    page.get_by_test_id("upload-result").wait_for()
    assert "refused" in page.get_by_test_id("upload-result").inner_text()


# ---- Answers with citations ------------------------------------------------------------------


def ask(page: "Page") -> None:
    open_view(page, "documents")
    page.get_by_test_id("question").fill("How is int4 packed?")
    page.get_by_test_id("ask-send").click()
    wait_until(
        page, "document.querySelector('#ask-status').textContent === 'The answer is complete.'"
    )


@pytest.mark.parametrize("way", ["citation-mark", "citation"])
def test_a_citation_opens_its_document_at_the_cited_words(page: "Page", way: str) -> None:
    stub_documents(page)
    ask(page)
    page.get_by_test_id(way).click()
    cited = page.get_by_test_id("cited")
    cited.wait_for()
    assert cited.inner_text() == CITED
    assert page.get_by_test_id("source-text").inner_text().split() == DOCUMENT_TEXT.split()
    page.keyboard.press("Escape")
    cited.wait_for(state="hidden")
    focused = page.evaluate("document.activeElement.dataset.testid")
    assert focused == way  # the keyboard goes on where it was


def test_passages_that_were_opened_stay_open_while_the_answer_grows(page: "Page") -> None:
    stub_documents(page)
    stream = HeldStream(page, "/v1/rag/ask")
    open_view(page, "documents")
    page.get_by_test_id("question").fill("How is int4 packed?")
    page.get_by_test_id("ask-send").click()
    stream.send({"object": "rag.passages", "data": RAG_ANSWER["passages"]})
    passages = page.get_by_test_id("rag-passages")
    passages.locator("summary").click()
    stream.send({"object": "rag.delta", "text": "Thirty-two "})
    page.get_by_text("Thirty-two").wait_for()
    assert passages.locator(".passage").is_visible()
    stream.send(RAG_ANSWER)
    stream.end()
    page.get_by_test_id("citation-mark").wait_for()
    assert passages.locator(".passage").is_visible()
    assert page.evaluate("document.activeElement.tagName") == "SUMMARY"


def test_an_answer_without_a_source_shows_where_to_read(page: "Page") -> None:
    nearest = {**RAG_ANSWER["citations"][0], "is_supported": False}
    stub_documents(page, answer={**RAG_ANSWER, "citations": [], "nearest": nearest})
    ask(page)
    assert CITED in page.get_by_test_id("rag-nearest").inner_text()
    page.get_by_test_id("citation").click()
    assert page.get_by_test_id("cited").inner_text() == CITED


def test_an_answer_that_is_not_in_the_documents_says_so(page: "Page") -> None:
    missing = {"answer": "Not in the documents.", "is_found": False, "citations": []}
    stub_documents(page, answer={**RAG_ANSWER, **missing, "passages": []})
    ask(page)
    assert page.get_by_test_id("rag-not-found").is_visible()
    assert page.get_by_test_id("citation").count() == 0


def test_a_server_without_a_store_says_how_to_start_one(
    page: "Page", allowed_errors: list[str]
) -> None:
    allowed_errors.append("501")
    show_absent_documents(page)
    assert (
        "mixtral serve --model nano --rag" in page.get_by_test_id("documents-absent").inner_text()
    )
    assert not page.get_by_test_id("ask-form").is_visible()
