"""Models, tokens, health, metrics, documents, and paths that are spelled otherwise."""

import json
import re
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from mixtral.engine import StepReport
from mixtral.server.logs import RequestRecord
from tests.server.engine_for_tests import FakeAsyncLLM, chat, get, make_service, post
from tests.server.test_embeddings import FakeEmbedder

CHAT = "/v1/chat/completions"


def test_every_name_has_a_card_that_old_and_new_clients_read() -> None:
    service = make_service(embedder=FakeEmbedder())
    body = get(service, "/v1/models").json()
    cards = {card["id"]: card for card in body["data"]}
    assert body["object"] == "list"
    assert next(iter(cards)) == "mixtral-test"
    assert {"mistral-small", "open-mixtral-8x7b", "mistral-embed"} <= set(cards)
    card = cards["mistral-small"]
    assert card["object"] == "model"
    assert card["created"] == 1_700_000_000
    assert card["type"] == "base"
    assert card["max_context_length"] == 4096
    assert card["capabilities"]["completion_chat"]
    assert card["capabilities"]["completion_fim"]
    assert "mixtral-test" in card["aliases"]
    assert not cards["mistral-embed"]["capabilities"]["completion_chat"]
    assert cards["mistral-embed"]["max_context_length"] == 256


def test_a_v1_model_says_that_it_has_no_fim() -> None:
    card = get(make_service(FakeAsyncLLM(version="v1")), "/v1/models/mixtral-test").json()
    assert not card["capabilities"]["completion_fim"]


@pytest.mark.parametrize("name", ["mistral-small", "mistralai/Mixtral-8x7B-Instruct-v0.1"])
def test_a_card_can_be_asked_for_by_any_name(name: str) -> None:
    assert get(make_service(), f"/v1/models/{name}").json()["id"] == name


def test_unknown_card_is_404() -> None:
    response = get(make_service(), "/v1/models/nope")
    assert response.status_code == 404
    assert response.json()["type"] == "invalid_model"


def test_list_of_models_may_come_with_a_body_and_a_filter() -> None:
    assert get(make_service(), "/v1/models", json={}).status_code == 200
    data = get(make_service(), "/v1/models?model=mistral-small").json()["data"]
    assert [card["id"] for card in data] == ["mistral-small"]
    assert get(make_service(), "/v1/models?provider=x").status_code == 400


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/chat/completions", chat(), 200),
        ("/v1/v1/chat/completions", chat(), 200),
        ("/v1/chat/completions/", chat(), 200),
        ("/completions", {"model": "mixtral-test", "prompt": "x"}, 200),
        ("/embeddings", {"model": "mistral-embed", "input": "x"}, 200),
        ("/tokenize", {"text": "x"}, 200),
        ("/v1/v2/chat/completions", chat(), 404),
    ],
)
def test_paths_of_wrong_base_addresses_are_forgiven(path: str, body: Any, status: int) -> None:
    assert post(make_service(embedder=FakeEmbedder()), path, body).status_code == status


def test_models_are_forgiven_too() -> None:
    assert get(make_service(), "/models").status_code == 200
    assert get(make_service(), "/v1/v1/models/mistral-small").status_code == 200


@pytest.mark.parametrize("path", ["/v1/moderations", "/v1/agents/completions"])
def test_paths_that_are_not_offered_say_501(path: str) -> None:
    response = post(make_service(), path, {"model": "m", "input": ["x"]})
    assert response.status_code == 501
    assert response.json()["object"] == "error"


def test_tokenize_counts_texts_and_conversations_as_the_model_sees_them() -> None:
    tokenizer = FakeAsyncLLM().tokenizer
    body = post(make_service(), "/v1/tokenize", {"text": "Hello", "pieces": True}).json()
    assert body["tokens"] == tokenizer.encode("Hello")
    assert body["count"] == 2
    assert body["pieces"] == ["<s>", " Hello"]
    bare = post(make_service(), "/v1/tokenize", {"text": "Hello", "bos": False}).json()
    assert bare["tokens"] == tokenizer.encode("Hello", bos=False)
    messages = chat()["messages"]
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    body = post(make_service(), "/v1/tokenize", {"messages": messages, "tools": [tool]}).json()
    assert body["tokens"] == tokenizer.encode_chat(messages, tools=[tool])


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"text": "a", "messages": chat()["messages"]},
        {"text": "a", "safe_prompt": True},
        {"messages": chat()["messages"], "bos": True},
        {"text": "a", "model": "nope"},
    ],
)
def test_tokenize_refuses_what_contradicts_itself(body: dict[str, Any]) -> None:
    assert post(make_service(), "/v1/tokenize", body).status_code == 400


