"""From timed requests to numbers: percentiles, throughput, failures, and the JSON of a run.

* TTFT, time to first token: from when the request was due until its first token came.
* TPOT, time per output token: from the first token to the last, over the tokens after the first.
* gap: between two neighbouring events of a stream; its p99 shows the stalls that TPOT averages out.
* E2E: from when the request was due until the stream was complete.

Percentiles are over the requests that succeeded (gaps: over all their gaps), by linear
interpolation between the two nearest ones. Throughput is their tokens over the time from the start
of the run to the end of its last answer.
"""

import dataclasses
import datetime
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any, Literal

from rich.table import Table

from mixtral.bench.probes import Probes
from mixtral.bench.results import Spread, describe_command, describe_machine, find_commit
from mixtral.bench.serve_load import LoadRun, Outcome
from mixtral.bench.serve_stream import Answer


@dataclass(frozen=True, kw_only=True, slots=True)
class Percentiles:
    """A distribution of times in milliseconds."""

    p50: float
    p90: float
    p99: float
    mean: float
    max: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> "Percentiles | None":
        """Summarise times given in seconds; None of none."""
        if not seconds:
            return None
        ordered = sorted(1e3 * value for value in seconds)
        p50, p90, p99 = (percentile(ordered, share) for share in (0.5, 0.9, 0.99))
        return cls(p50=p50, p90=p90, p99=p99, mean=fmean(ordered), max=ordered[-1])


