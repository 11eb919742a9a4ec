"""mistralai 0.x, the client of the guides: chat, streams, safe mode, embeddings, models, errors."""

import asyncio
import inspect
import math

import httpx
import pytest
from mistralai.async_client import MistralAsyncClient
from mistralai.client import MistralClient
from mistralai.exceptions import MistralAPIException, MistralConnectionException, MistralException
from mistralai.models.chat_completion import ChatCompletionResponse, ChatMessage
from mistralai.models.embeddings import EmbeddingResponse

MODEL = "mistral-small"
QUESTION = [ChatMessage(role="user", content="Who are you?")]
SAFE_PROMPT = (
    "Always assist with care, respect, and truth. Respond with utmost utility yet securely. Avoid "
    "harmful, unethical, prejudiced, or negative content. Ensure replies promote fairness and "
    "positivity."
)
HAS_TOOLS = "tools" in inspect.signature(MistralClient.chat).parameters


@pytest.fixture
def client(server):
    return MistralClient(api_key=server.api_key, endpoint=server.url)


def text(response: ChatCompletionResponse) -> str:
    return response.choices[0].message.content


@pytest.mark.parametrize("model", ["mistral-small", "open-mixtral-8x7b", "open-mixtral-8x22b"])
def test_names_of_the_guides_are_answered(client, model):
    response = client.chat(model=model, messages=QUESTION, max_tokens=8)
    assert isinstance(response, ChatCompletionResponse)
    assert response.object == "chat.completion"
    assert text(response)


def test_answer_has_role_reason_and_usage(client):
    response = client.chat(model=MODEL, messages=QUESTION, temperature=0.0, max_tokens=3)
    choice = response.choices[0]
    assert (choice.index, choice.message.role) == (0, "assistant")
    assert choice.finish_reason.value == "length"
    assert response.usage.completion_tokens == 3
    assert response.usage.total_tokens == response.usage.prompt_tokens + 3


def test_finished_answer_says_stop(client):
    response = client.chat(model=MODEL, messages=QUESTION, temperature=0.0, max_tokens=200)
    assert response.choices[0].finish_reason.value == "stop"


def test_stream_joins_to_the_whole_answer(client):
    options = {"model": MODEL, "messages": QUESTION, "temperature": 0.0, "max_tokens": 24}
    whole = client.chat(**options)
    chunks = list(client.chat_stream(**options))
    assert "".join(chunk.choices[0].delta.content for chunk in chunks) == text(whole)
    assert chunks[0].choices[0].delta.role == "assistant"
    assert len({chunk.id for chunk in chunks}) == 1
    reasons = [chunk.choices[0].finish_reason for chunk in chunks]
    assert reasons[-1] == whole.choices[0].finish_reason
    assert set(reasons[:-1]) == {None}


@pytest.mark.skipif(not HAS_TOOLS, reason="chunks of this version have no usage")
def test_stream_ends_with_the_usage(client):
    options = {"model": MODEL, "messages": QUESTION, "temperature": 0.0, "max_tokens": 8}
    whole = client.chat(**options)
    assert list(client.chat_stream(**options))[-1].usage == whole.usage


def test_few_shot_conversation_with_a_system_message(client):
    messages = [
        ChatMessage(role="system", content="You answer with one word."),
        ChatMessage(role="user", content="The capital of France?"),
        ChatMessage(role="assistant", content="Paris"),
        ChatMessage(role="user", content="The capital of Italy?"),
    ]
    alone = client.chat(model=MODEL, messages=messages[-1:], max_tokens=4)
    response = client.chat(model=MODEL, messages=messages, max_tokens=4)
    assert response.usage.prompt_tokens > alone.usage.prompt_tokens


def test_same_seed_gives_the_same_answer_and_seeds_matter(client):
    messages = [ChatMessage(role="user", content="Tell me a story about a fox and the moon.")]

    def told(seed: int) -> str:
        options = {"temperature": 1.0, "top_p": 0.95, "max_tokens": 16, "random_seed": seed}
        return text(client.chat(model=MODEL, messages=messages, **options))

    assert told(1) == told(1)
    assert len({told(seed) for seed in range(5)}) > 1


