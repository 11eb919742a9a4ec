"""llama-index-llms-mistralai: complete, chat, stream, tools, structured output, FIM, errors.

The client knows Mistral's current model names alone; ``mistral-small-latest`` is one that the
server answers to. It drops the bounds of annotated arguments, so the tools take closed sets.
"""

import asyncio
from typing import Literal

import pytest
from llama_index.core.llms import ChatMessage
from llama_index.core.program import FunctionCallingProgram
from llama_index.core.tools import FunctionTool
from llama_index.llms.mistralai import MistralAI
from mistralai.client.errors import MistralError
from pydantic import BaseModel, Field
from weather_tool import QUESTION, RESULTS, assert_call_is_valid


class Person(BaseModel):
    """A person to be saved."""

    name: str = Field(max_length=12)
    role: Literal["author", "reader"]
    age: int = Field(ge=0, le=150)


def get_weather(city: Literal["Paris", "Rome"], unit: Literal["celsius", "fahrenheit"]) -> str:
    """Tell the weather in a city."""
    return RESULTS["get_weather"]


def add_numbers(a: Literal[1, 2, 3], b: Literal[1, 2, 3]) -> str:
    """Add two whole numbers."""
    return str(a + b)


TOOLS = [FunctionTool.from_defaults(get_weather), FunctionTool.from_defaults(add_numbers)]
HISTORY = [ChatMessage(role="system", content="Be brief."), ChatMessage(content="Who are you?")]


def make_llm(server, **options) -> MistralAI:
    chosen = {"model": "mistral-small-latest", "temperature": 0.0, "max_tokens": 24, **options}
    return MistralAI(api_key=server.api_key, endpoint=server.url, max_retries=0, **chosen)


@pytest.fixture
def llm(server):
    return make_llm(server)


def test_complete_and_its_stream_give_the_same_text(llm):
    whole = llm.complete("Who are you?")
    assert whole.text
    pieces = [piece.delta for piece in llm.stream_complete("Who are you?")]
    assert "".join(pieces) == whole.text


def test_chat_and_its_stream_give_the_same_text(llm):
    whole = llm.chat(HISTORY)
    assert whole.message.role.value == "assistant"
    assert whole.raw["usage"].completion_tokens <= 24
    assert "".join(piece.delta for piece in llm.stream_chat(HISTORY)) == whole.message.content


def test_async_calls_give_the_same_text(llm):
    async def ask() -> tuple[str, str, str]:
        completed = await llm.acomplete("Who are you?")
        chatted = await llm.achat([ChatMessage(content="Who are you?")])
        stream = await llm.astream_complete("Who are you?")
        return completed.text, chatted.message.content, "".join([p.delta async for p in stream])

    expected = llm.complete("Who are you?").text
    assert asyncio.run(ask()) == (expected, expected, expected)


def test_seed_repeats_the_answer(server):
    hot = make_llm(server, temperature=1.0, random_seed=5)
    assert hot.complete("Tell me a story.").text == hot.complete("Tell me a story.").text


def test_required_tools_are_called_with_valid_arguments(server):
    llm = make_llm(server, max_tokens=96)
    options = {"tool_required": True, "allow_parallel_tool_calls": True}
    response = llm.chat_with_tools(TOOLS, user_msg=QUESTION, **options)
    calls = llm.get_tool_calls_from_response(response)
    assert calls
    for call in calls:
        assert_call_is_valid(call.tool_id, call.tool_name, call.tool_kwargs)


def test_predict_and_call_runs_the_function(server):
    llm = make_llm(server, max_tokens=96)
    response = llm.predict_and_call([TOOLS[0]], user_msg=QUESTION, tool_required=True)
    assert response.response == RESULTS["get_weather"]


def test_streamed_tools_are_called_with_valid_arguments(server):
    llm = make_llm(server, max_tokens=96)
    *_, last = llm.stream_chat_with_tools(TOOLS, user_msg=QUESTION, tool_required=True)
    for call in llm.get_tool_calls_from_response(last):
        assert_call_is_valid(call.tool_id, call.tool_name, call.tool_kwargs)


def test_results_go_back_and_the_model_answers(server):
    llm = make_llm(server, max_tokens=96)
    history = [ChatMessage(content=QUESTION)]
    response = llm.chat_with_tools(TOOLS, chat_history=history, tool_required=True)
    history.append(response.message)
    for call in llm.get_tool_calls_from_response(response):
        fields = {"tool_call_id": call.tool_id, "name": call.tool_name}
        result = RESULTS[call.tool_name]
        history.append(ChatMessage(role="tool", content=result, additional_kwargs=fields))
    # The server refuses results that do not belong to a call; nano may answer with nothing at all.
    answer = make_llm(server).chat(history)
    assert answer.message.role.value == "assistant"
    assert answer.raw["usage"].prompt_tokens > len(QUESTION.split())


def test_structured_output_gives_the_pydantic_model(server):
    """as_structured_llm leaves it to the model whether it calls; this makes it call."""
    program = FunctionCallingProgram.from_defaults(
        output_cls=Person,
        llm=make_llm(server, max_tokens=96),
        prompt_template_str="Describe a person.",
        tool_choice="required",
    )
    assert isinstance(program(), Person)


def test_middle_is_filled(server):
    llm = make_llm(server, model="codestral-latest")
    assert isinstance(llm.fill_in_middle("def add(a, b):\n    ", "\n    return total").text, str)


def test_unknown_names_fail_in_the_client_before_anything_is_sent(server):
    with pytest.raises(ValueError, match="open-mixtral-8x7b"):
        make_llm(server, model="open-mixtral-8x7b").complete("Hello!")


def test_wrong_key_is_an_error_with_status_401(server):
    llm = MistralAI(api_key="wrong", endpoint=server.url, model="mistral-small-latest")
    with pytest.raises(MistralError, match=r"(?i)key") as error:
        llm.complete("Hello!")
    assert error.value.status_code == 401
