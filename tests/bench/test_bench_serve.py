"""The load generator, against a small server that answers as it is told."""

import math
import os
import signal
import statistics
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixtral.bench.probes import Prober
from mixtral.bench.serve_http import Target
from mixtral.bench.serve_load import Load, LoadRun, Outcome, arrival_gaps
from mixtral.bench.serve_measure import ServedModel, measure_serve
from mixtral.bench.serve_prompts import (
    BodyOptions,
    Prompt,
    PromptOptions,
    read_prompts,
)
from mixtral.bench.serve_report import (
    Percentiles,
    ServeReport,
    most_in_flight,
    percentile,
    serve_table,
    summarize,
    throughputs,
)
from mixtral.bench.serve_session import ServeOptions, ServeSession
from mixtral.bench.serve_stream import Answer
from mixtral.errors import EngineError
from tests.bench.bench_for_tests import RESULT_FIELDS
from tests.bench.serve_for_tests import Behaviour, FakeServer, running

MODEL = ServedModel(name="fake-model", engine="fakes")


def options(load: Load | None = None, **changes: Any) -> ServeOptions:
    settings = {
        "loads": [load or Load(concurrency=2)],
        "prompts": PromptOptions(prompt_tokens=5, new_tokens=4),
        "body": BodyOptions(model="fake-model"),
        "requests": 6,
        "warmup": 0,
    }
    return ServeOptions(**(settings | changes))


def measure(server: FakeServer, wanted: ServeOptions, **changes: Any) -> ServeReport:
    with running(server), ServeSession(Target.parse(server.url), **changes) as session:
        return measure_serve(session, wanted, MODEL)


def test_every_request_is_timed_and_counted() -> None:
    server = FakeServer(first_delay_s=0.05, token_delay_s=0.02)
    report = measure(server, options())
    result = report.results[0]
    serve = result.serve
    assert (serve.succeeded, serve.failed, serve.unfinished) == (6, 0, 0)
    assert serve.ttft_ms is not None
    assert serve.tpot_ms is not None
    assert serve.e2e_ms is not None
    assert serve.ttft_ms.p50 >= 50
    assert serve.tpot_ms.p50 >= 20
    parts = serve.ttft_ms.mean + 3 * serve.tpot_ms.mean
    assert parts == pytest.approx(serve.e2e_ms.mean, rel=0.1)
    assert result.tokens_per_s is not None
    assert result.tokens_per_s.median == pytest.approx(24 / serve.duration_s)
    assert serve.mean_prompt_tokens == 5
    assert serve.counted_by == "server"
    assert (result.batch, server.most_at_once) == (2, 2)


def test_requests_are_what_was_asked_for() -> None:
    server = FakeServer()
    body = BodyOptions(model="m", extra_body={"temperature": None, "top_p": 0.5})
    measure(server, options(body=body, warmup=2))
    assert len(server.bodies) == 8
    assert len({tuple(body["prompt"]) for body in server.bodies}) == 8
    sent = server.bodies[0]
    assert len(sent.pop("prompt")) == 5
    assert sent == {
        "model": "m",
        "max_tokens": 4,
        "stream": True,
        "stream_options": {"include_usage": True},
        "ignore_eos": True,
        "top_p": 0.5,
    }


@pytest.mark.parametrize("closes", [False, True])
def test_connections_are_used_again_as_long_as_they_last(closes: bool) -> None:
    server = FakeServer(closes=closes)
    report = measure(server, options())
    assert report.results[0].serve.succeeded == 6
    assert server.num_connections == (6 if closes else 2)


def test_every_allowed_form_of_a_stream_is_understood() -> None:
    report = measure(FakeServer(behaviours=["is odd"] * 6), options())
    assert report.results[0].serve.failures == []


