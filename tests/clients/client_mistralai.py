"""mistralai 1.x and 3.x: chat, streams, tools, parse, FIM, embeddings, models, errors."""

import asyncio
import json
import math
from typing import Literal

import pytest
from pydantic import BaseModel
from weather_tool import QUESTION, RESULTS, TOOLS, assert_call_is_valid, assert_reason_is_honest

try:  # 1.x has its names at the top, 3.x one level down, where 1.x keeps only a stub
    from mistralai import Mistral, models
    from mistralai.models import MistralError
except ImportError:
    from mistralai.client import Mistral, models
    from mistralai.client.errors import MistralError

HELLO = [{"role": "user", "content": "Who are you?"}]
STORY = [{"role": "user", "content": "Tell me a story about a fox and the moon."}]
ASKED = [{"role": "user", "content": QUESTION}]
GREEDY = {"model": "open-mixtral-8x7b", "temperature": 0.0, "max_tokens": 24}
CALLS = {**GREEDY, "max_tokens": 96, "messages": ASKED, "tools": TOOLS}


class Label(BaseModel):
    """Without numbers: 1.x fails on a schema that has one, such as maxLength."""

    kind: Literal["story", "question"]
    mood: Literal["glad", "sad"] | None
    is_long: bool


@pytest.fixture
def client(server):
    with Mistral(api_key=server.api_key, server_url=server.url) as opened:
        yield opened


def read(stream) -> list:
    with stream as events:
        return [event.data for event in events]


def joined(chunks) -> str:
    return "".join(chunk.choices[0].delta.content for chunk in chunks)


def assert_calls_are_valid(calls) -> None:
    assert calls
    assert len({call.id for call in calls}) == len(calls)
    for call in calls:
        assert call.type == "function"
        assert_call_is_valid(call.id, call.function.name, call.function.arguments)


def test_answer_has_role_reason_and_usage(client):
    response = client.chat.complete(messages=HELLO, **{**GREEDY, "max_tokens": 3})
    choice = response.choices[0]
    assert response.object == "chat.completion"
    assert (choice.index, choice.message.role, choice.finish_reason) == (0, "assistant", "length")
    assert response.usage.completion_tokens == 3
    assert response.usage.total_tokens == response.usage.prompt_tokens + 3


def test_message_classes_and_content_parts_say_the_same_as_dicts(client):
    whole = client.chat.complete(messages=HELLO, **GREEDY)
    objects = [models.UserMessage(content=HELLO[0]["content"])]
    parts = [{"role": "user", "content": [{"type": "text", "text": HELLO[0]["content"]}]}]
    for messages in (objects, parts):
        same = client.chat.complete(messages=messages, **GREEDY)
        assert same.choices[0].message.content == whole.choices[0].message.content
        assert same.usage.prompt_tokens == whole.usage.prompt_tokens


def test_stream_joins_to_the_whole_answer_and_ends_with_the_usage(client):
    whole = client.chat.complete(messages=HELLO, **GREEDY)
    chunks = read(client.chat.stream(messages=HELLO, **GREEDY))
    assert joined(chunks) == whole.choices[0].message.content
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].choices[0].finish_reason == whole.choices[0].finish_reason
    assert {chunk.choices[0].finish_reason for chunk in chunks[:-1]} <= {None}
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens


def test_stream_left_early_leaves_the_server_well(client):
    with client.chat.stream(messages=STORY, **{**GREEDY, "max_tokens": 400}) as events:
        next(iter(events))
    assert client.chat.complete(messages=HELLO, **GREEDY).choices


def test_stop_string_ends_the_answer_and_is_not_in_it(client):
    whole = client.chat.complete(messages=HELLO, **GREEDY).choices[0].message.content
    stop = whole.split()[2]
    for stops in (stop, [stop, "never said"]):
        cut = client.chat.complete(messages=HELLO, stop=stops, **GREEDY).choices[0]
        assert cut.message.content == whole[: whole.index(stop)]
        assert cut.finish_reason == "stop"


def test_same_seed_gives_the_same_answer_and_seeds_matter(client):
    def told(seed: int) -> str:
        options = {**GREEDY, "temperature": 1.0, "top_p": 0.95, "random_seed": seed}
        return client.chat.complete(messages=STORY, **options).choices[0].message.content

    assert told(1) == told(1)
    assert len({told(seed) for seed in range(5)}) > 1


