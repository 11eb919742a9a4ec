"""Chat: answers stream and stop, come again, and keep what was there before as branches."""

import json
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from tests.browser.api_stub import CHAT, ChatStub, HeldStream, piece, text_answer
from tests.browser.views import open_options, say, unfold, wait_until, wait_until_answered

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

pytestmark = pytest.mark.browser


def answers(page: "Page") -> "Locator":
    return page.locator("[data-testid=message][data-role=assistant]")


def questions(page: "Page") -> "Locator":
    return page.locator("[data-testid=message][data-role=user]")


def body_text(message: "Locator") -> str:
    return message.get_by_test_id("message-body").inner_text()


# ---- With the model --------------------------------------------------------------------------


def test_an_answer_grows_and_tells_what_it_cost(page: "Page") -> None:
    page.get_by_test_id("field-max_tokens").fill("24")
    say(page, "Who are you?")
    wait_until(page, "document.querySelector('.message.assistant .body')?.textContent.length")
    wait_until_answered(page)
    facts = answers(page).get_by_test_id("message-facts").inner_text()
    assert "tokens in" in facts
    assert "first token after" in facts
    assert body_text(answers(page))


def test_stop_ends_the_answer_and_keeps_what_it_had(page: "Page") -> None:
    unfold(page, "sampling-more")
    page.get_by_test_id("field-ignore_eos").check()
    page.get_by_test_id("field-max_tokens").fill("1000")
    say(page, "Write a long story.")
    length = "document.querySelector('.message.assistant .body')?.textContent.length ?? 0"
    wait_until(page, f"({length}) > 10")
    first = page.evaluate(length)
    wait_until(page, f"({length}) > {first}")  # it streams
    page.get_by_test_id("stop").click()
    wait_until_answered(page)
    assert "stopped by you" in answers(page).get_by_test_id("message-facts").inner_text()
    kept = body_text(answers(page))
    assert len(kept) > 10
    # The server hears of it, and nothing more arrives.
    end = time.monotonic() + 60
    while page.request.get("/v1/status").json()["running_requests"] and time.monotonic() < end:
        time.sleep(0.1)
    assert page.request.get("/v1/status").json()["running_requests"] == 0
    assert body_text(answers(page)) == kept
    assert page.get_by_test_id("composer-text").is_editable()


def test_what_the_server_refuses_is_shown_with_its_reason(
    page: "Page", allowed_errors: list[str]
) -> None:
    allowed_errors.append("400")
    page.get_by_test_id("field-max_tokens").fill("2147483647")
    say(page, "Hello")
    error = answers(page).get_by_test_id("message-error")
    error.wait_for()
    assert "max_tokens" in error.inner_text()


def test_n_answers_become_branches(page: "Page") -> None:
    unfold(page, "sampling-more")
    page.get_by_test_id("field-n").fill("2")
    page.get_by_test_id("field-max_tokens").fill("4")
    say(page, "Hello")
    wait_until_answered(page)
    assert answers(page).get_by_test_id("branch-place").inner_text() == "1 of 2"


def test_tokens_of_the_next_prompt_are_counted_by_the_server(page: "Page") -> None:
    page.get_by_test_id("composer-text").fill("Hello")
    wait_until(page, "document.querySelector('#prompt-tokens').textContent.includes(' of ')")
    shown = page.get_by_test_id("prompt-tokens").inner_text()
    body = {"messages": [{"role": "user", "content": "Hello"}]}
    counted = page.request.post("/v1/tokenize", data=body).json()
    assert shown == f"{counted['count']} of {counted['max_model_len']:,} tokens"


# ---- Branches --------------------------------------------------------------------------------


def test_another_answer_stands_beside_the_first(page: "Page") -> None:
    ChatStub([text_answer("first"), text_answer("second")]).attach(page)
    say(page, "Hello")
    wait_until_answered(page)
    answers(page).get_by_test_id("regenerate").click()
    page.get_by_text("second", exact=True).wait_for()
    assert answers(page).get_by_test_id("branch-place").inner_text() == "2 of 2"
    answers(page).get_by_test_id("branch-previous").click()
    assert body_text(answers(page)) == "first"
    answers(page).get_by_test_id("branch-next").click()
    assert body_text(answers(page)) == "second"


def test_an_edited_message_keeps_the_old_one_with_all_that_followed(page: "Page") -> None:
    stub = ChatStub([text_answer("to one"), text_answer("to two"), text_answer("to three")])
    stub.attach(page)
    say(page, "one")
    wait_until_answered(page)
    say(page, "two")
    page.get_by_text("to two", exact=True).wait_for()
    questions(page).first.get_by_test_id("edit-message").click()
    page.get_by_test_id("edit-text").fill("three")
    page.get_by_test_id("edit-save").click()
    page.get_by_text("to three", exact=True).wait_for()
    assert [body_text(m) for m in questions(page).all()] == ["three"]
    assert [m["content"] for m in stub.asked[-1]["messages"]] == ["three"]
    questions(page).first.get_by_test_id("branch-previous").click()
    page.get_by_text("to two", exact=True).wait_for()
    assert [body_text(m) for m in questions(page).all()] == ["one", "two"]