@pytest.mark.parametrize("flag", ["safe_mode", "safe_prompt"])
def test_safe_flags_put_the_official_text_first(client, flag):
    by_hand = [ChatMessage(role="system", content=SAFE_PROMPT), *QUESTION]
    options = {"model": MODEL, "temperature": 0.0, "max_tokens": 16}
    plain = client.chat(messages=QUESTION, **options)
    safe = client.chat(messages=QUESTION, **options, **{flag: True})
    expected = client.chat(messages=by_hand, **options)
    assert safe.usage.prompt_tokens == expected.usage.prompt_tokens > plain.usage.prompt_tokens
    assert text(safe) == text(expected)


def test_embeddings_are_unit_vectors_that_know_meaning(client):
    sentences = [
        "What led to Zidane's ban from football?",
        "This is a totally different sentence.",
        "What caused Zidane to get banned from football?",
    ]
    response = client.embeddings(model="mistral-embed", input=sentences)
    assert isinstance(response, EmbeddingResponse)
    assert [item.index for item in response.data] == [0, 1, 2]
    first, other, paraphrase = (item.embedding for item in response.data)
    assert math.hypot(*first) == pytest.approx(1, abs=1e-3)
    assert math.dist(first, paraphrase) < math.dist(first, other)
    single = client.embeddings(model="mistral-embed", input=sentences[0])
    assert single.data[0].embedding == pytest.approx(first, abs=1e-3)


def test_models_are_listed_and_the_connection_lives_on(client):
    """This client sends a body with GET; unread, it would spoil the next request."""
    for _ in range(3):
        models = client.list_models()
        assert models.object == "list"
        assert {"nano", MODEL} & {model.id for model in models.data}
        assert text(client.chat(model=MODEL, messages=QUESTION, max_tokens=2))


def test_wrong_key_is_an_api_exception_with_status_401(server):
    client = MistralClient(api_key="wrong", endpoint=server.url)
    with pytest.raises(MistralAPIException, match=r"(?i)key") as error:
        client.chat(model=MODEL, messages=QUESTION)
    assert error.value.http_status == 401


def test_unknown_model_is_named(client):
    with pytest.raises(MistralAPIException, match="no-such-model") as error:
        client.chat(model="no-such-model", messages=QUESTION)
    assert error.value.http_status in (400, 404)


def test_bad_temperature_is_named(client):
    with pytest.raises(MistralAPIException, match="temperature") as error:
        client.chat(model=MODEL, messages=QUESTION, temperature=-1.0)
    assert error.value.http_status in (400, 422)


def test_stream_with_an_error_raises(client):
    """0.0.12 itself fails while it reads the error: httpx.ResponseNotRead."""
    expected = MistralAPIException if HAS_TOOLS else (MistralException, httpx.ResponseNotRead)
    with pytest.raises(expected):
        list(client.chat_stream(model="no-such-model", messages=QUESTION))


def test_no_server_is_a_connection_exception(server):
    client = MistralClient(api_key=server.api_key, endpoint="http://127.0.0.1:9", max_retries=0)
    with pytest.raises(MistralConnectionException):
        client.list_models()


def test_async_client_answers_several_at_once_as_one_by_one(client, server):
    questions = ["Who are you?", "Hello!", "What is a mixture of experts?", "Thank you."]
    messages = [[ChatMessage(role="user", content=question)] for question in questions]
    options = {"model": MODEL, "temperature": 0.0, "max_tokens": 16}

    async def ask_all() -> list[str]:
        asked = MistralAsyncClient(api_key=server.api_key, endpoint=server.url)
        answers = await asyncio.gather(*(asked.chat(messages=m, **options) for m in messages))
        pieces = [c async for c in asked.chat_stream(messages=messages[0], **options)]
        assert "".join(piece.choices[0].delta.content for piece in pieces) == text(answers[0])
        vectors = await asked.embeddings(model="mistral-embed", input=questions)
        assert len(vectors.data) == 4
        assert (await asked.list_models()).data
        await asked.close()
        return [text(answer) for answer in answers]

    assert asyncio.run(ask_all()) == [text(client.chat(messages=m, **options)) for m in messages]
