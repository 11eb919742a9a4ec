"""One served benchmark: warm up, run every load between two probes, report.

With several repeats the sweep of loads is run that often, so that a slow minute does not hit one
load alone. A server on another machine is not probed.
"""

import ipaddress
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from mixtral.bench.other_processes import OtherProcesses
from mixtral.bench.probes import Prober, Probes
from mixtral.bench.results import Spread
from mixtral.bench.serve_http import Target
from mixtral.bench.serve_load import Load, LoadRun
from mixtral.bench.serve_report import (
    ServeReport,
    ServeResult,
    most_in_flight,
    summarize,
    throughputs,
    times_per_token,
)
from mixtral.bench.serve_server import OwnServer
from mixtral.bench.serve_session import ServeOptions, ServeSession
from mixtral.machine import num_usable_cpus

_PROBE_MATRIX_SIZE = 512


@dataclass(frozen=True, kw_only=True, slots=True)
class ServedModel:
    """What is known about the model behind the server."""

    name: str
    """As the report shows it."""
    engine: str
    layers: int | None = None
    format: str | None = None
    threads: int | None = None


def measure_serve(
    session: ServeSession,
    options: ServeOptions,
    model: ServedModel,
    *,
    prober: Prober | None = None,
) -> ServeReport:
    """Warm up, run every load and return the numbers.

    Args:
        session: Connections to the server.
        options: What to measure; the body has the name of the model.
        model: What the report says about it.
        prober: Takes the ceilings; None where the server is on another machine.

    Raises:
        EngineError: The warm-up failed.
    """
    courses = [_Course(load=load) for load in options.loads]
    bystanders = _Bystanders(session)
    session.warm_up(options)
    is_cut = False
    try:
        _run(session, options, courses, prober)
    except KeyboardInterrupt:
        is_cut = True
    measured = [course for course in courses if course.runs]
    if not measured:
        raise KeyboardInterrupt
    return ServeReport(
        results=[_result(course, options, model, session.server) for course in measured],
        notes=_notes(session, options) | {"other_processes": bystanders.share()},
        is_cut=is_cut,
    )


def quick_prober() -> Prober:
    """Return what takes the ceilings, with smaller matrices than those of the other benchmarks.

    No number of a served benchmark stands beside the ceiling of bfloat16 products, and a processor
    without an instruction for them takes minutes over the usual size.
    """
    return Prober(matrix_size=_PROBE_MATRIX_SIZE)


def is_on_this_machine(target: Target) -> bool:
    """Whether a server shares this machine's processors: its host is one of our own addresses."""
    try:
        found = socket.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return False
    return any(_is_own(family, str(address[0])) for family, _, _, _, address in found)


def _is_own(family: int, host: str) -> bool:
    address = ipaddress.ip_address(host.partition("%")[0])
    if address.is_loopback or address.is_unspecified:
        return True
    try:
        with socket.socket(family) as probe:
            probe.bind((host, 0))  # only an address of this machine can be listened on
    except OSError:
        return False
    return True


@dataclass(kw_only=True, slots=True)
class _Course:
    """The repeats of one load."""

    load: Load
    runs: list[LoadRun] = field(default_factory=list)
    probes: list[Probes] = field(default_factory=list)
    server_cpu_s: float | None = None

    def add(self, run: LoadRun, cpu_before_s: float | None, cpu_after_s: float | None) -> None:
        self.runs.append(run)
        if cpu_before_s is not None and cpu_after_s is not None:
            self.server_cpu_s = (self.server_cpu_s or 0.0) + cpu_after_s - cpu_before_s


class _Bystanders:
    """How much of the processors went neither to the load generator nor to its server."""

    def __init__(self, session: ServeSession) -> None:
        self._session = session
        self._others = OtherProcesses()
        self._server_s = _cpu_s(session.server)
        self._begin_s = time.perf_counter()

    def share(self) -> float | None:
        """Return their share so far, 0 to 1; None where a server on this machine is not ours."""
        share, server_s = self._others.share(), _cpu_s(self._session.server)
        if self._session.server is None:
            return None if is_on_this_machine(self._session.target) else share
        if share is None or server_s is None or self._server_s is None:
            return None
        available_s = (time.perf_counter() - self._begin_s) * num_usable_cpus()
        return max(0.0, share - (server_s - self._server_s) / available_s)


def _run(
    session: ServeSession,
    options: ServeOptions,
    courses: Sequence[_Course],
    prober: Prober | None,
) -> None:
    """Run the sweep as often as wanted.

    Raises:
        KeyboardInterrupt: At Ctrl-C; the courses hold what was measured until then.
    """
    before = _probe(prober)
    for repeat in range(options.repeats):
        for number, course in enumerate(courses):
            part = 1 + repeat * len(courses) + number
            requests = session.plan(options, options.requests, part=part)
            cpu_s = _cpu_s(session.server)
            run = session.run(course.load, requests, seed=options.prompts.seed + part)
            course.add(run, cpu_s, _cpu_s(session.server))
            if run.is_cut:
                raise KeyboardInterrupt
            after = _probe(prober)
            course.probes += [*before, *after]
            before = after


def _probe(prober: Prober | None) -> list[Probes]:
    return [] if prober is None else [prober.measure()]


def _cpu_s(server: OwnServer | None) -> float | None:
    return None if server is None else server.cpu_s()


def _result(
    course: _Course, options: ServeOptions, model: ServedModel, server: OwnServer | None
) -> ServeResult:
    outcomes = [outcome for run in course.runs for outcome in run.outcomes]
    answers = [outcome.answer for outcome in outcomes if outcome.answer is not None]
    speeds, steps_s = throughputs(course.runs), times_per_token(answers)
    is_random = not options.listed_prompts
    return ServeResult(
        engine=model.engine,
        model=model.name,
        layers=model.layers,
        format=model.format,
        batch=most_in_flight(outcomes),
        prompt_tokens=options.prompts.prompt_tokens if is_random else None,
        new_tokens=options.prompts.new_tokens if is_random else None,
        threads=model.threads,
        tokens_per_s=Spread.of(speeds) if speeds else None,
        step_ms=Spread.of([1e3 * step_s for step_s in steps_s]) if steps_s else None,
        peak_rss_bytes=None if server is None else server.peak_rss_bytes(),
        probes=Probes.median(course.probes) if course.probes else None,
        serve=summarize(course.runs, server_cpu_s=course.server_cpu_s),
    )


def _notes(session: ServeSession, options: ServeOptions) -> dict[str, Any]:
    is_random = not options.listed_prompts
    server = session.server
    return {
        "repeats": options.repeats,
        "requests": options.requests,
        "warmup": options.warmup,
        "seed": options.prompts.seed,
        "endpoint": options.body.endpoint,
        "ignore_eos": options.body.ignore_eos,
        "extra_body": dict(options.body.extra_body),
        "prompt_form": options.prompts.form if is_random else "file",
        "shared_prefix_tokens": options.prompts.shared_prefix_tokens if is_random else None,
        "listed_prompts": None if is_random else len(options.listed_prompts),
        "url": session.target.url if server is None else None,
        "server_start_s": None if server is None else server.start_s,
    }
