"""The layers around the application: each refusal, and what is written down."""

import asyncio
import json
import logging
import time
from pathlib import Path
from typing import Any

import pytest

from mixtral.server.logs import CURRENT_REQUEST_ID, RequestRecord
from mixtral.server.middleware import OPEN_PATHS
from mixtral.server.settings import ServerSettings
from tests.server.operation.asgi_for_tests import EchoApp, Guarded, scope_of, wait_until

BEARER = {"Authorization": "Bearer hush"}


def with_keys(tmp_path: Path, text: str, **settings: Any) -> Guarded:
    file = tmp_path / "keys.toml"
    file.write_text(text)
    file.chmod(0o600)
    return Guarded(settings=ServerSettings(**settings), keys_file=file)


# ---- Keys ------------------------------------------------------------------------------------


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer wrong"}])
def test_request_without_a_valid_key_gets_401_and_never_reaches_the_application(
    headers: dict[str, str],
) -> None:
    guarded = Guarded(settings=ServerSettings(api_key=("hush",)))
    answer = asyncio.run(guarded.ask(headers=headers, body=b"x"))
    assert answer.status == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    error = answer.error()
    assert (error["type"], error["code"]) == ("authentication_error", "invalid_api_key")
    assert guarded.app.num_started == 0
    assert guarded.records[0].key_name == "-"


def test_valid_key_is_named_in_the_record() -> None:
    guarded = Guarded(settings=ServerSettings(api_key=("hush",)))
    assert asyncio.run(guarded.ask(headers=BEARER, body=b"abc")).body == b"3!"
    record = guarded.records[0]
    assert (record.key_name, record.status, record.is_complete) == ("api-key-1", 200, True)


@pytest.mark.parametrize("path", sorted({*OPEN_PATHS, "/docs/swagger.js"}))
def test_page_of_documentation_and_probes_need_no_key(path: str) -> None:
    guarded = Guarded(settings=ServerSettings(api_key=("hush",)))
    assert asyncio.run(guarded.ask(path, method="GET")).status == 200


@pytest.mark.parametrize(
    "path", ["/metrics", "/v1/models", "/v1/nothing", "/docsx", "//health", "/health/../v1/models"]
)
def test_everything_else_needs_a_key(path: str) -> None:
    guarded = Guarded(settings=ServerSettings(api_key=("hush",)))
    assert asyncio.run(guarded.ask(path, method="GET")).status == 401


def test_metrics_are_open_where_the_settings_say_so() -> None:
    settings = ServerSettings(api_key=("hush",), metrics_without_key=True)
    assert asyncio.run(Guarded(settings=settings).ask("/metrics", method="GET")).status == 200


# ---- Bodies ----------------------------------------------------------------------------------

SMALL = {"max_body_mb": 0.001, "body_timeout_s": 0.1}


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ({"Content-Length": "1001"}, b""),
        ({}, b"x" * 1001),
        ({}, [b"x" * 500, b"x" * 500, b"x"]),
        ({"Content-Length": "10"}, [b"x" * 500] * 3),
    ],
)
def test_body_over_the_limit_gets_413_whether_its_length_was_told_or_not(
    headers: dict[str, str], body: Any
) -> None:
    guarded = Guarded(settings=ServerSettings(**SMALL))
    answer = asyncio.run(guarded.ask(headers=headers, body=body))
    assert answer.status == 413
    assert answer.error()["message"].startswith("the body is larger than 0.001 MB")
    assert guarded.app.num_started == 0


@pytest.mark.parametrize("body", [b"x" * 1000, [b"x" * 400, b"", b"x" * 600]])
def test_body_of_the_limit_arrives_whole(body: Any) -> None:
    assert asyncio.run(Guarded(settings=ServerSettings(**SMALL)).ask(body=body)).body == b"1000!"


def test_body_that_stops_half_way_gets_408() -> None:
    guarded = Guarded(settings=ServerSettings(**SMALL))
    answer = asyncio.run(guarded.ask(body=[b"x", 10.0, b"y"]))
    assert answer.status == 408
    assert answer.headers["connection"] == "close"
    assert answer.error()["type"] == "timeout_error"


def test_body_that_trickles_gets_408_though_every_part_is_in_time() -> None:
    guarded = Guarded(settings=ServerSettings(**SMALL))
    assert asyncio.run(guarded.ask(body=[b"x", 0.02] * 20)).status == 408


