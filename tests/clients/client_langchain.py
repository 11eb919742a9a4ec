"""langchain-mistralai: invoke, stream, batch, tools, structured output, embeddings, errors."""

import asyncio
import math
from typing import Annotated, Literal

import httpx
import pytest
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import tool
from langchain_mistralai import ChatMistralAI, MistralAIEmbeddings
from pydantic import BaseModel, Field
from weather_tool import QUESTION, RESULTS, assert_call_is_valid


class Person(BaseModel):
    """A person to be saved."""

    name: str = Field(max_length=12)
    role: Literal["author", "reader"]
    age: int = Field(ge=0, le=150)


@tool
def get_weather(
    city: Annotated[str, Field(max_length=16)], unit: Literal["celsius", "fahrenheit"]
) -> str:
    """Tell the weather in a city."""
    return RESULTS["get_weather"]


@tool
def add_numbers(
    a: Annotated[int, Field(ge=0, le=99)], b: Annotated[int, Field(ge=0, le=99)]
) -> int:
    """Add two whole numbers."""
    return a + b


TOOLS = [get_weather, add_numbers]


@pytest.fixture
def llm(server):
    return make_llm(server)


def make_llm(server, **options) -> ChatMistralAI:
    chosen = {"model": "mistral-small", "temperature": 0.0, "max_tokens": 24, **options}
    return ChatMistralAI(api_key=server.api_key, base_url=f"{server.url}/v1", **chosen)


def assert_calls_are_valid(message: AIMessage) -> None:
    assert message.tool_calls
    assert not message.invalid_tool_calls
    for call in message.tool_calls:
        assert_call_is_valid(call["id"], call["name"], call["args"])


def test_invoke_gives_text_usage_and_reason(llm):
    answer = llm.invoke("Who are you?")
    assert isinstance(answer, AIMessage)
    assert answer.content
    assert answer.usage_metadata["output_tokens"] <= 24
    assert answer.response_metadata["finish_reason"] in ("stop", "length")


def test_system_message_and_history_are_taken(llm):
    alone = llm.invoke("Hello!")
    history = [SystemMessage("Be brief."), HumanMessage("Hi"), AIMessage("Hello."), "Hello!"]
    assert (
        llm.invoke(history).usage_metadata["input_tokens"] > (alone.usage_metadata["input_tokens"])
    )


def test_stream_joins_to_the_whole_answer_with_its_usage(llm):
    whole = llm.invoke("Who are you?")
    chunks = list(llm.stream("Who are you?"))
    assert "".join(chunk.content for chunk in chunks) == whole.content
    total = chunks[0]
    for chunk in chunks[1:]:
        total += chunk
    assert total.usage_metadata == whole.usage_metadata
    assert total.response_metadata["finish_reason"] == whole.response_metadata["finish_reason"]


def test_batch_gives_the_answers_of_single_calls(llm):
    questions = ["Who are you?", "Hello!", "Thank you."]
    batch = [answer.content for answer in llm.batch(questions)]
    assert batch == [llm.invoke(question).content for question in questions]


def test_async_calls_give_the_same(llm):
    async def ask() -> tuple[str, str]:
        answer = await llm.ainvoke("Who are you?")
        pieces = [chunk.content async for chunk in llm.astream("Who are you?")]
        return answer.content, "".join(pieces)

    expected = llm.invoke("Who are you?").content
    assert asyncio.run(ask()) == (expected, expected)


def test_seed_and_safe_mode_reach_the_server(server):
    plain = make_llm(server).invoke("Hello!")
    safe = make_llm(server, safe_mode=True).invoke("Hello!")
    assert safe.usage_metadata["input_tokens"] > plain.usage_metadata["input_tokens"]
    hot = make_llm(server, temperature=1.0, random_seed=5)
    assert hot.invoke("Tell me a story.").content == hot.invoke("Tell me a story.").content


