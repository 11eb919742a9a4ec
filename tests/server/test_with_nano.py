"""The whole way with a model that answers: HTTP, text, engine, and back."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import httpx
import jsonschema
import pytest

from mixtral import LLM, AsyncLLM, SamplingParams
from mixtral.server.keys import KeyRing
from mixtral.server.metrics import Metrics
from mixtral.server.service import Service
from mixtral.server.settings import ServerSettings
from tests.server.engine_for_tests import asgi_call, client_of, events_of

PATH = "/v1/chat/completions"
MESSAGES = [{"role": "user", "content": "Who are you?"}]
GREEDY: dict[str, Any] = {"model": "nano", "temperature": 0, "max_tokens": 24}
TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather of a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 12}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}


@pytest.fixture(scope="module")
def nano() -> LLM:
    return LLM("nano", device="cpu", max_model_len=512, count_experts=True)


@pytest.fixture
def run(nano: LLM) -> Iterator[Callable[..., Any]]:
    """Run a test on an event loop with an engine thread of its own."""

    def runner(test: Callable[[Service, httpx.AsyncClient], Awaitable[Any]]) -> Any:
        async def main() -> Any:
            service = make_service(nano)
            try:
                async with asyncio.timeout(120), client_of(service) as client:
                    return await test(service, client)
            finally:
                await service.llm.close()

        return asyncio.run(main())

    yield runner
    assert nano.engine.stats().num_used_blocks == 0


def make_service(nano: LLM) -> Service:
    metrics = Metrics()
    settings = ServerSettings()
    return Service(
        llm=AsyncLLM(nano, on_step=metrics.observe_step),
        model_name="nano",
        aliases=settings.aliases_for("nano"),
        embedder=None,
        settings=settings,
        keys=KeyRing(),
        created=0,
        metrics=metrics,
    )


def test_answer_is_that_of_the_model_alone_streamed_or_not(nano: LLM, run: Any) -> None:
    async def ask(service: Service, client: httpx.AsyncClient) -> None:
        whole = await client.post(PATH, json={**GREEDY, "messages": MESSAGES})
        stream = await client.post(PATH, json={**GREEDY, "messages": MESSAGES, "stream": True})
        assert whole.json()["choices"][0]["message"]["content"] == expected.text
        assert whole.json()["usage"]["completion_tokens"] == expected.usage.completion_tokens
        pieces = [json.loads(event) for event in events_of(stream)[:-1]]
        assert "".join(p["choices"][0]["delta"]["content"] for p in pieces) == expected.text
        assert pieces[-1]["usage"] == whole.json()["usage"]
        assert pieces[-1]["choices"][0]["finish_reason"] == expected.finish_reason

    expected = nano.chat(MESSAGES, SamplingParams(temperature=0.0, max_tokens=24))
    run(ask)


def test_requests_at_the_same_time_get_the_answers_they_get_alone(run: Any) -> None:
    async def ask(service: Service, client: httpx.AsyncClient) -> None:
        bodies = [
            {**GREEDY, "messages": [{"role": "user", "content": f"Count to {number}."}]}
            for number in range(2, 8)
        ]
        alone = [(await client.post(PATH, json=body)).json() for body in bodies]
        together = await asyncio.gather(*(client.post(PATH, json=body) for body in bodies))
        for one, other in zip(alone, together, strict=True):
            assert other.json()["choices"] == one["choices"]

    run(ask)


def test_n_logprobs_and_routing_agree_with_the_usage(run: Any) -> None:
    async def ask(service: Service, client: httpx.AsyncClient) -> None:
        fields = {"n": 2, "logprobs": True, "top_logprobs": 2, "routing": True, "seed": 3}
        body = {**GREEDY, "messages": MESSAGES, "temperature": 1.0, "max_tokens": 6, **fields}
        answer = (await client.post(PATH, json=body)).json()
        usage = answer["usage"]
        counts = [len(c["logprobs"]["content"]) for c in answer["choices"]]
        assert sum(counts) == usage["completion_tokens"]
        for choice, count in zip(answer["choices"], counts, strict=True):
            assert len(choice["routing"]) == usage["prompt_tokens"] + count - 1
            layers = choice["routing"][0]["routing_weights"]
            assert len(layers) == service.llm.config.num_hidden_layers
            assert all(sum(weights) == pytest.approx(1, abs=1e-3) for weights in layers)
            for entry in choice["logprobs"]["content"]:
                assert len(entry["top_logprobs"]) == 2

    run(ask)


@pytest.mark.parametrize("stream", [True, False])
def test_forced_call_has_valid_arguments(run: Any, stream: bool) -> None:
    async def ask(service: Service, client: httpx.AsyncClient) -> None:
        question = [{"role": "user", "content": "Weather in Paris?"}]
        fields: dict[str, Any] = {
            "tools": [TOOL],
            "tool_choice": "any",
            "parallel_tool_calls": False,
        }
        fields |= {"messages": question, "max_tokens": 160, "stream": stream}
        response = await client.post(PATH, json={**GREEDY, **fields})
        if stream:
            pieces = [json.loads(event)["choices"][0] for event in events_of(response)[:-1]]
            calls = [c for piece in pieces for c in piece["delta"].get("tool_calls", [])]
            finish_reason = pieces[-1]["finish_reason"]
        else:
            (choice,) = response.json()["choices"]
            calls, finish_reason = choice["message"]["tool_calls"], choice["finish_reason"]
            assert choice["message"]["content"] == ""
        assert finish_reason == "tool_calls"
        assert calls[0]["function"]["name"] == "get_weather"
        schema = TOOL["function"]["parameters"]  # type: ignore[index]
        jsonschema.validate(json.loads(calls[0]["function"]["arguments"]), schema)
        assert len(calls[0]["id"]) == 9

    run(ask)


def test_json_schema_holds(run: Any) -> None:
    schema = {
        "type": "object",
        "properties": {"ok": {"type": "boolean"}, "n": {"type": "integer"}},
        "required": ["ok", "n"],
        "additionalProperties": False,
    }

    async def ask(service: Service, client: httpx.AsyncClient) -> None:
        json_schema = {"name": "x", "schema": schema, "strict": True}
        fields = {"response_format": {"type": "json_schema", "json_schema": json_schema}}
        body = {**GREEDY, "messages": MESSAGES, **fields, "max_tokens": 60}
        answer = (await client.post(PATH, json=body)).json()
        content = answer["choices"][0]["message"]["content"]
        jsonschema.validate(json.loads(content), schema)

    run(ask)


def test_completions_fim_and_tokens_work_with_a_real_model(run: Any) -> None:
    async def ask(service: Service, client: httpx.AsyncClient) -> None:
        prompts = {**GREEDY, "prompt": ["One, two,", "A, B,"], "echo": True, "max_tokens": 4}
        answer = (await client.post("/v1/completions", json=prompts)).json()
        assert [c["index"] for c in answer["choices"]] == [0, 1]
        assert answer["choices"][0]["text"].startswith("One, two,")
        fim = {**GREEDY, "prompt": "def f(", "suffix": "return x", "max_tokens": 4}
        answer = (await client.post("/v1/fim/completions", json=fim)).json()
        assert answer["usage"]["completion_tokens"] <= 4
        tokens = (await client.post("/v1/tokenize", json={"messages": MESSAGES})).json()
        chat = {**GREEDY, "messages": MESSAGES, "max_tokens": 0}
        usage = (await client.post(PATH, json=chat)).json()["usage"]
        assert usage["prompt_tokens"] == tokens["count"]

    run(ask)


def test_too_long_and_empty_prompts_are_refused(run: Any) -> None:
    async def ask(service: Service, client: httpx.AsyncClient) -> None:
        long = {**GREEDY, "prompt": "word " * 600}
        for fields in ({}, {"max_tokens": 0}, {"stream": True}):
            response = await client.post("/v1/completions", json={**long, **fields})
            assert response.status_code == 400
            assert response.json()["code"] == "context_length_exceeded"
        chat = {**GREEDY, "messages": MESSAGES, "max_tokens": 10_000}
        assert (await client.post(PATH, json=chat)).status_code == 400
        wrong = {**GREEDY, "prompt": [999_999]}
        assert (await client.post("/v1/completions", json=wrong)).status_code == 400

    run(ask)


@pytest.mark.parametrize("stream", [True, False])
def test_client_that_leaves_frees_its_blocks(run: Any, stream: bool) -> None:
    async def ask(service: Service, client: httpx.AsyncClient) -> None:
        gone = asyncio.Event()
        body = {**GREEDY, "messages": MESSAGES, "max_tokens": 400, "ignore_eos": True}
        request = asgi_call(service, {**body, "stream": stream}, disconnect=gone)
        task = asyncio.create_task(request)
        while service.llm.stats().num_running == 0:
            await asyncio.sleep(0.001)
        gone.set()
        await task
        for _ in range(200):
            if service.llm.stats().num_used_blocks == 0:
                break
            await asyncio.sleep(0.01)
        stats = service.llm.stats()
        assert (stats.num_running, stats.num_used_blocks) == (0, 0)

    run(ask)


def test_metrics_count_steps_experts_and_tokens(run: Any) -> None:
    async def ask(service: Service, client: httpx.AsyncClient) -> None:
        await client.post(PATH, json={**GREEDY, "messages": MESSAGES})
        text = (await client.get("/metrics")).text
        sample = service.metrics.registry.get_sample_value
        assert sample("mixtral_step_duration_seconds_count") > 0  # type: ignore[operator]
        assert sample("mixtral_time_per_output_token_seconds_count") == 1
        assert 'mixtral_expert_tokens_total{expert="0",layer="0"}' in text

    run(ask)
