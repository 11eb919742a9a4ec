"""openai: chat, streams, parse, completions, embeddings, models, errors."""

import asyncio
import json
import math
from typing import Literal

import pytest
from openai import (
    AsyncOpenAI,
    AuthenticationError,
    BadRequestError,
    InternalServerError,
    NotFoundError,
    OpenAI,
    UnprocessableEntityError,
)
from pydantic import BaseModel, Field

HELLO = [{"role": "user", "content": "Who are you?"}]
STORY = [{"role": "user", "content": "Tell me a story about a fox and the moon."}]
GREEDY = {"model": "nano", "temperature": 0.0, "max_tokens": 24}


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


def joined(chunks, index: int = 0) -> str:
    choices = [choice for chunk in chunks for choice in chunk.choices if choice.index == index]
    return "".join(choice.delta.content or "" for choice in choices)


def test_answer_has_role_reason_and_usage(create):
    response = create(messages=HELLO, **{**GREEDY, "max_tokens": 3})
    choice = response.choices[0]
    assert response.object == "chat.completion"
    assert (choice.index, choice.message.role, choice.finish_reason) == (0, "assistant", "length")
    assert response.usage.completion_tokens == 3
    assert response.usage.total_tokens == response.usage.prompt_tokens + 3


def test_openai_names_of_fields_are_taken(create):
    greedy = create(messages=HELLO, **GREEDY).choices[0].message.content
    options = {"model": "nano", "max_completion_tokens": 24, "temperature": 0.0, "seed": 7}
    options |= {"user": "somebody", "presence_penalty": 0.0, "frequency_penalty": 0.0}
    assert create(messages=HELLO, **options).choices[0].message.content == greedy


def test_developer_message_is_a_system_message(create):
    def with_role(role: str):
        return create(messages=[{"role": role, "content": "Be brief."}, *HELLO], **GREEDY)

    assert with_role("developer").choices == with_role("system").choices


def test_extra_body_carries_the_fields_of_mistral(create):
    plain = create(messages=HELLO, **GREEDY)
    safe = create(messages=HELLO, extra_body={"safe_prompt": True}, **GREEDY)
    assert safe.usage.prompt_tokens > plain.usage.prompt_tokens


def test_stream_joins_to_the_whole_answer(create):
    whole = create(messages=HELLO, **GREEDY).choices[0]
    chunks = list(create(messages=HELLO, stream=True, **GREEDY))
    assert joined(chunks) == whole.message.content
    assert all(chunk.choices for chunk in chunks)
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].choices[0].finish_reason == whole.finish_reason


def test_include_usage_adds_a_last_chunk_without_choices(create):
    whole = create(messages=HELLO, **GREEDY)
    options = {"stream": True, "stream_options": {"include_usage": True}}
    *chunks, last = create(messages=HELLO, **options, **GREEDY)
    assert last.choices == []
    assert last.usage.total_tokens == whole.usage.total_tokens
    assert all(chunk.choices for chunk in chunks)


def test_stream_helper_sees_the_same_answer(client):
    # Long enough to end by itself: this helper raises when the tokens are used up.
    options = {**GREEDY, "max_tokens": 200}
    with client.chat.completions.stream(messages=HELLO, **options) as stream:
        deltas = [event.delta for event in stream if event.type == "content.delta"]
        final = stream.get_final_completion().choices[0].message.content
    assert "".join(deltas) == final


def test_stream_closed_early_leaves_the_server_well(create):
    stream = create(messages=STORY, stream=True, **{**GREEDY, "max_tokens": 400})
    next(iter(stream))
    stream.close()
    assert create(messages=HELLO, **GREEDY).choices


def test_n_answers_are_numbered_in_streams_too(create):
    options = {**GREEDY, "temperature": 1.0, "max_tokens": 6, "seed": 3, "n": 2}
    whole = create(messages=STORY, **options)
    assert [choice.index for choice in whole.choices] == [0, 1]
    chunks = list(create(messages=STORY, stream=True, **options))
    for choice in whole.choices:
        assert joined(chunks, choice.index) == choice.message.content


def test_same_seed_gives_the_same_answer_and_seeds_matter(create):
    def told(seed: int) -> str:
        options = {**GREEDY, "temperature": 1.0, "top_p": 0.95, "seed": seed}
        return create(messages=STORY, **options).choices[0].message.content

    assert told(1) == told(1)
    assert len({told(seed) for seed in range(5)}) > 1


def test_stop_string_ends_the_answer_and_is_not_in_it(create):
    whole = create(messages=HELLO, **GREEDY).choices[0].message.content
    stop = whole.split()[2]
    for stops in (stop, [stop, "never said"]):
        cut = create(messages=HELLO, stop=stops, **GREEDY).choices[0]
        assert cut.message.content == whole[: whole.index(stop)]
        assert cut.finish_reason == "stop"


def test_logprobs_and_bias_work_together(create):
    options = {**GREEDY, "max_tokens": 4, "logprobs": True, "top_logprobs": 2}
    content = create(messages=HELLO, **options).choices[0].logprobs.content
    assert len(content) == 4
    assert all(entry.logprob == entry.top_logprobs[0].logprob <= 0 for entry in content)
    assert all(len(entry.top_logprobs) == 2 for entry in content)
    first = content[0].model_extra["token_id"]
    biased = create(messages=HELLO, logit_bias={str(first): -100}, **options).choices[0]
    assert biased.logprobs.content[0].model_extra["token_id"] != first