def test_branches_and_conversations_are_there_after_a_reload(page: "Page") -> None:
    ChatStub([text_answer("first"), text_answer("second")]).attach(page)
    say(page, "Hello")
    wait_until_answered(page)
    answers(page).get_by_test_id("regenerate").click()
    page.get_by_text("second", exact=True).wait_for()
    wait_until_answered(page)
    page.get_by_test_id("new-conversation").click()
    page.get_by_test_id("welcome").wait_for()
    page.reload()
    titles = page.get_by_test_id("open-conversation")
    assert sorted(titles.all_inner_texts()) == ["Hello", "New conversation"]
    titles.get_by_text("Hello").click()
    assert answers(page).get_by_test_id("branch-place").inner_text() == "2 of 2"
    assert body_text(answers(page)) == "second"


# ---- What cannot be gone on from, and what must not be lost ----------------------------------


def test_an_empty_answer_is_made_again_and_never_sent(page: "Page") -> None:
    stub = ChatStub([text_answer(), text_answer("Now.")]).attach(page)
    say(page, "Hello")
    page.get_by_test_id("resume").wait_for()
    assert "empty" in page.get_by_test_id("composer-hint").inner_text()
    page.get_by_test_id("resume").click()
    page.get_by_text("Now.", exact=True).wait_for()
    assert [[m["content"] for m in asked["messages"]] for asked in stub.asked] == [["Hello"]] * 2


def test_an_answer_that_a_reload_cut_off_before_its_first_token_is_made_again(
    page: "Page",
) -> None:
    HeldStream(page)
    say(page, "Hello")
    page.get_by_test_id("stop").wait_for()
    page.reload()
    page.get_by_test_id("resume").wait_for()
    assert not page.get_by_test_id("composer-text").is_editable()


def test_a_message_cannot_be_edited_to_nothing(page: "Page") -> None:
    ChatStub([text_answer("Hello.")]).attach(page)
    say(page, "Hello")
    wait_until_answered(page)
    answers(page).get_by_test_id("edit-message").click()
    page.get_by_test_id("edit-text").fill(" ")
    page.get_by_test_id("edit-save").click()
    page.get_by_test_id("notice").wait_for()
    assert "needs a text" in page.get_by_test_id("notice").inner_text()
    assert page.get_by_test_id("edit-text").input_value() == " "


def test_an_edit_that_cannot_be_sent_stays_in_its_editor(page: "Page") -> None:
    ChatStub([text_answer("Hello."), text_answer("Changed.")]).attach(page)
    say(page, "one")
    wait_until_answered(page)
    page.get_by_test_id("field-temperature").fill("9")
    questions(page).get_by_test_id("edit-message").click()
    page.get_by_test_id("edit-text").fill("two")
    page.get_by_test_id("edit-save").click()
    page.get_by_test_id("notice").wait_for()
    assert page.get_by_test_id("edit-text").input_value() == "two"
    page.get_by_test_id("field-temperature").fill("1")
    page.get_by_test_id("edit-save").click()
    page.get_by_text("Changed.", exact=True).wait_for()
    assert body_text(questions(page)) == "two"


def test_an_editor_is_left_without_ending_the_answer_that_is_being_made(page: "Page") -> None:
    stream = HeldStream(page)
    say(page, "one")
    stream.send(*text_answer("Hello."))
    stream.end()
    wait_until_answered(page)
    questions(page).get_by_test_id("edit-message").click()
    page.get_by_test_id("composer-text").fill("more")
    page.evaluate("window.heldStream = null")
    page.get_by_test_id("composer-text").press("Enter")
    stream.send(piece({"content": "half"}))
    page.get_by_test_id("edit-text").fill("two")
    page.get_by_test_id("edit-save").click()
    page.get_by_test_id("notice").wait_for()
    assert "another answer" in page.get_by_test_id("notice").inner_text()
    page.get_by_test_id("edit-text").press("Escape")
    page.get_by_test_id("edit-text").wait_for(state="detached")
    stream.send(*text_answer(" whole"))
    stream.end()
    page.get_by_text("half whole", exact=True).wait_for()


def test_an_error_ends_all_answers_that_were_being_made(page: "Page") -> None:
    error = {"message": "the engine stopped.", "type": "server_error", "param": None, "code": None}
    failing = [
        piece({"content": "first"}),
        piece({"content": "second"}, index=1),
        piece({"content": ""}, finish_reason="error", error=error),
    ]
    ChatStub([failing]).attach(page)
    unfold(page, "sampling-more")
    page.get_by_test_id("field-n").fill("2")
    say(page, "Hello")
    for text, arrow in (("first", "branch-next"), ("second", "branch-previous")):
        page.get_by_text(text, exact=True).wait_for()
        assert answers(page).get_by_test_id("message-error").inner_text() == "the engine stopped."
        answers(page).get_by_test_id(arrow).click()