def test_stop_words_cut_the_answer(llm):
    whole = llm.invoke("Who are you?").content
    stop = whole.split()[2]
    assert llm.invoke("Who are you?", stop=[stop]).content == whole[: whole.index(stop)]


def test_prefix_message_is_continued(llm):
    prefix = AIMessage("I am", additional_kwargs={"prefix": True})
    assert llm.invoke([HumanMessage("Who are you?"), prefix]).content


@pytest.mark.parametrize("choice", ["any", "get_weather", "add_numbers"])
def test_bound_tools_are_called_with_valid_arguments(server, choice):
    llm = make_llm(server, max_tokens=96).bind_tools(TOOLS, tool_choice=choice)
    answer = llm.invoke(QUESTION)
    assert_calls_are_valid(answer)
    if choice != "any":
        assert {call["name"] for call in answer.tool_calls} == {choice}


def test_streamed_calls_are_those_of_the_whole_answer(server):
    llm = make_llm(server, max_tokens=96).bind_tools(TOOLS, tool_choice="any")
    whole = llm.invoke(QUESTION)
    chunks = list(llm.stream(QUESTION))
    total = chunks[0]
    for chunk in chunks[1:]:
        total += chunk
    assert_calls_are_valid(total)
    called = [(call["name"], call["args"]) for call in total.tool_calls]
    assert called == [(call["name"], call["args"]) for call in whole.tool_calls]


def test_results_go_back_with_calls_that_have_no_type(server):
    llm = make_llm(server, max_tokens=96)
    history = [HumanMessage(QUESTION)]
    history.append(llm.bind_tools(TOOLS, tool_choice="any").invoke(history))
    for call in history[-1].tool_calls:
        result = {"get_weather": get_weather, "add_numbers": add_numbers}[call["name"]].invoke(call)
        assert isinstance(result, ToolMessage)
        history.append(result)
    answer = make_llm(server).bind_tools(TOOLS, tool_choice="none").invoke(history)
    assert answer.content
    history += [answer, HumanMessage("And in Rome?")]
    assert_calls_are_valid(llm.bind_tools(TOOLS, tool_choice="any").invoke(history))


@pytest.mark.parametrize("method", ["function_calling", "json_schema"])
def test_structured_output_gives_the_pydantic_model(server, method):
    structured = make_llm(server, max_tokens=96).with_structured_output(Person, method=method)
    assert isinstance(structured.invoke("Describe a person."), Person)


def test_structured_output_in_json_mode_gives_an_object(server):
    structured = make_llm(server, max_tokens=64).with_structured_output(method="json_mode")
    assert isinstance(structured.invoke("Describe a person as JSON."), dict)


def test_embeddings_know_meaning(server):
    """The tokenizer that it would download counts tokens for batches; without it, characters do."""
    with pytest.warns(UserWarning, match="Could not download mistral tokenizer"):
        embedder = MistralAIEmbeddings(api_key=server.api_key, endpoint=f"{server.url}/v1/")
    query = embedder.embed_query("a cat")
    near, far = embedder.embed_documents(["a kitten", "the stock market"])
    assert math.hypot(*query) == pytest.approx(1, abs=1e-3)
    assert math.dist(query, near) < math.dist(query, far)
    assert asyncio.run(embedder.aembed_query("a cat")) == pytest.approx(query, abs=1e-3)


def test_wrong_key_shows_the_status_and_the_message(server):
    llm = ChatMistralAI(api_key="wrong", base_url=f"{server.url}/v1", model="mistral-small")
    with pytest.raises(httpx.HTTPStatusError, match=r"(?is)401.*key"):
        llm.invoke("Hello!")


def test_unknown_model_is_named(server):
    with pytest.raises(httpx.HTTPStatusError, match="no-such-model"):
        make_llm(server, model="no-such-model").invoke("Hello!")
    with pytest.raises(httpx.HTTPStatusError, match="no-such-model"):
        list(make_llm(server, model="no-such-model").stream("Hello!"))