def test_detokenize_gives_the_text() -> None:
    tokens = FakeAsyncLLM().tokenizer.encode("Grüße, Welt")
    assert (
        post(make_service(), "/v1/detokenize", {"tokens": tokens}).json()["text"] == "Grüße, Welt"
    )
    wrong = post(make_service(), "/v1/detokenize", {"tokens": [99_999]})
    assert wrong.status_code == 400
    assert "99999" in wrong.json()["message"]


def test_health_is_the_process_and_ready_is_the_engine() -> None:
    service = make_service(FakeAsyncLLM(is_alive=False))
    assert get(service, "/health").json()["status"] == "ok"
    assert get(service, "/ready").status_code == 503
    assert get(make_service(), "/ready").json()["status"] == "ready"


def test_metrics_tell_of_engine_steps_and_requests() -> None:
    service = make_service()
    service.metrics.observe_step(
        StepReport(num_sequences=5, num_tokens=20, num_prefill_tokens=15, step_s=0.01)
    )
    record = RequestRecord(request_id="r", method="POST", path=CHAT, route=CHAT, status=200)
    service.metrics.observe_request(record)
    response = get(service, "/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=")
    samples = {
        (s.name, *sorted(s.labels.items())): s.value
        for family in text_string_to_metric_families(response.text)
        for s in family.samples
    }
    assert samples[("mixtral_waiting_requests",)] == 2
    assert samples[("mixtral_kv_use_ratio",)] == 0.25
    assert samples[("mixtral_prefix_cache_hit_ratio",)] == 0.25
    assert samples[("mixtral_preemptions_total",)] == 3
    assert samples["mixtral_expert_tokens_total", ("expert", "1"), ("layer", "0")] == 2
    assert samples[("mixtral_step_sequences_sum",)] == 5
    assert samples[("mixtral_prefill_tokens_total",)] == 15
    labels = {"route": CHAT, "method": "POST", "status": "200", "key": "-"}
    assert samples["mixtral_requests_total", *sorted(labels.items())] == 1


def test_two_applications_have_metrics_of_their_own() -> None:
    first, second = make_service(), make_service()
    post(first, CHAT, chat())
    name = "mixtral_request_duration_seconds_count"
    assert first.metrics.registry.get_sample_value(name) == 1
    assert second.metrics.registry.get_sample_value(name) == 0


def test_docs_load_nothing_from_elsewhere() -> None:
    response = get(make_service(), "/docs")
    assert response.headers["content-type"].startswith("text/html")
    assert re.findall(r"https?://|//cdn|src=|@import|url\(", response.text) == []
    assert "default-src 'none'" in response.headers["content-security-policy"]
    assert get(make_service(), "/").headers["content-type"].startswith("text/html")


def test_document_lists_the_paths_and_every_reference_leads_somewhere() -> None:
    document = get(make_service(), "/openapi.json").json()
    assert set(document["paths"]) == {
        "/health",
        "/metrics",
        "/ready",
        "/v1/agents/completions",
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/detokenize",
        "/v1/embeddings",
        "/v1/fim/completions",
        "/v1/models",
        "/v1/models/{model_id}",
        "/v1/moderations",
        "/v1/rag/ask",
        "/v1/rag/documents",
        "/v1/rag/documents/{id}",
        "/v1/rag/search",
        "/v1/route",
        "/v1/status",
        "/v1/tokenize",
    }
    names = set(re.findall(r"#/components/schemas/(\w+)", json.dumps(document)))
    assert names <= set(document["components"]["schemas"])
    request = document["components"]["schemas"]["ChatCompletionRequest"]
    assert request["required"] == ["model", "messages"]
    assert request["additionalProperties"] is False
    assert all("description" in field for field in request["properties"].values())