def test_client_that_leaves_while_sending_is_answered_by_nobody() -> None:
    guarded = Guarded()

    async def receive() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        raise AssertionError(message)

    asyncio.run(guarded.asgi(scope_of("/v1/models", "POST", {}), receive, send))  # type: ignore[arg-type]
    assert guarded.records[0].fields()["status"] == 499


def test_body_is_logged_only_where_asked_for(caplog: pytest.LogCaptureFixture) -> None:
    for log_prompts in (False, True):
        caplog.clear()
        guarded = Guarded(settings=ServerSettings(log_prompts=log_prompts))
        with caplog.at_level(logging.INFO, "mixtral"):
            asyncio.run(guarded.ask(body=b'{"prompt": "my secret"}'))
        assert ("my secret" in repr([vars(r) for r in caplog.records])) is log_prompts


# ---- Limits of keys --------------------------------------------------------------------------

ONE_AT_A_TIME = '[keys.a]\nkey = "hush"\nmax_concurrent = 1\nmax_queued = 1'


def test_request_over_the_rate_gets_429_with_the_time_to_wait(tmp_path: Path) -> None:
    guarded = with_keys(tmp_path, '[keys.a]\nkey = "hush"\nrequests_per_minute = 1')

    async def scenario() -> None:
        assert (await guarded.ask(headers=BEARER)).status == 200
        answer = await guarded.ask(headers=BEARER)
        assert answer.status == 429
        assert answer.headers["retry-after"] == "60"
        assert answer.error()["type"] == "rate_limit_error"
        assert (await guarded.ask("/v1/models", method="GET", headers=BEARER)).status == 200

    asyncio.run(scenario())


def test_tokens_of_an_answer_count_for_the_next_request(tmp_path: Path) -> None:
    guarded = with_keys(tmp_path, '[keys.a]\nkey = "hush"\ntokens_per_minute = 7')
    guarded.app.num_tokens = (3, 11)

    async def scenario() -> None:
        assert (await guarded.ask(headers=BEARER)).status == 200
        answer = await guarded.ask(headers=BEARER)
        assert answer.status == 429
        assert answer.headers["retry-after"] == "69"  # 14 - 7 + 1 tokens at 7 a minute

    asyncio.run(scenario())


def test_request_over_max_concurrent_waits_and_the_one_over_the_queue_gets_429(
    tmp_path: Path,
) -> None:
    guarded = with_keys(tmp_path, ONE_AT_A_TIME)

    async def scenario() -> None:
        app = guarded.app
        first = asyncio.create_task(guarded.ask("/v1/slow", headers=BEARER))
        await wait_until(lambda: app.num_started == 1)
        second = asyncio.create_task(guarded.ask("/v1/slow", headers=BEARER, body=b"two"))
        await wait_until(lambda: guarded.traffic.num_running == 2)
        await asyncio.sleep(0)
        third = await guarded.ask(headers=BEARER)
        assert third.status == 429
        assert int(third.headers["retry-after"]) > 0
        assert app.num_started == 1
        app.gate.set()
        assert [(await task).body for task in (first, second)] == [b"0!", b"3!"]

    asyncio.run(scenario())


def test_client_that_leaves_the_queue_frees_its_place(tmp_path: Path) -> None:
    guarded = with_keys(tmp_path, ONE_AT_A_TIME)

    async def scenario() -> None:
        first = asyncio.create_task(guarded.ask("/v1/slow", headers=BEARER))
        await wait_until(lambda: guarded.app.num_started == 1)
        for _ in range(3):
            gone = asyncio.Event()
            second = asyncio.create_task(guarded.ask(headers=BEARER, gone=gone))
            await wait_until(lambda: guarded.traffic.num_running == 2)
            gone.set()
            assert (await second).status == 0
        guarded.app.gate.set()
        await first
        assert (await guarded.ask(headers=BEARER)).status == 200
        assert guarded.traffic.num_running == 0

    asyncio.run(scenario())


