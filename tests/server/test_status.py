"""``/v1/status`` and what it remembers of the last seconds."""

import asyncio
from dataclasses import dataclass, field
from typing import Any

import httpx
import jsonschema
import pytest

from mixtral.config import ModelConfig
from mixtral.engine import StepReport
from mixtral.server.keys import KeyRing
from mixtral.server.logs import RequestRecord, log_request
from mixtral.server.middleware import Traffic, protect
from mixtral.server.recent import MAX_WAITS, WINDOW_S, Recent, percentile
from mixtral.server.service import Service
from mixtral.server.settings import ServerSettings
from tests.models_for_tests import tiny_config
from tests.server.engine_for_tests import FakeAsyncLLM, chat, client_of, get, make_service, post

PATH = "/v1/status"
PAGE = ("/status", "/status/status.js", "/status/charts.js", "/status/status.css")


@dataclass
class StatusLLM(FakeAsyncLLM):
    """The fake engine, with what a status tells of a model."""

    config: ModelConfig = field(default_factory=tiny_config)
    weight_format: str = "int4"


def status_of(service: Service | None = None) -> dict[str, Any]:
    response = get(service or make_service(StatusLLM()), PATH)
    assert response.headers["cache-control"] == "no-store"
    found: dict[str, Any] = response.json()
    return found


# ---- The last seconds ------------------------------------------------------------------------


def test_tokens_per_second_are_of_the_window_alone() -> None:
    now = [100.0]
    recent = Recent(clock=lambda: now[0])
    recent.note_step(num_input_tokens=50, num_output_tokens=0)
    now[0] += WINDOW_S - 0.5
    recent.note_step(num_input_tokens=0, num_output_tokens=20)
    activity = recent.activity()
    assert activity.input_tokens_per_s == 50 / WINDOW_S
    assert activity.output_tokens_per_s == 20 / WINDOW_S
    now[0] += 1
    assert recent.activity().input_tokens_per_s == 0
    now[0] += WINDOW_S
    assert recent.activity().output_tokens_per_s == 0


def test_waits_are_those_of_the_newest_generations() -> None:
    recent = Recent()
    assert recent.activity().ttft_p50_s is None
    for wait_s in [99.0] * 5 + [float(i) for i in range(1, MAX_WAITS + 1)]:
        recent.note_first_token(wait_s)
    activity = recent.activity()
    assert (activity.num_waits, activity.ttft_p50_s, activity.ttft_p90_s) == (100, 50.0, 90.0)


@pytest.mark.parametrize("count", [1, 2, 3, 10, 97])
@pytest.mark.parametrize("percent", [50, 90, 99])
def test_a_percentile_is_a_value_that_enough_do_not_exceed(count: int, percent: int) -> None:
    values = [float(i) for i in range(count)]
    found = percentile(values, percent)
    assert found is not None
    assert sum(value <= found for value in values) >= count * percent / 100
    assert sum(value < found for value in values) < count * percent / 100


# ---- The answer ------------------------------------------------------------------------------


def test_numbers_are_those_of_the_engine_the_model_and_the_last_seconds() -> None:
    service = make_service(StatusLLM())
    service.metrics.observe_step(
        StepReport(
            num_sequences=3, num_tokens=22, num_prefill_tokens=20, num_output_tokens=3, step_s=0.01
        )
    )
    post(service, "/v1/chat/completions", chat())
    found = status_of(service)
    expected = {
        "model": "mixtral-test",
        "format": "int4",
        "max_model_len": 4096,
        "num_layers": 2,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "running_requests": 1,
        "waiting_requests": 2,
        "input_tokens_per_s": 2.0,
        "output_tokens_per_s": 0.3,
        "kv_use_ratio": 0.25,
        "kv_cached_blocks": 10,
        "prefix_cache_hit_ratio": 0.25,
        "num_input_tokens": 120,
        "num_output_tokens": 44,
        "num_waits": 1,
        "expert_tokens": [[1, 2], [3, 0]],
        "is_ready": True,
    }
    assert {name: found[name] for name in expected} == expected
    assert 0 < found["ttft_p50_s"] == found["ttft_p90_s"] < 10
    assert found["memory_bytes"] > 1_000_000
    assert found["uptime_s"] > 0


def test_answer_follows_our_description() -> None:
    components = get(make_service(), "/openapi.json").json()["components"]
    schema = {"$ref": "#/components/schemas/ServerStatus", "components": components}
    jsonschema.validate(status_of(), schema, cls=jsonschema.Draft202012Validator)


def test_a_stopped_engine_is_told() -> None:
    assert not status_of(make_service(StatusLLM(is_alive=False)))["is_ready"]


# ---- Who may ask -----------------------------------------------------------------------------


def ask(path: str, *, key: str = "", traffic: Traffic | None = None, **settings: Any) -> int:
    async def send() -> httpx.Response:
        app = client_of(make_service(StatusLLM()))._transport.app  # type: ignore[attr-defined]
        guarded = protect(
            app,
            settings=ServerSettings(**settings),
            keys=KeyRing(None, ("hush",)),
            traffic=traffic,
        )
        transport = httpx.ASGITransport(guarded)
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.get(path, headers=headers)

    return asyncio.run(send()).status_code


def test_the_numbers_need_the_key_that_metrics_need() -> None:
    for path in (PATH, "/metrics"):
        assert ask(path) == 401
        assert ask(path, key="hush") == 200
        assert ask(path, metrics_without_key=True) == 200


@pytest.mark.parametrize("path", PAGE)
def test_the_page_itself_needs_no_key(path: str) -> None:
    assert ask(path) == 200


def test_the_numbers_are_told_while_the_server_drains_and_hold_up_nothing() -> None:
    traffic = Traffic(is_draining=True)
    assert ask(PATH, key="hush", traffic=traffic) == 200
    assert ask("/v1/models", key="hush", traffic=traffic) == 503


def test_asking_every_two_seconds_does_not_fill_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "mixtral.access")
    log_request(RequestRecord(request_id="r", method="GET", path=PATH, status=200))
    assert caplog.records == []
    log_request(RequestRecord(request_id="r", method="GET", path=PATH, status=401))
    assert len(caplog.records) == 1
