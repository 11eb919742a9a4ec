"""openai: tools, forced, named, streamed, parsed, and their results."""

from typing import Literal

import pytest
from openai import OpenAI, pydantic_function_tool
from pydantic import BaseModel, Field
from weather_tool import QUESTION, RESULTS, TOOLS, assert_call_is_valid, assert_reason_is_honest

STORY = [{"role": "user", "content": "Tell me a story about a fox and the moon."}]
ASKED = [{"role": "user", "content": QUESTION}]
GREEDY = {"model": "nano", "temperature": 0.0, "max_tokens": 24}
CALLS = {**GREEDY, "max_tokens": 96, "messages": ASKED, "tools": TOOLS}


class Person(BaseModel):
    name: str = Field(max_length=12)
    role: Literal["author", "reader"]
    age: int = Field(ge=0, le=150)


@pytest.fixture
def client(server):
    with OpenAI(api_key=server.api_key, base_url=f"{server.url}/v1", max_retries=0) as opened:
        yield opened


@pytest.fixture
def create(client):
    return client.chat.completions.create


def assert_calls_are_valid(calls) -> None:
    assert calls
    assert len({call.id for call in calls}) == len(calls)
    for call in calls:
        assert call.type == "function"
        assert isinstance(call.function.arguments, str)
        assert_call_is_valid(call.id, call.function.name, call.function.arguments)


def test_parse_gives_arguments_as_the_pydantic_model(client):
    tools = [pydantic_function_tool(Person, name="save_person")]
    options = {**GREEDY, "max_tokens": 200, "tools": tools, "tool_choice": "required"}
    options["parallel_tool_calls"] = False
    message = client.chat.completions.parse(messages=STORY, **options).choices[0].message
    assert message.tool_calls
    for call in message.tool_calls:
        assert isinstance(call.function.parsed_arguments, Person)


def test_required_calls_are_valid(create):
    answer = create(tool_choice="required", **CALLS).choices[0]
    assert_reason_is_honest(answer.finish_reason)
    assert not answer.message.content
    assert_calls_are_valid(answer.message.tool_calls)


@pytest.mark.parametrize("name", ["get_weather", "add_numbers"])
def test_named_tool_is_the_one_called(create, name):
    choice = {"type": "function", "function": {"name": name}}
    calls = create(tool_choice=choice, **CALLS).choices[0].message.tool_calls
    assert_calls_are_valid(calls)
    assert {call.function.name for call in calls} == {name}


def test_no_parallel_calls_means_one_call(create):
    answer = create(tool_choice="required", parallel_tool_calls=False, **CALLS).choices[0]
    assert len(answer.message.tool_calls) == 1
    assert answer.finish_reason == "tool_calls"


def test_streamed_calls_merge_to_those_of_the_whole_answer(create):
    whole = create(tool_choice="required", **CALLS).choices[0].message.tool_calls
    merged: dict[int, dict[str, str]] = {}
    chunks = list(create(tool_choice="required", stream=True, **CALLS))
    for chunk in chunks:
        for piece in chunk.choices[0].delta.tool_calls or []:
            call = merged.setdefault(piece.index, {"id": "", "name": "", "arguments": ""})
            call["id"] += piece.id or ""
            call["name"] += piece.function.name or ""
            call["arguments"] += piece.function.arguments or ""
    assert_reason_is_honest(chunks[-1].choices[0].finish_reason)
    assert sorted(merged) == list(range(len(whole)))
    for index, call in enumerate(whole):
        assert_call_is_valid(merged[index]["id"], call.function.name, call.function.arguments)
        assert merged[index]["name"] == call.function.name
        assert merged[index]["arguments"] == call.function.arguments


def test_stream_helper_gives_the_calls(client):
    options = {**CALLS, "tool_choice": "required", "parallel_tool_calls": False}
    with client.chat.completions.stream(**options) as stream:
        final = stream.get_final_completion().choices[0]
    assert_calls_are_valid(final.message.tool_calls)


def test_results_go_back_and_the_model_answers(create):
    forced = create(tool_choice="required", **CALLS).choices[0].message
    results = [
        {"role": "tool", "tool_call_id": call.id, "content": RESULTS[call.function.name]}
        for call in forced.tool_calls
    ]
    history = [*ASKED, forced, *results]
    answer = create(messages=history, tools=TOOLS, tool_choice="none", **GREEDY).choices[0]
    assert answer.message.content
    longer = [*history, answer.message, {"role": "user", "content": "And in Rome?"}]
    again = create(**{**CALLS, "messages": longer, "tool_choice": "required"}).choices[0]
    assert_calls_are_valid(again.message.tool_calls)
