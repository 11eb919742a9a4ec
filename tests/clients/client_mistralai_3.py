"""mistralai 3.x: the fields that older clients cannot send."""

import json
import math

import pytest
from mistralai.client import Mistral
from mistralai.client.errors import MistralError

HELLO = [{"role": "user", "content": "Who are you?"}]
GREEDY = {"model": "open-mixtral-8x22b", "messages": HELLO, "temperature": 0.0, "max_tokens": 6}


@pytest.fixture
def client(server):
    with Mistral(api_key=server.api_key, server_url=server.url) as opened:
        yield opened


def test_logprobs_have_ids_bytes_and_the_chosen_token_on_top(client):
    choice = client.chat.complete(logprobs=True, top_logprobs=3, **GREEDY).choices[0]
    assert len(choice.logprobs.content) == 6
    assert "".join(entry.token for entry in choice.logprobs.content).strip() == (
        choice.message.content.strip()
    )
    for entry in choice.logprobs.content:
        assert entry.logprob <= 0
        assert isinstance(entry.token_id, int)
        assert bytes(entry.bytes_).decode("utf-8", "replace") == entry.token
        assert entry.top_logprobs[0].token_id == entry.token_id
        assert len(entry.top_logprobs) == 3
        assert sum(math.exp(one.logprob) for one in entry.top_logprobs) <= 1.001


def test_logprobs_are_streamed_token_by_token(client):
    options = {**GREEDY, "logprobs": True, "top_logprobs": 2}
    whole = client.chat.complete(**options).choices[0].logprobs.content
    with client.chat.stream(**options) as events:
        choices = [event.data.choices[0] for event in events]
    streamed = [entry for one in choices if one.logprobs for entry in one.logprobs.content]
    assert [entry.token_id for entry in streamed] == [entry.token_id for entry in whole]


def test_top_k_of_one_is_greedy(client):
    greedy = client.chat.complete(**GREEDY).choices[0].message.content
    hot = {**GREEDY, "temperature": 1.5, "top_k": 1}
    assert client.chat.complete(**hot).choices[0].message.content == greedy


def test_min_tokens_holds_the_end_back(client):
    options = {**GREEDY, "max_tokens": 120}
    ended = client.chat.complete(**options)
    assert ended.choices[0].finish_reason == "stop"
    longer = client.chat.complete(min_tokens=ended.usage.completion_tokens + 5, **options)
    assert longer.usage.completion_tokens >= ended.usage.completion_tokens + 5


def test_repetition_penalty_is_taken(client):
    assert client.chat.complete(repetition_penalty=1.3, **GREEDY).choices[0].message.content


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("guardrails", [{"block_on_error": True, "moderation_llm_v1": {"action": "block"}}]),
        ("prompt_mode", "reasoning"),
        ("reasoning_effort", "high"),
    ],
)
def test_fields_that_cannot_be_honoured_are_refused_by_name(client, field, value):
    with pytest.raises(MistralError, match=field) as error:
        client.chat.complete(**GREEDY, **{field: value})
    assert 400 <= error.value.status_code < 500


def test_json_schema_with_a_reference_holds(client):
    schema = {
        "$defs": {"colour": {"enum": ["red", "green"]}},
        "type": "object",
        "properties": {"first": {"$ref": "#/$defs/colour"}, "second": {"$ref": "#/$defs/colour"}},
        "required": ["first", "second"],
        "additionalProperties": False,
    }
    wanted = {
        "type": "json_schema",
        "json_schema": {"name": "pair", "schema_definition": schema, "strict": True},
    }
    options = {**GREEDY, "max_tokens": 64}
    content = client.chat.complete(response_format=wanted, **options).choices[0].message.content
    values = json.loads(content)
    assert set(values) == {"first", "second"}
    assert set(values.values()) <= {"red", "green"}