@pytest.mark.parametrize(
    ("behaviour", "reason"),
    [
        ("refuses", "HTTP 429: too many requests"),
        ("breaks", "the server closed the connection in the middle of an answer"),
        ("cuts short", "3 tokens instead of 4"),
        ("fails late", "error in the stream: engine stopped"),
        ("hangs", "no whole answer within 1 s"),
        ("is no stream", "no events in the answer, which is application/json"),
    ],
)
def test_failures_are_counted_with_their_reason(behaviour: Behaviour, reason: str) -> None:
    server = FakeServer(behaviours=["good", behaviour, "good", behaviour])
    serve = measure(server, options(), timeout_s=1).results[0].serve
    assert (serve.succeeded, serve.failed) == (4, 2)
    assert serve.failures == [{"reason": reason, "count": 2}]


def test_an_answer_may_be_short_where_it_may_end() -> None:
    body = BodyOptions(model="m", ignore_eos=False)
    report = measure(FakeServer(behaviours=["cuts short"]), options(body=body))
    assert report.results[0].serve.failed == 0
    assert report.results[0].tokens_per_s is not None


def test_tokens_that_nobody_counts_are_counted_here() -> None:
    report = measure(FakeServer(behaviours=["counts nothing"] * 6), options())
    serve = report.results[0].serve
    assert (serve.counted_by, serve.failed, serve.mean_prompt_tokens) == ("events", 0, None)


def test_open_loop_does_not_wait_for_answers() -> None:
    server = FakeServer(first_delay_s=0.5)
    report = measure(server, options(Load(request_rate=50), requests=20))
    assert report.results[0].serve.duration_s < 20 * 0.5
    assert report.results[0].serve.succeeded == 20
    assert server.most_at_once > 5


def test_the_clock_starts_when_a_request_was_due() -> None:
    answer = Answer(
        first_s=3.0,
        last_s=5.0,
        end_s=6.0,
        gaps_s=[2.0],
        num_tokens=3,
        num_prompt_tokens=7,
        finish_reason="length",
        has_usage=True,
    )
    late = Outcome(due_s=1.0, sent_s=2.0, end_s=6.0, answer=answer)
    run = LoadRun(
        load=Load(request_rate=1),
        outcomes=[late],
        num_planned=1,
        begin_s=0.0,
        end_s=6.0,
        client_cpu_s=0.6,
        is_cut=False,
    )
    serve = summarize([run])
    assert serve.ttft_ms is not None
    assert serve.tpot_ms is not None
    assert serve.e2e_ms is not None
    assert serve.lateness_ms is not None
    assert (serve.ttft_ms.p50, serve.tpot_ms.p50, serve.e2e_ms.p50) == (2000, 1000, 5000)
    assert serve.lateness_ms.max == 1000
    assert serve.client_cpu_share == pytest.approx(0.1)
    assert throughputs([run]) == [0.5]


def test_arrivals_are_a_poisson_process_of_the_rate() -> None:
    gaps = arrival_gaps(5.0, 20_001, seed=3)[1:]
    assert statistics.fmean(gaps) == pytest.approx(0.2, rel=0.03)
    assert statistics.stdev(gaps) == pytest.approx(0.2, rel=0.05)
    assert sum(gap > 0.4 for gap in gaps) / len(gaps) == pytest.approx(math.exp(-2), rel=0.1)
    assert arrival_gaps(5.0, 10, seed=3) == arrival_gaps(5.0, 10, seed=3)


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=50), st.floats(0, 1))
def test_percentiles_are_those_of_numpy(values: list[float], share: float) -> None:
    expected = float(np.percentile(values, 100 * share))
    assert percentile(sorted(values), share) == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_no_times_have_no_percentiles() -> None:
    assert Percentiles.of([]) is None
    found = Percentiles.of([0.002, 0.001])
    assert found == Percentiles(p50=1.5, p90=1.9, p99=1.99, mean=1.5, max=2.0)


def test_most_in_flight_counts_a_request_that_follows_at_once_as_one() -> None:
    spans = [(0.0, 1.0), (1.0, 2.0), (1.5, 3.0)]
    outcomes = [Outcome(due_s=a, sent_s=a, end_s=b, answer=None, failure="x") for a, b in spans]
    assert most_in_flight(outcomes) == 2


