"""``/v1/route``: which experts read each token of a prompt."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httpx
import jsonschema
import pytest

from mixtral import LLM, AsyncLLM
from mixtral.config import ModelConfig
from mixtral.outputs import CompletionChunk, TokenRoute
from mixtral.server.keys import KeyRing
from mixtral.server.logs import record_of
from mixtral.server.middleware import protect
from mixtral.server.routing_routes import MAX_ROUTED_TOKENS
from mixtral.server.service import Service
from mixtral.server.settings import ServerSettings
from tests.models_for_tests import tiny_config
from tests.server.engine_for_tests import (
    FakeAsyncLLM,
    asgi_call,
    chat,
    chunk,
    client_of,
    get,
    make_service,
    post,
)

PATH = "/v1/route"
DENSE = {"num_local_experts": 0, "num_experts_per_tok": 0}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}


def routes_of(request: Any) -> list[CompletionChunk]:
    """What the engine gives: the prompt's tokens come with the first new one."""
    routes = [
        TokenRoute(
            token_id=token_id,
            expert_ids=[[0, 3], [2, 1]],
            routing_weights=[[2 / 3, 1 / 3], [0.5, 0.5]],
        )
        for token_id in request.prompt_token_ids
    ]
    return [chunk("x", routing=routes, finish_reason="length")]


@dataclass
class RoutingLLM(FakeAsyncLLM):
    """The fake engine, with a geometry and routes."""

    script: Callable[[Any], Any] = routes_of
    config: ModelConfig = field(default_factory=tiny_config)


def ask(llm: FakeAsyncLLM | None = None, **body: Any) -> httpx.Response:
    return post(make_service(llm or RoutingLLM()), PATH, body)


# ---- What is answered ------------------------------------------------------------------------


def test_every_token_has_its_text_its_experts_and_their_weights() -> None:
    body = ask(prompt="Hello").json()
    assert body == {
        "object": "routing",
        "tokens": RoutingLLM().tokenizer.encode("Hello"),
        "pieces": ["<s>", " Hello"],
        "num_layers": 2,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "expert_ids": [[[0, 3], [2, 1]]] * 2,
        "routing_weights": [[[0.6667, 0.3333], [0.5, 0.5]]] * 2,
    }


def test_answer_follows_our_description() -> None:
    components = get(make_service(), "/openapi.json").json()["components"]
    schema = {"$ref": "#/components/schemas/RouteAnswer", "components": components}
    jsonschema.validate(ask(prompt="Hello").json(), schema, cls=jsonschema.Draft202012Validator)


def test_a_conversation_is_read_as_the_model_sees_it() -> None:
    tokenizer = RoutingLLM().tokenizer
    messages = chat()["messages"]
    body = ask(messages=messages, tools=[TOOL], safe_prompt=False).json()
    assert body["tokens"] == tokenizer.encode_chat(messages, tools=[TOOL])
    safe = ask(messages=messages, safe_prompt=True).json()
    assert safe["tokens"] == tokenizer.encode_chat(messages, safe_prompt=True)


def test_token_ids_are_taken_as_they_are() -> None:
    assert ask(tokens=[5, 6, 7]).json()["tokens"] == [5, 6, 7]


def test_the_engine_is_asked_for_one_greedy_token_with_its_routing() -> None:
    llm = RoutingLLM()
    assert ask(llm, prompt="Hello", model="mistral-small").status_code == 200
    (request,) = llm.submitted
    assert request.needs_routing
    assert (request.params.max_tokens, request.params.temperature) == (1, 0)


# ---- What is refused -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "status", "word"),
    [
        ({}, 400, "none"),
        ({"prompt": "a", "tokens": [1]}, 400, "prompt and tokens"),
        ({"prompt": "a", "messages": chat()["messages"]}, 400, "messages and prompt"),
        ({"prompt": "a", "safe_prompt": True}, 400, "safe_prompt"),
        ({"tokens": [1], "tools": [TOOL]}, 400, "tools"),
        ({"tokens": []}, 400, "tokens"),
        ({"messages": []}, 400, "messages"),
        ({"prompt": "a", "model": "nope"}, 400, "nope"),
        ({"prompt": "a", "stream": True}, 422, "stream"),
        ({"tokens": ["a"]}, 422, "tokens"),
    ],
)
def test_what_is_wrong_is_said_and_never_reaches_the_engine(
    body: dict[str, Any], status: int, word: str
) -> None:
    llm = RoutingLLM()
    response = ask(llm, **body)
    assert response.status_code == status
    assert word in response.json()["message"]
    assert llm.submitted == []


