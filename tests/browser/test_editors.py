"""The editors of schemas and tools say what is wrong while it is typed, and the server agrees."""

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.browser.api_stub import ChatStub, call_answer, text_answer
from tests.browser.views import TOOLS, say, unfold, wait_until, wait_until_answered

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

pytestmark = pytest.mark.browser

SCHEMA = {
    "type": "object",
    "properties": {"ok": {"type": "boolean"}, "size": {"type": "integer", "maximum": 9}},
    "required": ["ok", "size"],
    "additionalProperties": False,
}


def choose_format(page: "Page", kind: str) -> "Locator":
    unfold(page, "format")
    page.get_by_test_id("format-kind").select_option(kind)
    return page.get_by_test_id("format-verdict")


def is_wrong(verdict: "Locator") -> bool:
    return "wrong" in (verdict.get_attribute("class") or "")


# ---- Formats ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "empty"),
        ('{"type": "object"', "missing"),
        ('{"type": "struct"}', "#/type must be one"),
        ('{"type": "object", "type": "array"}', "type"),
        ('{"maximum": 9007199254740993}', "cannot hold the number 9007199254740993 exactly"),
        ('{"maximum": 1e400}', "cannot hold the number 1e400"),
        (
            '{"properties": {"b": {}, "10": {}}}',
            'Line 1, column 26: the browser would move the name "10"',
        ),
        ('{"properties": {"2": {}, "1": {}}}', 'would move the name "1"'),
    ],
)
def test_a_schema_that_is_wrong_is_told_while_it_is_typed(
    page: "Page", text: str, words: str
) -> None:
    stub = ChatStub([text_answer("{}")]).attach(page)
    verdict = choose_format(page, "json_schema")
    page.get_by_test_id("schema-text").fill("{}")
    page.get_by_test_id("schema-text").fill(text)
    assert is_wrong(verdict)
    assert words in verdict.inner_text()
    assert page.get_by_test_id("schema-text").get_attribute("aria-invalid") == "true"
    say(page, "Hello")
    page.get_by_test_id("notice").wait_for()
    assert stub.asked == []
    page.get_by_test_id("schema-text").fill(json.dumps(SCHEMA))
    assert not is_wrong(verdict)
    assert verdict.inner_text() == "This can be sent."


def test_a_schema_is_sent_as_it_was_written(page: "Page") -> None:
    stub = ChatStub([text_answer("{}")]).attach(page)
    choose_format(page, "json_schema")
    text = '{"properties":{"1":{},"10":{},"b":{},"a":{"enum":[9007199254740991,-0.5,1e+300]}}}'
    page.get_by_test_id("schema-text").fill(text)
    say(page, "Hello")
    wait_until_answered(page)
    sent = stub.asked[0]["response_format"]["json_schema"]["schema"]
    assert json.dumps(sent, separators=(",", ":")) == text


def test_an_answer_follows_the_schema(page: "Page") -> None:
    choose_format(page, "json_schema")
    page.get_by_test_id("schema-text").fill(json.dumps(SCHEMA))
    say(page, "Answer.")
    wait_until_answered(page)
    shown = page.locator(".message.assistant pre code").inner_text()
    answer = json.loads(shown)
    assert isinstance(answer["ok"], bool)
    assert answer["size"] <= 9


def test_the_example_of_a_schema_is_right(page: "Page") -> None:
    verdict = choose_format(page, "json_schema")
    page.get_by_test_id("schema-example").click()
    assert verdict.inner_text() == "This can be sent."
    body = {
        "model": page.get_by_test_id("model-name").inner_text(),
        "messages": [{"role": "user", "content": "x"}],
        "max_tokens": 0,
        "response_format": {
            "type": "json_schema",
            "json_schema": {
                "name": "answer",
                "schema": json.loads(page.get_by_test_id("schema-text").input_value()),
            },
        },
    }
    assert page.request.post("/v1/chat/completions", data=body).status == 200