def test_cancelled_request_gives_its_slot_back(tmp_path: Path) -> None:
    guarded = with_keys(tmp_path, ONE_AT_A_TIME)

    async def scenario() -> None:
        tasks = [asyncio.create_task(guarded.ask("/v1/slow", headers=BEARER)) for _ in range(2)]
        await wait_until(lambda: guarded.traffic.num_running == 2)
        for task in reversed(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert (await guarded.ask(headers=BEARER)).status == 200

    asyncio.run(scenario())


# ---- Draining --------------------------------------------------------------------------------


def test_while_draining_work_is_refused_and_probes_tell() -> None:
    guarded = Guarded()
    guarded.traffic.is_draining = True

    async def scenario() -> None:
        work = await guarded.ask()
        assert (work.status, work.headers["connection"]) == (503, "close")
        assert int(work.headers["retry-after"]) > 0
        assert work.error()["code"] == "stopping"
        assert (await guarded.ask("/ready", method="GET")).status == 503
        assert (await guarded.ask("/health", method="GET")).status == 200
        assert (await guarded.ask("/metrics", method="GET")).status == 200

    asyncio.run(scenario())


def test_running_requests_are_counted_probes_are_not() -> None:
    guarded = Guarded()

    async def scenario() -> None:
        task = asyncio.create_task(guarded.ask("/v1/slow"))
        await wait_until(lambda: guarded.app.num_started == 1)
        await guarded.ask("/metrics", method="GET")
        assert guarded.traffic.num_running == 1
        guarded.app.gate.set()
        await task
        assert guarded.traffic.num_running == 0

    asyncio.run(scenario())


# ---- Origins ---------------------------------------------------------------------------------

PREFLIGHT = {
    "Origin": "https://app.example",
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "authorization, content-type",
}


def test_without_origins_no_page_is_let_in() -> None:
    async def scenario() -> None:
        guarded = Guarded(settings=ServerSettings(api_key=("hush",)))
        assert (await guarded.ask(method="OPTIONS", headers=PREFLIGHT)).status == 401
        answer = await guarded.ask(headers=BEARER | {"Origin": "https://app.example"})
        assert answer.status == 403
        assert "access-control-allow-origin" not in answer.headers

    asyncio.run(scenario())


HERE = {"Host": "127.0.0.1:8000"}


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Sec-Fetch-Site": "same-origin", "Origin": "https://behind.a.proxy"}, 200),
        ({"Sec-Fetch-Site": "none"}, 200),
        ({"Sec-Fetch-Site": "cross-site", "Origin": "https://evil.example"}, 403),
        ({"Sec-Fetch-Site": "cross-site", "Origin": "null"}, 403),
        ({"Sec-Fetch-Site": "same-site", "Origin": "http://127.0.0.1:3000"}, 403),
        ({"Sec-Fetch-Site": "cross-site", "Origin": "https://app.example"}, 200),
        ({"Origin": "http://127.0.0.1:8000"}, 200),
        ({"Origin": "http://127.0.0.1:3000"}, 403),
        ({"Origin": "null"}, 403),
    ],
)
def test_form_of_another_page_changes_nothing_here(headers: dict[str, str], status: int) -> None:
    async def scenario() -> None:
        guarded = Guarded(settings=ServerSettings(cors_origins=("https://app.example",)))
        for method in ("POST", "DELETE"):
            answer = await guarded.ask("/v1/rag/documents", method=method, headers=HERE | headers)
            assert answer.status == status
        assert guarded.app.num_started == (2 if status == 200 else 0)
        assert (await guarded.ask(method="GET", headers=HERE | headers)).status == 200
        everyone = Guarded(settings=ServerSettings(cors_origins=("*",)))
        assert (await everyone.ask(headers=HERE | headers)).status == 200

    asyncio.run(scenario())


def test_page_of_an_allowed_origin_may_ask_before_it_has_a_key() -> None:
    async def scenario() -> None:
        settings = ServerSettings(api_key=("hush",), cors_origins=("https://app.example",))
        guarded = Guarded(settings=settings)
        preflight = await guarded.ask(method="OPTIONS", headers=PREFLIGHT)
        assert preflight.status == 200
        assert preflight.headers["access-control-allow-headers"] == "authorization, content-type"
        # Errors, too, must be readable by the page.
        for headers, status in ((BEARER, 200), ({}, 401)):
            answer = await guarded.ask(headers=headers | {"Origin": "https://app.example"})
            assert answer.status == status
            assert answer.headers["access-control-allow-origin"] == "https://app.example"
        other = await guarded.ask(
            method="OPTIONS", headers=PREFLIGHT | {"Origin": "https://b.example"}
        )
        assert other.status == 400
        assert other.error()["code"] == "cors"

    asyncio.run(scenario())