# ---- Settings of a conversation --------------------------------------------------------------


def test_settings_go_into_the_request_and_only_those_that_were_set(page: "Page") -> None:
    stub = ChatStub([text_answer("fine")]).attach(page)
    page.get_by_test_id("system-text").fill("Be brief.")
    page.get_by_test_id("safe-prompt").check()
    page.get_by_test_id("field-temperature").fill("0")
    page.get_by_test_id("field-stop").fill("END")
    say(page, "Hello")
    wait_until_answered(page)
    (asked,) = stub.asked
    assert asked.pop("model") == page.get_by_test_id("model-name").inner_text()
    assert asked == {
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Hello"},
        ],
        "temperature": 0,
        "stop": ["END"],
        "safe_prompt": True,
        "stream": True,
    }


def test_a_wrong_number_is_told_at_its_field_and_never_sent(page: "Page") -> None:
    stub = ChatStub([text_answer("fine")]).attach(page)
    page.get_by_test_id("field-temperature").fill("9")
    problem = page.get_by_test_id("field-temperature-problem").inner_text()
    assert problem == "Temperature must be a number from 0 to 5."
    assert page.get_by_test_id("field-temperature").get_attribute("aria-invalid") == "true"
    say(page, "Hello")
    page.get_by_test_id("notice").wait_for()
    assert problem in page.get_by_test_id("notice").inner_text()
    assert page.get_by_test_id("composer-text").input_value() == "Hello"  # nothing is lost
    assert stub.asked == []


def test_a_stream_that_fails_in_the_middle_keeps_its_beginning(page: "Page") -> None:
    error = {"message": "the engine stopped.", "type": "server_error", "param": None, "code": None}
    failing = [piece({"content": "half an "}), piece({"content": ""}, finish_reason="error")]
    failing[-1]["error"] = error
    ChatStub([failing]).attach(page)
    say(page, "Hello")
    answers(page).get_by_test_id("message-error").wait_for()
    assert answers(page).get_by_test_id("message-error").inner_text() == "the engine stopped."
    assert body_text(answers(page)).strip() == "half an"


def test_a_server_that_is_away_is_told(page: "Page", allowed_errors: list[str]) -> None:
    allowed_errors.append("ERR_")
    page.route(CHAT, lambda route: route.abort())
    say(page, "Hello")
    error = answers(page).get_by_test_id("message-error")
    error.wait_for()
    assert "does not answer" in error.inner_text()


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("curl", ["curl -N", "/v1/chat/completions", '"temperature": 0']),
        ("mistralai", ["from mistralai.client import Mistral", "temperature=0"]),
        ("openai", ["from openai import OpenAI", "/v1", "temperature=0"]),
    ],
)
def test_the_request_can_be_copied_as_code(
    open_page: "Callable[..., Page]", kind: str, words: list[str]
) -> None:
    page = open_page("/", permissions=["clipboard-read", "clipboard-write"])
    page.get_by_test_id("field-temperature").fill("0")
    page.get_by_test_id("composer-text").fill("Who's there?")
    page.get_by_test_id("show-snippet").click()
    page.get_by_test_id("snippet-kind").select_option(kind)
    code = page.get_by_test_id("snippet-code").inner_text()
    assert all(word in code for word in words)
    page.get_by_test_id("snippet-copy").click()
    page.get_by_text("Copied", exact=True).wait_for()
    assert page.evaluate("navigator.clipboard.readText()").strip() == code.strip()


def test_the_api_key_goes_with_every_request_and_is_gone_with_the_tab(page: "Page") -> None:
    ChatStub([text_answer("Hello.")]).attach(page)
    page.get_by_test_id("tab-settings").click()
    page.get_by_test_id("api-key").fill("hush")
    page.get_by_test_id("key-save").click()
    page.get_by_test_id("tab-chat").click()
    with page.expect_request(CHAT) as sent:
        say(page, "Hello")
    assert sent.value.headers["authorization"] == "Bearer hush"
    wait_until_answered(page)
    kept = page.evaluate("JSON.stringify([{...localStorage}, {...sessionStorage}])")
    local, session = json.loads(kept)
    assert "hush" not in json.dumps(local)
    assert "hush" in json.dumps(session)


def test_options_are_a_sheet_on_a_phone(open_page: "Callable[..., Page]") -> None:
    page = open_page("/", viewport={"width": 390, "height": 844})
    assert not page.get_by_test_id("system-text").is_visible()
    open_options(page)
    page.keyboard.press("Escape")
    page.get_by_test_id("system-text").wait_for(state="hidden")
    focused = page.evaluate("document.activeElement.dataset.testid")
    assert focused == "toggle-options"
