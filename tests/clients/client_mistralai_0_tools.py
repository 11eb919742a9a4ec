"""mistralai 0.1 and later: tools and JSON mode. 0.1.8 sends tool results without the call's id."""

import json

import pytest
from mistralai.client import MistralClient
from mistralai.models.chat_completion import (
    ChatMessage,
    Function,
    ResponseFormat,
    ResponseFormats,
    ToolChoice,
)
from weather_tool import (
    QUESTION,
    RESULTS,
    SUM,
    TOOLS,
    WEATHER,
    assert_call_is_valid,
    assert_reason_is_honest,
)

ASKED = [ChatMessage(role="user", content=QUESTION)]
OPTIONS = {"model": "open-mixtral-8x22b", "temperature": 0.0, "max_tokens": 96}
HAS_CALL_IDS = "tool_call_id" in ChatMessage.model_fields


@pytest.fixture
def client(server):
    return MistralClient(api_key=server.api_key, endpoint=server.url)


def assert_calls_are_valid(calls) -> None:
    assert calls
    assert len({call.id for call in calls}) == len(calls)
    for call in calls:
        assert call.type.value == "function"
        assert isinstance(call.function.arguments, str)
        assert_call_is_valid(call.id, call.function.name, call.function.arguments)


def test_any_forces_a_valid_call(client):
    response = client.chat(messages=ASKED, tools=TOOLS, tool_choice="any", **OPTIONS)
    choice = response.choices[0]
    assert_reason_is_honest(choice.finish_reason.value)
    assert choice.message.content == ""
    assert_calls_are_valid(choice.message.tool_calls)


def test_function_objects_and_the_enum_work_too(client):
    function = Function(name="get_weather", description="Tell the weather.", parameters=WEATHER)
    tools = [{"type": "function", "function": function}]
    response = client.chat(messages=ASKED, tools=tools, tool_choice=ToolChoice.any, **OPTIONS)
    calls = response.choices[0].message.tool_calls
    assert {call.function.name for call in calls} == {"get_weather"}
    assert_calls_are_valid(calls)


def test_auto_gives_text_or_valid_calls(client):
    response = client.chat(messages=ASKED, tools=TOOLS, tool_choice="auto", **OPTIONS)
    choice = response.choices[0]
    if choice.finish_reason.value == "tool_calls":
        assert_calls_are_valid(choice.message.tool_calls)
    else:
        assert choice.message.content
        assert not choice.message.tool_calls


def test_none_gives_text(client):
    response = client.chat(messages=ASKED, tools=TOOLS, tool_choice="none", **OPTIONS)
    assert response.choices[0].finish_reason.value in ("stop", "length")
    assert not response.choices[0].message.tool_calls


def test_streamed_calls_are_those_of_the_whole_answer(client):
    """This client cannot join pieces of a call, so each one has to come whole."""
    options = {"messages": ASKED, "tools": TOOLS, "tool_choice": "any", **OPTIONS}
    whole = client.chat(**options).choices[0].message.tool_calls
    chunks = list(client.chat_stream(**options))
    calls = [call for chunk in chunks for call in chunk.choices[0].delta.tool_calls or []]
    assert_calls_are_valid(calls)
    assert [call.function for call in calls] == [call.function for call in whole]
    assert_reason_is_honest(chunks[-1].choices[0].finish_reason.value)


def test_results_go_back_and_the_model_answers(client):
    forced = client.chat(messages=ASKED, tools=TOOLS, tool_choice="any", **OPTIONS)
    history = [*ASKED, forced.choices[0].message]
    for call in forced.choices[0].message.tool_calls:
        # Before 0.2, this field is not known; pydantic drops it in silence.
        known = {"tool_call_id": call.id} if HAS_CALL_IDS else {}
        name = call.function.name
        history.append(ChatMessage(role="tool", name=name, content=RESULTS[name], **known))
    options = {**OPTIONS, "max_tokens": 16}
    answer = client.chat(messages=history, tools=TOOLS, tool_choice="none", **options)
    assert answer.choices[0].message.content
    longer = [*history, answer.choices[0].message, ChatMessage(role="user", content="Thanks!")]
    again = client.chat(messages=longer, tools=TOOLS, tool_choice="any", **OPTIONS)
    assert_calls_are_valid(again.choices[0].message.tool_calls)


@pytest.mark.parametrize(
    "wanted", [{"type": "json_object"}, ResponseFormat(type=ResponseFormats.json_object)]
)
def test_json_mode_gives_an_object(client, wanted):
    messages = [ChatMessage(role="user", content="John Smith, 44 years old, as JSON.")]
    options = {**OPTIONS, "max_tokens": 48}
    response = client.chat(messages=messages, response_format=wanted, **options)
    assert isinstance(json.loads(response.choices[0].message.content), dict)


def test_wrong_tool_schema_is_refused(client):
    broken = {"type": "object", "properties": {"a": {"type": "no-such-type"}}}
    tools = [{"type": "function", "function": {"name": "f", "parameters": broken}}]
    with pytest.raises(Exception, match="no-such-type") as error:
        client.chat(messages=ASKED, tools=tools, tool_choice="any", **OPTIONS)
    assert error.value.http_status in (400, 422)


def test_two_tools_are_both_reachable(client):
    for parameters, name in ((WEATHER, "get_weather"), (SUM, "add_numbers")):
        function = {"name": name, "description": "", "parameters": parameters}
        tools = [{"type": "function", "function": function}]
        response = client.chat(messages=ASKED, tools=tools, tool_choice="any", **OPTIONS)
        calls = response.choices[0].message.tool_calls
        assert {call.function.name for call in calls} == {name}