# ---- Ids, records and failures ---------------------------------------------------------------


@pytest.mark.parametrize("given", ["abc-123", "a" * 128, "req/1:2+3=.x"])
def test_sane_request_id_is_kept(given: str) -> None:
    answer = asyncio.run(Guarded().ask(headers={"X-Request-Id": given}))
    assert answer.headers["x-request-id"] == given


@pytest.mark.parametrize("given", ["", "a b", "a\tb", "a" * 129, "\xe9", '"', "a;b"])
def test_other_request_ids_are_replaced(given: str) -> None:
    guarded = Guarded()
    answer = asyncio.run(guarded.ask(headers={"X-Request-Id": given}))
    assert len(answer.headers["x-request-id"]) == 16
    assert guarded.records[0].request_id == answer.headers["x-request-id"]


def test_refusals_carry_the_request_id_too() -> None:
    guarded = Guarded(settings=ServerSettings(api_key=("hush",)))
    answer = asyncio.run(guarded.ask(headers={"X-Request-Id": "mine"}))
    assert (answer.status, answer.headers["x-request-id"]) == (401, "mine")


def test_failure_of_the_application_is_a_500_that_tells_nothing_and_a_log_that_tells_all(
    caplog: pytest.LogCaptureFixture,
) -> None:
    guarded = Guarded()
    with caplog.at_level(logging.ERROR, "mixtral"):
        answer = asyncio.run(guarded.ask("/v1/broken"))
    assert answer.status == 500
    assert "secret" not in answer.error()["message"]
    assert "a secret of the server" in caplog.text
    assert guarded.records[0].status == 500


def test_stream_that_ends_before_its_end_is_noted() -> None:
    guarded = Guarded()
    assert asyncio.run(guarded.ask("/v1/cut")).body == b"0!"
    assert guarded.records[0].fields()["cut"] is True


def test_record_has_times_tokens_and_route(caplog: pytest.LogCaptureFixture) -> None:
    class Routed(EchoApp):
        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            scope["route"] = type("Route", (), {"path": "/v1/models/{id}"})
            record: RequestRecord = scope["state"]["record"]
            record.first_token_s = time.perf_counter()
            assert CURRENT_REQUEST_ID.get() == record.request_id
            await super().__call__(scope, receive, send)

    guarded = Guarded(app=Routed())
    with caplog.at_level(logging.INFO, "mixtral"):
        asyncio.run(guarded.ask("/v1/models/x"))
    record = guarded.records[0]
    assert record.route == "/v1/models/{id}"
    fields = vars(caplog.records[-1])["fields"]
    assert json.loads(json.dumps(fields)) == record.fields()
    assert 0 <= fields["ttft_ms"] <= fields["duration_ms"]
    assert (fields["prompt_tokens"], fields["completion_tokens"]) == (3, 4)
    assert (fields["client"], fields["key"], fields["path"]) == ("10.0.0.7", "-", "/v1/models/x")


def test_probes_are_not_in_the_log_unless_they_fail(caplog: pytest.LogCaptureFixture) -> None:
    guarded = Guarded()
    with caplog.at_level(logging.INFO, "mixtral.access"):
        asyncio.run(guarded.ask("/ready", method="GET"))
        assert not caplog.records
        guarded.traffic.is_draining = True
        asyncio.run(guarded.ask("/ready", method="GET"))
        assert len(caplog.records) == 1


def test_other_scopes_pass_through() -> None:
    seen: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["type"])

    guarded = Guarded(app=app)  # type: ignore[arg-type]
    asyncio.run(guarded.asgi({"type": "lifespan"}, None, None))  # type: ignore[arg-type]
    assert seen == ["lifespan"]


def test_all_layers_cost_less_than_a_millisecond_per_request() -> None:
    # 20 to 60 microseconds on an idle core; the bound leaves room for a busy machine.
    guarded = Guarded(settings=ServerSettings(api_key=("hush",), log_level="warning"))

    async def scenario() -> float:
        began = time.perf_counter()
        for _ in range(200):
            await guarded.ask(headers=BEARER, body=b"{}")
        return (time.perf_counter() - began) / 200

    assert asyncio.run(scenario()) < 1e-3