def test_n_answers_are_numbered_and_counted_together(client):
    options = {**GREEDY, "temperature": 1.0, "max_tokens": 6, "random_seed": 3}
    response = client.chat.complete(messages=STORY, n=3, **options)
    assert [choice.index for choice in response.choices] == [0, 1, 2]
    assert response.usage.completion_tokens <= 18
    single = client.chat.complete(messages=STORY, n=1, **options)
    assert response.usage.prompt_tokens == single.usage.prompt_tokens


def test_penalties_and_safe_prompt_are_taken(client):
    plain = client.chat.complete(messages=HELLO, **GREEDY)
    options = {"presence_penalty": 0.5, "frequency_penalty": 0.5, "safe_prompt": True}
    response = client.chat.complete(messages=HELLO, **options, **GREEDY)
    assert response.usage.prompt_tokens > plain.usage.prompt_tokens


def test_prefix_message_is_continued(client):
    prefix = {"role": "assistant", "content": "I am", "prefix": True}
    response = client.chat.complete(messages=[*HELLO, prefix], **GREEDY)
    content = response.choices[0].message.content
    chunks = read(client.chat.stream(messages=[*HELLO, prefix], **GREEDY))
    assert content
    assert joined(chunks) == content


def test_json_mode_gives_an_object(client):
    wanted = {"type": "json_object"}
    response = client.chat.complete(messages=HELLO, response_format=wanted, **GREEDY)
    assert isinstance(json.loads(response.choices[0].message.content), dict)


def test_parse_gives_the_pydantic_model(client):
    response = client.chat.parse(Label, messages=STORY, **{**GREEDY, "max_tokens": 96})
    assert isinstance(response.choices[0].message.parsed, Label)
    assert response.choices[0].finish_reason == "stop"


def test_parse_stream_joins_to_json_of_the_model(client):
    options = {**GREEDY, "max_tokens": 96}
    chunks = read(client.chat.parse_stream(Label, messages=STORY, **options))
    assert isinstance(Label.model_validate_json(joined(chunks)), Label)


@pytest.mark.parametrize("choice", ["any", "required"])
def test_forced_calls_are_valid(client, choice):
    answer = client.chat.complete(tool_choice=choice, **CALLS).choices[0]
    assert_reason_is_honest(answer.finish_reason)
    assert not answer.message.content
    assert_calls_are_valid(answer.message.tool_calls)


@pytest.mark.parametrize("name", ["get_weather", "add_numbers"])
def test_named_tool_is_the_one_called(client, name):
    choice = {"type": "function", "function": {"name": name}}
    calls = client.chat.complete(tool_choice=choice, **CALLS).choices[0].message.tool_calls
    assert_calls_are_valid(calls)
    assert {call.function.name for call in calls} == {name}


def test_no_parallel_calls_means_one_call(client):
    options = {**CALLS, "tool_choice": "any", "parallel_tool_calls": False}
    answer = client.chat.complete(**options).choices[0]
    assert len(answer.message.tool_calls) == 1
    assert answer.finish_reason == "tool_calls"


def test_auto_and_none_are_taken(client):
    auto = client.chat.complete(tool_choice="auto", **CALLS).choices[0]
    if auto.finish_reason == "tool_calls":
        assert_calls_are_valid(auto.message.tool_calls)
    else:
        assert auto.message.content
    assert not client.chat.complete(tool_choice="none", **CALLS).choices[0].message.tool_calls


def test_streamed_calls_are_those_of_the_whole_answer(client):
    whole = client.chat.complete(tool_choice="any", **CALLS).choices[0].message.tool_calls
    chunks = read(client.chat.stream(tool_choice="any", **CALLS))
    calls = [call for chunk in chunks for call in chunk.choices[0].delta.tool_calls or []]
    assert_calls_are_valid(calls)
    assert [call.function for call in calls] == [call.function for call in whole]
    assert [call.index for call in calls] == list(range(len(calls)))
    assert_reason_is_honest(chunks[-1].choices[0].finish_reason)


