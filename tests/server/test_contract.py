"""Every answer against Mistral's own description of its API, and against ours."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from tests.server.engine_for_tests import (
    FakeAsyncLLM,
    answer_of,
    chat,
    choice,
    chunk,
    events_of,
    get,
    make_service,
    post,
    route,
    tool_call,
)
from tests.server.test_embeddings import FakeEmbedder

MISTRAL = yaml.safe_load(
    (Path(__file__).parents[1] / "data" / "reference" / "mistral_openapi.yaml").read_text()
)
CHAT = "/v1/chat/completions"
FIM = {"model": "mixtral-test", "prompt": "a", "suffix": "b"}
TEXT = {"model": "mixtral-test", "prompt": ["a", "b"]}
EMBED = {"model": "mistral-embed", "input": ["a", "b" * 200]}


def check(document: dict[str, Any], name: str, value: Any) -> None:
    schema = {"$ref": f"#/components/schemas/{name}", "components": document["components"]}
    jsonschema.validate(value, schema, cls=jsonschema.Draft202012Validator)


def plain(request: Any) -> list[Any]:
    return answer_of("Hello", " world")


def with_everything(request: Any) -> list[Any]:
    return [
        chunk("a", logprobs=[choice(997)], routing=[route(1)]),
        chunk("", position=2, tool_calls=[tool_call("f", "{}")], logprobs=[choice(2)]),
        chunk("b", position=3, logprobs=[choice(3)], finish_reason="tool_calls"),
    ]


def failing(request: Any) -> list[Any]:
    return [chunk("a"), ValueError("x")]


FIELDS: dict[str, Any] = {"logprobs": True, "top_logprobs": 2, "routing": True}


@pytest.mark.parametrize(("script", "fields"), [(plain, {}), (with_everything, FIELDS)])
def test_whole_chat_answers_follow_both_descriptions(script: Any, fields: dict[str, Any]) -> None:
    service = make_service(FakeAsyncLLM(script=script))
    ours = get(service, "/openapi.json").json()
    body = post(service, CHAT, chat(**fields)).json()
    check(MISTRAL, "ChatCompletionResponse", body)
    check(ours, "ChatCompletionAnswer", body)


@pytest.mark.parametrize("script", [plain, with_everything, failing])
@pytest.mark.parametrize("include_usage", [True, False])
def test_pieces_of_chat_answers_follow_both_descriptions(script: Any, include_usage: bool) -> None:
    service = make_service(FakeAsyncLLM(script=script))
    ours = get(service, "/openapi.json").json()
    fields = {**FIELDS, "stream": True, "stream_options": {"include_usage": include_usage}}
    *events, _ = events_of(post(service, CHAT, chat(**fields)))
    for event in events:
        piece = json.loads(event)
        check(MISTRAL, "CompletionEvent", {"data": piece})
        check(ours, "ChatCompletionPiece", piece)
        assert all(isinstance(c["delta"]["content"], str) for c in piece["choices"])


def test_fim_answers_follow_mistrals_description() -> None:
    check(MISTRAL, "FIMCompletionResponse", post(make_service(), "/v1/fim/completions", FIM).json())


def test_embeddings_follow_both_descriptions() -> None:
    service = make_service(embedder=FakeEmbedder())
    body = post(service, "/v1/embeddings", EMBED).json()
    check(MISTRAL, "EmbeddingResponse", body)
    check(get(service, "/openapi.json").json(), "EmbeddingAnswer", body)


def test_models_follow_both_descriptions() -> None:
    service = make_service(embedder=FakeEmbedder())
    ours = get(service, "/openapi.json").json()
    body = get(service, "/v1/models").json()
    check(MISTRAL, "ModelList", body)
    check(ours, "ModelListAnswer", body)
    card = get(service, "/v1/models/mistral-small").json()
    check(MISTRAL, "BaseModelCard", card)
    check(ours, "ModelCard", card)


def test_shape_errors_follow_mistrals_description() -> None:
    body = post(make_service(), CHAT, chat(foo=1)).json()
    check(MISTRAL, "HTTPValidationError", body)
    check(get(make_service(), "/openapi.json").json(), "ErrorAnswer", body)


@pytest.mark.parametrize("script", [plain, failing])
def test_text_completions_follow_our_description(script: Any) -> None:
    service = make_service(FakeAsyncLLM(script=script))
    ours = get(service, "/openapi.json").json()
    *events, _ = events_of(post(service, "/v1/completions", {**TEXT, "stream": True}))
    for event in events:
        check(ours, "TextCompletionPiece", json.loads(event))
    if script is plain:
        check(ours, "TextCompletionAnswer", post(service, "/v1/completions", TEXT).json())


def test_other_answers_follow_our_description() -> None:
    service = make_service()
    ours = get(service, "/openapi.json").json()
    check(ours, "TokensAnswer", post(service, "/v1/tokenize", {"text": "a", "pieces": True}).json())
    check(ours, "TextAnswer", post(service, "/v1/detokenize", {"tokens": [1]}).json())
    check(ours, "StatusAnswer", get(service, "/ready").json())
    check(ours, "ErrorAnswer", post(service, "/v1/moderations", {}).json())


@pytest.mark.parametrize(
    "name", ["ChatCompletionRequest", "FIMCompletionRequest", "EmbeddingRequest"]
)
def test_every_field_of_mistrals_requests_is_known(name: str) -> None:
    ours = get(make_service(), "/openapi.json").json()["components"]["schemas"][name]
    theirs = MISTRAL["components"]["schemas"][name]
    assert set(theirs["properties"]) <= set(ours["properties"])
    assert set(ours["required"]) <= set(theirs["required"])