@pytest.mark.parametrize(
    ("max_model_len", "limit"), [(100, 99), (100_000, MAX_ROUTED_TOKENS), (65, 64)]
)
def test_a_prompt_over_the_limit_is_told_the_limit(max_model_len: int, limit: int) -> None:
    llm = RoutingLLM(max_model_len=max_model_len)
    assert ask(llm, tokens=[1] * limit).status_code == 200
    response = ask(llm, tokens=[1] * (limit + 1))
    assert response.status_code == 400
    assert response.json()["code"] == "context_length_exceeded"
    assert f"at most {limit}" in response.json()["message"]


def test_a_dense_model_has_no_routes() -> None:
    response = ask(RoutingLLM(config=tiny_config(**DENSE)), prompt="a")
    assert (response.status_code, response.json()["code"]) == (400, "unsupported")


def test_a_client_that_leaves_frees_its_place() -> None:
    llm = RoutingLLM(script=lambda request: [60.0])

    async def leave() -> None:
        gone = asyncio.Event()
        asyncio.get_running_loop().call_later(0.02, gone.set)
        await asgi_call(make_service(llm), {"prompt": "a"}, path=PATH, disconnect=gone)

    asyncio.run(leave())
    assert llm.streams[0].is_cancelled


def test_tokens_count_for_the_key_and_its_requests_go_in_its_name() -> None:
    llm, seen = RoutingLLM(), []

    async def noting(scope: Any, receive: Any, send: Any) -> None:
        await app(scope, receive, send)
        seen.append(record_of(scope).num_prompt_tokens)

    async def send() -> httpx.Response:
        transport = httpx.ASGITransport(
            protect(noting, settings=ServerSettings(), keys=KeyRing(None, ("hush",)))
        )
        headers = {"Authorization": "Bearer hush"}
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            assert (await client.post(PATH, json={"tokens": [1]})).status_code == 401
            return await client.post(PATH, json={"tokens": [1, 2, 3]}, headers=headers)

    app = client_of(make_service(llm))._transport.app  # type: ignore[attr-defined]
    assert asyncio.run(send()).status_code == 200
    assert seen == [3]
    assert llm.submitted[0].owner == "api-key-1"


# ---- With a model ----------------------------------------------------------------------------


def test_routes_are_those_of_the_model_alone_also_when_the_prompt_is_cached() -> None:
    nano = LLM("nano", device="cpu", max_model_len=128, max_num_seqs=4)
    text = "The capital of France is Paris, and that of Italy is Rome. " * 2

    async def work() -> list[dict[str, Any]]:
        service = make_service()
        service = Service(
            llm=AsyncLLM(nano),
            model_name="nano",
            aliases={},
            embedder=None,
            settings=service.settings,
            keys=service.keys,
            created=0,
        )
        async with asyncio.timeout(60), client_of(service) as client:
            found = [(await client.post(PATH, json={"prompt": text})).json()]
            completion = {"model": "nano", "prompt": text, "max_tokens": 2, "temperature": 0}
            await client.post("/v1/completions", json=completion)
            await client.post("/v1/completions", json=completion)
            assert nano.engine.stats().prefix_hit_tokens > 0
            found.append((await client.post(PATH, json={"prompt": text})).json())
        await service.llm.close()
        return found

    first, second = asyncio.run(work())
    assert first == second
    assert len(first["tokens"]) > 16  # more than one block of the cache
    trace = nano.route(first["tokens"])
    assert first["expert_ids"] == trace.expert_ids.tolist()
    for ours, theirs in zip(first["routing_weights"], trace.routing_weights.tolist(), strict=True):
        for layer, expected in zip(ours, theirs, strict=True):
            assert layer == pytest.approx(expected, abs=1e-4)