def test_results_go_back_and_the_model_answers(client):
    """The client adds ``index`` and ``prefix`` to the assistant message that it sends back."""
    forced = client.chat.complete(tool_choice="any", **CALLS).choices[0].message
    results = [
        {
            "role": "tool",
            "tool_call_id": call.id,
            "name": call.function.name,
            "content": RESULTS[call.function.name],
        }
        for call in forced.tool_calls
    ]
    history = [*ASKED, forced, *results]
    answer = client.chat.complete(messages=history, tools=TOOLS, tool_choice="none", **GREEDY)
    assert answer.choices[0].message.content
    longer = [*history, answer.choices[0].message, {"role": "user", "content": "And in Rome?"}]
    again = client.chat.complete(**{**CALLS, "messages": longer, "tool_choice": "any"})
    assert_calls_are_valid(again.choices[0].message.tool_calls)


def test_middle_is_filled_and_streamed_the_same(client):
    options = {**GREEDY, "prompt": "def add(a, b):\n    ", "suffix": "\n    return total\n"}
    whole = client.fim.complete(**options)
    assert isinstance(whole.choices[0].message.content, str)
    assert joined(read(client.fim.stream(**options))) == whole.choices[0].message.content
    del options["suffix"]
    assert client.fim.complete(**options).usage.completion_tokens >= 1


def test_embeddings_are_unit_vectors(client):
    response = client.embeddings.create(model="mistral-embed", inputs=["a cat", "a kitten"])
    assert [item.index for item in response.data] == [0, 1]
    assert all(math.hypot(*item.embedding) == pytest.approx(1, abs=1e-3) for item in response.data)
    shorter = client.embeddings.create(model="mistral-embed", inputs="a cat", output_dimension=64)
    assert len(shorter.data[0].embedding) == 64


def test_models_are_listed_and_described(client):
    cards = client.models.list().data
    assert "nano" in {card.id for card in cards}
    assert all(type(card).__name__ == "BaseModelCard" for card in cards)
    card = client.models.retrieve(model_id="nano")
    assert card.capabilities.completion_chat
    assert card.max_context_length == 8192


def test_wrong_key_is_an_error_with_status_401(server):
    with (
        Mistral(api_key="wrong", server_url=server.url) as client,
        pytest.raises(MistralError, match=r"(?i)key") as error,
    ):
        client.chat.complete(messages=HELLO, **GREEDY)
    assert error.value.status_code == 401


@pytest.mark.parametrize(
    ("field", "value"), [("model", "no-such-model"), ("temperature", -1.0), ("max_tokens", -5)]
)
@pytest.mark.parametrize("streamed", [False, True])
def test_bad_fields_are_named(client, field, value, streamed):
    call = client.chat.stream if streamed else client.chat.complete
    with pytest.raises(MistralError, match=field if field != "model" else value) as error:
        call(messages=HELLO, **{**GREEDY, field: value})
    assert error.value.status_code in (400, 404, 422)


def test_a_conversation_that_cannot_fit_is_refused(client):
    messages = [{"role": "user", "content": "word " * 9000}]
    with pytest.raises(MistralError, match="8192") as error:
        client.chat.complete(messages=messages, **GREEDY)
    assert error.value.status_code == 400


def test_moderation_without_a_classifier_is_501(client):
    with pytest.raises(MistralError, match=r"(?i)moderation|classifier") as error:
        client.classifiers.moderate(model="mistral-moderation-latest", inputs=["hello"])
    assert error.value.status_code == 501


def test_async_client_answers_several_at_once_as_one_by_one(client, server):
    questions = ["Who are you?", "Hello!", "What is a mixture of experts?", "Thank you."]
    asked = [[{"role": "user", "content": question}] for question in questions]

    async def ask_all() -> list[str]:
        async with Mistral(api_key=server.api_key, server_url=server.url) as opened:
            chat = opened.chat
            answers = await asyncio.gather(
                *(chat.complete_async(messages=messages, **GREEDY) for messages in asked)
            )
            stream = await chat.stream_async(messages=asked[0], **GREEDY)
            chunks = [event.data async for event in stream]
            assert joined(chunks) == answers[0].choices[0].message.content
            parsed = await chat.parse_async(Label, messages=STORY, **{**GREEDY, "max_tokens": 96})
            assert isinstance(parsed.choices[0].message.parsed, Label)
            await opened.embeddings.create_async(model="mistral-embed", inputs=questions)
            return [answer.choices[0].message.content for answer in answers]

    one_by_one = [client.chat.complete(messages=messages, **GREEDY) for messages in asked]
    assert asyncio.run(ask_all()) == [one.choices[0].message.content for one in one_by_one]