def test_repeats_are_pooled_and_their_throughputs_spread() -> None:
    loads = [Load(concurrency=1), Load(concurrency=3)]
    server = FakeServer(token_delay_s=0.005)
    report = measure(server, options(loads=loads, repeats=3))
    assert [result.serve.succeeded for result in report.results] == [18, 18]
    assert len({tuple(body["prompt"]) for body in server.bodies}) == 36
    speed = report.results[1].tokens_per_s
    assert speed is not None
    assert speed.min <= speed.median <= speed.max


def test_json_has_every_field_of_the_schema(prober: Prober) -> None:
    with running(FakeServer()) as server, ServeSession(Target.parse(server.url)) as session:
        report = measure_serve(session, options(), MODEL, prober=prober)
    values = report.to_json()
    assert values.keys() >= {"machine", "commit", "command", "date", "results", "notes"}
    result = values["results"][0]
    assert result.keys() == RESULT_FIELDS | {"serve"}
    assert result["work"] == "serve"
    assert result["probes"]["read_gb_per_s"] > 0
    assert result["step_ms"].keys() == {"median", "min", "max"}
    assert result["serve"]["ttft_ms"].keys() == {"p50", "p90", "p99", "mean", "max"}


def test_when_nothing_succeeds_there_are_no_numbers_but_a_table() -> None:
    report = measure(FakeServer(behaviours=["refuses"] * 6), options())
    assert not report.has_success
    assert report.results[0].tokens_per_s is None
    assert serve_table(report).row_count == 1


def test_a_warm_up_that_fails_ends_the_run() -> None:
    with pytest.raises(EngineError, match="warm-up succeeded: HTTP 429: too many requests"):
        measure(FakeServer(behaviours=["refuses"] * 2), options(warmup=2))


def test_ctrl_c_gives_what_was_measured_until_then() -> None:
    server = FakeServer(behaviours=["good"] * 3 + ["hangs"] * 100)

    def interrupt() -> None:
        while len(server.bodies) < 5:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    # A process that was started in the background ignores Ctrl-C, and so would this one.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        report = measure(server, options(repeats=2))
    finally:
        signal.signal(signal.SIGINT, before)
    thread.join()
    assert report.is_cut
    assert report.results[0].serve.succeeded == 3
    assert report.results[0].serve.unfinished == 3


def test_the_load_generator_says_what_it_costs_and_that_is_little() -> None:
    server = FakeServer()
    wanted = options(
        Load(concurrency=8), requests=50, prompts=PromptOptions(prompt_tokens=64, new_tokens=64)
    )
    # The server is a thread of this process, so this bounds both together.
    serve = measure(server, wanted).results[0].serve
    assert serve.client_cpu_s > 0
    assert serve.client_cpu_s / (50 * 64) < 1e-3


def test_a_server_that_is_not_there_is_one_line() -> None:
    with (
        ServeSession(Target.parse("http://127.0.0.1:9/v1")) as session,
        pytest.raises(EngineError, match=r"no server answers at http://127\.0\.0\.1:9/v1"),
    ):
        session.find_model()


def test_the_model_is_the_first_that_the_server_lists() -> None:
    target_key = "secret-key"
    with running(FakeServer()) as server:
        target = Target.parse(server.url, api_key=target_key)
        with ServeSession(target) as session:
            assert session.find_model() == ("fake-model", "fakes")
        with (
            ServeSession(Target.parse(f"http://127.0.0.1:{server.port}")) as session,
            pytest.raises(EngineError, match="mostly ends with /v1"),
        ):
            session.find_model()
    assert "Authorization: Bearer secret-key" in server.heads[0]
    assert "Authorization" not in server.heads[1]


def test_a_file_gives_prompts_in_turn(tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text('{"prompt": "one", "max_tokens": 2}\n\n{"prompt": [5, 6]}\n')
    listed = read_prompts(file, new_tokens=3)
    assert listed == [Prompt(content="one", max_tokens=2), Prompt(content=[5, 6], max_tokens=3)]
    server = FakeServer()
    report = measure(server, options(Load(concurrency=1), listed_prompts=listed, warmup=1))
    assert report.results[0].serve.failed == 0
    assert report.results[0].prompt_tokens is None
    sent = [(body["prompt"], body["max_tokens"]) for body in server.bodies[:3]]
    assert sent == [("one", 2), ([5, 6], 3), ("one", 2)]