@dataclass(frozen=True, kw_only=True, slots=True)
class ServeNumbers:
    """What only a served result has."""

    arrivals: Literal["poisson", "closed"]
    """Open loop at a request rate, or closed loop at a concurrency."""
    request_rate: float | None
    concurrency: int | None
    planned: int
    """Requests that should have been sent."""
    succeeded: int
    failed: int
    failures: list[dict[str, Any]]
    """``reason`` and ``count``, the most frequent first."""
    unfinished: int
    """Requests not sent or still under way when Ctrl-C ended the run."""
    duration_s: float
    requests_per_s: float
    prompt_tokens_per_s: float | None
    """As the server counted; null where it does not say."""
    mean_in_flight: float
    """Requests under way at the same time, mean over the run."""
    ttft_ms: Percentiles | None
    tpot_ms: Percentiles | None
    gap_ms: Percentiles | None
    e2e_ms: Percentiles | None
    lateness_ms: Percentiles | None
    """How late the load generator sent; it is in the times above."""
    client_cpu_s: float
    """Processor seconds of the load generator."""
    client_cpu_share: float
    """The same over the duration: 1 is one processor."""
    server_cpu_s: float | None
    """Processor seconds of the server; null where it is not ours."""
    counted_by: Literal["server", "events"]
    """Whether the tokens are those of ``usage``, or the events with text."""
    mean_prompt_tokens: float | None
    """Prompt tokens of a request as the server counted them; null where it does not say."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ServeResult:
    """One load on one server; the fields are those of ``Result``, null where nobody can know."""

    work: Literal["serve"] = "serve"
    engine: str
    """mixtral, or who owns the model by the word of the server."""
    model: str
    """As the user named it, or as the server does."""
    layers: int | None
    format: str | None
    batch: int
    """Most requests under way at the same time."""
    prompt_tokens: int | None
    """Tokens of each random prompt; null for a file of prompts."""
    new_tokens: int | None
    """Tokens of each answer to a random prompt."""
    threads: int | None
    tokens_per_s: Spread | None
    """New tokens over all streams, one value per repeat; null where nothing succeeded."""
    step_ms: Spread | None
    """Time per output token of the requests."""
    weight_bytes_per_step: None = None
    bandwidth_fraction: None = None
    peak_fraction: None = None
    peak_rss_bytes: int | None
    """Of the server; null where it is not ours."""
    probes: Probes | None
    """Ceilings of the machine, taken before and after the load; null for another machine."""
    serve: ServeNumbers


@dataclass(frozen=True, kw_only=True, slots=True)
class ServeReport:
    """Everything of one run."""

    results: list[ServeResult]
    """In the order measured."""
    notes: dict[str, Any] = field(default_factory=dict)
    """Conditions: endpoint, seed, repeats, warm-up, the server."""
    is_cut: bool = False
    """Whether Ctrl-C ended it."""

    def to_json(self) -> dict[str, Any]:
        """Return the report with machine, commit, command and date."""
        return {
            "machine": describe_machine(),
            "commit": find_commit(),
            "command": describe_command(),
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "ratios": [],
            **dataclasses.asdict(self),
        }

    @property
    def has_success(self) -> bool:
        """Whether any request succeeded."""
        return any(result.serve.succeeded for result in self.results)


def percentile(ordered: Sequence[float], share: float) -> float:
    """Return the value below which a share of sorted values lies.

    >>> percentile([1.0, 2.0, 3.0, 4.0], 0.5)
    2.5
    """
    place = share * (len(ordered) - 1)
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])


def summarize(runs: Sequence[LoadRun], *, server_cpu_s: float | None = None) -> ServeNumbers:
    """Return the numbers of at least one run under the same load; latencies are pooled.

    Args:
        runs: The repeats.
        server_cpu_s: Processor seconds of the server over all of them.
    """
    load, outcomes = runs[0].load, [outcome for run in runs for outcome in run.outcomes]
    pairs = [(outcome, answer) for outcome in outcomes if (answer := outcome.answer) is not None]
    answers = [answer for _, answer in pairs]
    reasons = Counter(outcome.failure for outcome in outcomes if outcome.failure is not None)
    duration_s = sum(run.end_s - run.begin_s for run in runs)
    cpu_s = sum(run.client_cpu_s for run in runs)
    prompts = [a.num_prompt_tokens for a in answers if a.num_prompt_tokens is not None]
    return ServeNumbers(
        arrivals="closed" if load.request_rate is None else "poisson",
        request_rate=load.request_rate,
        concurrency=load.concurrency,
        planned=sum(run.num_planned for run in runs),
        succeeded=len(answers),
        failed=reasons.total(),
        failures=[{"reason": text, "count": count} for text, count in reasons.most_common()],
        unfinished=sum(run.num_planned - len(run.outcomes) for run in runs),
        duration_s=duration_s,
        requests_per_s=_per_second(len(answers), duration_s),
        prompt_tokens_per_s=_per_second(sum(prompts), duration_s) if prompts else None,
        mean_in_flight=_per_second(sum(o.end_s - o.due_s for o in outcomes), duration_s),
        ttft_ms=Percentiles.of([answer.first_s - outcome.due_s for outcome, answer in pairs]),
        tpot_ms=Percentiles.of(times_per_token(answers)),
        gap_ms=Percentiles.of([gap for answer in answers for gap in answer.gaps_s]),
        e2e_ms=Percentiles.of([answer.end_s - outcome.due_s for outcome, answer in pairs]),
        lateness_ms=Percentiles.of([outcome.sent_s - outcome.due_s for outcome in outcomes]),
        client_cpu_s=cpu_s,
        client_cpu_share=_per_second(cpu_s, duration_s),
        server_cpu_s=server_cpu_s,
        counted_by="server" if all(answer.has_usage for answer in answers) else "events",
        mean_prompt_tokens=fmean(prompts) if prompts else None,
    )


def times_per_token(answers: Sequence[Answer]) -> list[float]:
    """Return the seconds per output token of every answer with at least two."""
    return [(a.last_s - a.first_s) / (a.num_tokens - 1) for a in answers if a.num_tokens > 1]


def throughputs(runs: Sequence[LoadRun]) -> list[float]:
    """Return the new tokens per second of each run in which any request succeeded."""
    found = []
    for run in runs:
        tokens = sum(o.answer.num_tokens for o in run.outcomes if o.answer is not None)
        if tokens:
            found.append(_per_second(tokens, run.end_s - run.begin_s))
    return found


def most_in_flight(outcomes: Sequence[Outcome]) -> int:
    """Return how many requests were under way at the same time at most."""
    # At equal times an end comes before a start, as -1 before 1.
    events = sorted([(o.sent_s, 1) for o in outcomes] + [(o.end_s, -1) for o in outcomes])
    most = current = 0
    for _, change in events:
        current += change
        most = max(most, current)
    return most


def serve_table(report: ServeReport) -> Table:
    """Return the results for people, one row per load."""
    first = report.results[0]
    title = f"{first.engine}, {first.model}: times in ms as p50 / p90 / p99"
    table = Table(title_justify="left", title=title, box=None, pad_edge=False)
    columns = ("ok", "failed", "requests/s", "tokens/s", "TTFT", "TPOT", "gap", "E2E", "client CPU")
    table.add_column("load")
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    for result in report.results:
        serve = result.serve
        load = serve.concurrency if serve.request_rate is None else f"{serve.request_rate:g}/s"
        speed = result.tokens_per_s
        table.add_row(
            f"{load} at once" if serve.request_rate is None else str(load),
            str(serve.succeeded),
            str(serve.failed),
            f"{serve.requests_per_s:.2f}",
            "-" if speed is None else f"{speed.median:.1f}",
            *(_three(times) for times in (serve.ttft_ms, serve.tpot_ms, serve.gap_ms)),
            _three(serve.e2e_ms, digits=0),
            f"{serve.client_cpu_s:.2f} of {serve.duration_s:.1f} s",
        )
    return table


def _three(times: Percentiles | None, digits: int = 1) -> str:
    if times is None:
        return "-"
    return " / ".join(f"{value:.{digits}f}" for value in (times.p50, times.p90, times.p99))


def _per_second(amount: float, duration_s: float) -> float:
    return amount / duration_s if duration_s > 0 else 0.0