def test_an_answer_is_one_of_a_list(page: "Page") -> None:
    choose_format(page, "choice")
    page.get_by_test_id("choice-text").fill("yes\nno\n")
    say(page, "Is water wet?")
    wait_until_answered(page)
    assert page.locator(".message.assistant .body").inner_text().strip() in ("yes", "no")


def test_an_answer_matches_a_pattern(page: "Page") -> None:
    choose_format(page, "regex")
    page.get_by_test_id("regex-text").fill("[0-9]{4}")
    say(page, "A year?")
    wait_until_answered(page)
    text = page.locator(".message.assistant .body").inner_text().strip()
    assert len(text) == 4
    assert text.isdigit()


# ---- Tools -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("[", "missing"),
        ('{"type": "function"}', "list"),
        ('[{"type": "function"}]', "function"),
        ('[{"type": "function", "function": {"name": "a b"}}]', "name"),
        (
            '[{"type": "function", "function": {"name": "f", "parameters": {"type": "x"}}}]',
            "#/type must be one",
        ),
    ],
)
def test_tools_that_are_wrong_are_told_while_they_are_typed(
    page: "Page", text: str, word: str
) -> None:
    unfold(page, "tools")
    verdict = page.get_by_test_id("tools-verdict")
    page.get_by_test_id("tools-text").fill(text)
    assert is_wrong(verdict)
    assert word in verdict.inner_text()
    page.get_by_test_id("tools-text").fill(TOOLS)
    assert verdict.inner_text() == "This can be sent: get_weather."
    assert not is_wrong(verdict)


def test_a_call_is_shown_and_its_result_goes_back(page: "Page") -> None:
    unfold(page, "tools")
    page.get_by_test_id("tools-example").click()
    stub = ChatStub([call_answer("get_weather", '{"city":"Paris"}'), text_answer("Sunny.")])
    stub.attach(page)
    say(page, "What is the weather in Paris?")
    page.get_by_test_id("tool-result-text").wait_for()
    assert page.get_by_test_id("tool-call-name").inner_text() == "get_weather"
    shown = page.get_by_test_id("tool-call-arguments").inner_text()
    assert json.loads(shown) == {"city": "Paris"}
    assert not page.get_by_test_id("composer-text").is_editable()  # the results come first
    page.get_by_test_id("tool-result-text").fill('{"celsius": 21}')
    page.get_by_test_id("send-tool-results").click()
    page.get_by_text("Sunny.", exact=True).wait_for()
    question, call, result = stub.asked[1]["messages"]
    assert question["content"] == "What is the weather in Paris?"
    assert call["tool_calls"][0]["id"] == result["tool_call_id"] == "abcDEF123"
    assert result == {
        "role": "tool",
        "name": "get_weather",
        "content": '{"celsius": 21}',
        "tool_call_id": "abcDEF123",
    }
    assert [tool["function"]["name"] for tool in stub.asked[1]["tools"]] == ["get_weather"]
    assert page.get_by_test_id("tool-result").inner_text().count('{"celsius": 21}') == 1


def test_the_model_calls_a_tool_and_takes_its_result(page: "Page") -> None:
    unfold(page, "tools")
    page.get_by_test_id("tools-text").fill(TOOLS)
    page.get_by_test_id("tool-choice").select_option("get_weather")
    say(page, "What is the weather in Paris?")
    page.get_by_test_id("tool-result-text").first.wait_for()
    assert page.get_by_test_id("tool-call-name").first.inner_text() == "get_weather"
    arguments: Any = json.loads(page.get_by_test_id("tool-call-arguments").first.inner_text())
    assert len(arguments["city"]) <= 12
    page.get_by_test_id("tool-choice").select_option("none")
    page.get_by_test_id("field-max_tokens").fill("16")
    for field in page.get_by_test_id("tool-result-text").all():
        field.fill('{"celsius": 21}')
    page.get_by_test_id("send-tool-results").click()
    wait_until(page, "document.querySelectorAll('.message.assistant').length === 2")
    wait_until_answered(page)
    last = page.locator("[data-testid=message][data-role=assistant]").last
    assert last.get_by_test_id("message-error").inner_text() == ""
