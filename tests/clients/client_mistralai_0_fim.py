"""mistralai 0.3 and later: fill in the middle."""

import asyncio

import pytest
from mistralai.async_client import MistralAsyncClient
from mistralai.client import MistralClient

OPTIONS = {"model": "open-mixtral-8x22b", "temperature": 0.0, "max_tokens": 12}
PROMPT, SUFFIX = "def add(a, b):\n    ", "\n    return total\n"


@pytest.fixture
def client(server):
    return MistralClient(api_key=server.api_key, endpoint=server.url)


@pytest.mark.parametrize("suffix", [SUFFIX, None])
def test_middle_is_filled_with_and_without_a_suffix(client, suffix):
    response = client.completion(prompt=PROMPT, suffix=suffix, **OPTIONS)
    assert response.object == "chat.completion"
    assert response.choices[0].message.role == "assistant"
    assert isinstance(response.choices[0].message.content, str)
    assert 1 <= response.usage.completion_tokens <= 12


def test_stream_joins_to_the_whole(client):
    whole = client.completion(prompt=PROMPT, suffix=SUFFIX, **OPTIONS)
    chunks = list(client.completion_stream(prompt=PROMPT, suffix=SUFFIX, **OPTIONS))
    joined = "".join(chunk.choices[0].delta.content for chunk in chunks)
    assert joined == whole.choices[0].message.content
    assert chunks[-1].choices[0].finish_reason == whole.choices[0].finish_reason


def test_stop_string_ends_the_middle_and_is_not_in_it(client):
    whole = client.completion(prompt=PROMPT, suffix=SUFFIX, **OPTIONS).choices[0].message.content
    stop = whole.strip()[1:3]
    cut = client.completion(prompt=PROMPT, suffix=SUFFIX, stop=[stop], **OPTIONS)
    assert cut.choices[0].message.content == whole[: whole.index(stop)]
    assert cut.choices[0].finish_reason.value == "stop"


def test_async_middle_is_the_same(client, server):
    async def fill() -> str:
        asked = MistralAsyncClient(api_key=server.api_key, endpoint=server.url)
        response = await asked.completion(prompt=PROMPT, suffix=SUFFIX, **OPTIONS)
        await asked.close()
        return response.choices[0].message.content

    whole = client.completion(prompt=PROMPT, suffix=SUFFIX, **OPTIONS)
    assert asyncio.run(fill()) == whole.choices[0].message.content