def test_json_mode_gives_an_object(create):
    wanted = {"type": "json_object"}
    content = create(messages=HELLO, response_format=wanted, **GREEDY).choices[0].message.content
    assert isinstance(json.loads(content), dict)


def test_parse_gives_the_pydantic_model(client):
    options = {**GREEDY, "max_tokens": 96, "response_format": Person}
    response = client.chat.completions.parse(messages=STORY, **options)
    assert isinstance(response.choices[0].message.parsed, Person)


def test_text_completions_take_text_lists_and_token_ids(client):
    complete = client.completions.create
    one = complete(prompt="Once upon a time", **GREEDY)
    assert one.object == "text_completion"
    assert one.choices[0].text
    two = complete(prompt=["Once upon a time", "Hello"], **GREEDY)
    assert [choice.index for choice in two.choices] == [0, 1]
    assert two.choices[0].text == one.choices[0].text
    assert complete(prompt=[1, 1000, 2000], **GREEDY).usage.prompt_tokens == 3
    chunks = list(complete(prompt="Once upon a time", stream=True, **GREEDY))
    assert "".join(c.choices[0].text for c in chunks if c.choices) == one.choices[0].text


def test_embeddings_arrive_in_base64_by_default_and_equal_the_floats(client):
    """Without encoding_format this client asks for base64 and decodes it itself."""
    embed = client.embeddings.create
    sentences = ["a cat", "a kitten", "the stock market"]
    packed = [item.embedding for item in embed(model="mistral-embed", input=sentences).data]
    floats = embed(model="mistral-embed", input=sentences, encoding_format="float").data
    for one, other in zip(packed, floats, strict=True):
        assert one == pytest.approx(other.embedding, abs=1e-6)
        assert math.hypot(*one) == pytest.approx(1, abs=1e-3)
    assert math.dist(packed[0], packed[1]) < math.dist(packed[0], packed[2])


def test_embeddings_take_dimensions_and_token_ids(client):
    embed = client.embeddings.create
    shorter = embed(model="mistral-embed", input="a cat", dimensions=64).data[0].embedding
    assert len(shorter) == 64
    assert len(embed(model="mistral-embed", input=[[101, 4937, 102], [101, 102]]).data) == 2
    assert len(embed(model="mistral-embed", input=[101, 4937, 102]).data) == 1


def test_models_are_listed_and_described(client):
    assert "nano" in {model.id for model in client.models.list()}
    model = client.models.retrieve("nano")
    assert (model.id, model.object) == ("nano", "model")
    with pytest.raises((NotFoundError, BadRequestError), match="no-such-model"):
        client.models.retrieve("no-such-model")


def test_wrong_key_is_an_authentication_error(server):
    with (
        OpenAI(api_key="wrong", base_url=f"{server.url}/v1") as client,
        pytest.raises(AuthenticationError, match=r"(?i)key"),
    ):
        client.models.list()


@pytest.mark.parametrize("streamed", [False, True])
def test_unknown_model_is_named(create, streamed):
    with pytest.raises((NotFoundError, BadRequestError), match="no-such-model"):
        create(messages=HELLO, stream=streamed, **{**GREEDY, "model": "no-such-model"})


@pytest.mark.parametrize(
    ("field", "value"), [("temperature", -1), ("max_tokens", -5), ("top_logprobs", 99), ("n", 0)]
)
def test_bad_fields_are_named(create, field, value):
    with pytest.raises((BadRequestError, UnprocessableEntityError), match=field) as error:
        create(messages=HELLO, **{**GREEDY, field: value})
    assert error.value.param is None or field in error.value.param
    assert error.value.type


def test_field_that_nobody_knows_is_refused_by_name(create):
    with pytest.raises((BadRequestError, UnprocessableEntityError), match="warmth"):
        create(messages=HELLO, extra_body={"warmth": 1}, **GREEDY)


def test_what_is_not_served_says_so(client):
    with pytest.raises(NotFoundError, match="/v1/responses"):
        client.responses.create(model="nano", input="Hello!")
    with pytest.raises(InternalServerError, match=r"(?i)moderation|classifier") as error:
        client.moderations.create(input="Hello!")
    assert error.value.status_code == 501


def test_request_id_is_in_the_headers(client):
    response = client.chat.completions.with_raw_response.create(messages=HELLO, **GREEDY)
    assert response.headers["x-request-id"]
    assert response.parse()._request_id == response.headers["x-request-id"]


def test_async_client_answers_several_at_once_as_one_by_one(create, server):
    questions = ["Who are you?", "Hello!", "What is a mixture of experts?", "Thank you."]
    asked = [[{"role": "user", "content": question}] for question in questions]

    async def ask_all() -> list[str]:
        url = f"{server.url}/v1"
        async with AsyncOpenAI(api_key=server.api_key, base_url=url, max_retries=0) as opened:
            ask = opened.chat.completions.create
            answers = await asyncio.gather(*(ask(messages=m, **GREEDY) for m in asked))
            stream = await ask(messages=asked[0], stream=True, **GREEDY)
            chunks = [chunk async for chunk in stream]
            assert joined(chunks) == answers[0].choices[0].message.content
            return [answer.choices[0].message.content for answer in answers]

    one_by_one = [create(messages=messages, **GREEDY).choices[0] for messages in asked]
    assert asyncio.run(ask_all()) == [choice.message.content for choice in one_by_one]
