"""One served benchmark from its options: find or start a server, warm up, measure, report.

Each load of a sweep stands between two probes of the machine; with several repeats the sweep is run
that often, so that a slow minute does not hit one load alone. A server on another machine is not
probed.
"""

import asyncio
import ipaddress
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from mixtral.bench.other_processes import OtherProcesses
from mixtral.bench.probes import Prober, Probes
from mixtral.bench.results import Spread
from mixtral.bench.serve_http import BrokenResponse, ConnectionPool, Target
from mixtral.bench.serve_load import Load, LoadGenerator, LoadRun, PlannedRequest
from mixtral.bench.serve_prompts import (
    BodyOptions,
    Prompt,
    PromptOptions,
    cycle_prompts,
    random_prompts,
)
from mixtral.bench.serve_report import (
    ServeReport,
    ServeResult,
    most_in_flight,
    summarize,
    throughputs,
    times_per_token,
)
from mixtral.bench.serve_server import OwnServer
from mixtral.bench.serve_stream import BodyReader
from mixtral.errors import ConfigError, EngineError
from mixtral.machine import num_usable_cpus

_PROBE_MATRIX_SIZE = 512


@dataclass(frozen=True, kw_only=True, slots=True)
class ServeOptions:
    """What to measure.

    Raises:
        ConfigError: A number is outside its range.
    """

    loads: Sequence[Load]
    """One result for each."""
    prompts: PromptOptions = field(default_factory=PromptOptions)
    """What random prompts are like."""
    listed_prompts: Sequence[Prompt] = ()
    """Prompts of the user, sent in turn; none for random ones."""
    body: BodyOptions = field(default_factory=BodyOptions)
    """How requests are written; an empty model takes the first that the server has."""
    requests: int = 100
    """Requests of each load and repeat."""
    warmup: int = 4
    """Requests before the first load, which are not counted."""
    repeats: int = 1
    """How often the sweep is run."""
    timeout_s: float = 600.0
    """Longest time of one request."""

    def __post_init__(self) -> None:
        """Check the numbers."""
        if not self.loads:
            raise ConfigError("there is no load; give a request rate or a concurrency.")
        for name, least in (("requests", 1), ("warmup", 0), ("repeats", 1)):
            if (value := getattr(self, name)) < least:
                raise ConfigError(f"{name} is {value}; it must be at least {least}.")
        if not self.timeout_s > 0:
            raise ConfigError(f"timeout is {self.timeout_s:g}; it must be above 0 seconds.")

    @property
    def num_requests(self) -> int:
        """All requests, those of the warm-up included."""
        return self.warmup + self.repeats * len(self.loads) * self.requests

    def draw(self, count: int, *, part: int) -> list[Prompt]:
        """Return the prompts of one part of the run, 0 being the warm-up."""
        if not self.listed_prompts:
            return random_prompts(self.prompts, count, salt=str(part))
        start = 0 if part == 0 else self.warmup + (part - 1) * self.requests
        return cycle_prompts(self.listed_prompts, count, start=start)


@dataclass(frozen=True, kw_only=True, slots=True)
class ServedModel:
    """What is known about the model behind the server."""

    name: str
    """As the report shows it."""
    engine: str
    layers: int | None = None
    format: str | None = None
    threads: int | None = None


class ServeSession:
    """Measures one server; use it with ``with``.

    Args:
        target: The server.
        server: The process, where it is ours.
        timeout_s: Longest time of one request.
        on_outcome: Called after each request, for a progress bar.
    """

    def __init__(
        self,
        target: Target,
        *,
        server: OwnServer | None = None,
        timeout_s: float = 600.0,
        on_outcome: Callable[[], None] = lambda: None,
    ) -> None:
        self.target = target
        self.server = server
        self._pool = ConnectionPool(target)
        self._generator = LoadGenerator(self._pool, timeout_s=timeout_s, on_outcome=on_outcome)
        self._runner = asyncio.Runner()

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """Close the connections."""
        self._runner.run(self._pool.close())
        self._runner.close()

    def find_model(self) -> tuple[str, str]:
        """Return the name of the first model that the server has, and who owns it.

        Raises:
            EngineError: The server cannot be reached, or does not list its models.
        """
        reader = BodyReader()
        url = f"{self.target.url}/models"
        try:
            self._runner.run(self._get("/models", reader))
        except TimeoutError:
            raise EngineError(f"{url} did not answer within 10 s.") from None
        except (OSError, BrokenResponse) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise EngineError(
                f"no server answers at {self.target.url}: {reason}; start it, or change the url."
            ) from None
        if reader.status in (401, 403):
            raise EngineError(f"{url} answers {reader.status}; give the server's --api-key.")
        models = reader.parsed().get("data")
        if reader.status != 200 or not isinstance(models, list) or not models:
            raise EngineError(
                f"{url} answers {reader.status} without a list of models ({reader.error()}); the "
                "url mostly ends with /v1, and --served-model names a model of a server that has "
                "no list."
            )
        card = models[0] if isinstance(models[0], dict) else {}
        return str(card.get("id", "")), str(card.get("owned_by") or "server")

    def warm_up(self, options: ServeOptions) -> None:
        """Send the requests that are not counted.

        Raises:
            EngineError: None of them succeeded.
        """
        if not options.warmup:
            return
        most = max(load.concurrency or 1 for load in options.loads)
        load = Load(concurrency=min(options.warmup, most))
        run = self.run(load, self.plan(options, options.warmup, part=0), seed=0)
        if run.is_cut:
            raise KeyboardInterrupt
        if all(outcome.answer is None for outcome in run.outcomes):
            raise EngineError(f"no request of the warm-up succeeded: {run.outcomes[0].failure}.")

    def run(
        self,
        load: Load,
        requests: Sequence[PlannedRequest],
        *,
        seed: int = 0,
        gaps: Sequence[float] | None = None,
    ) -> LoadRun:
        """Run one load as ``LoadGenerator.run`` does; after Ctrl-C it returns what there is."""
        return self._runner.run(self._generator.run(load, requests, seed=seed, gaps=gaps))

    def plan(self, options: ServeOptions, count: int, *, part: int) -> list[PlannedRequest]:
        """Write the requests of one part of the run."""
        return self.write(options.draw(count, part=part), options.body)

    def write(self, prompts: Sequence[Prompt], body: BodyOptions) -> list[PlannedRequest]:
        """Write prompts as requests for an endpoint of this server."""
        path = "/completions" if body.endpoint == "completions" else "/chat/completions"
        return [
            PlannedRequest(
                data=self.target.request("POST", path, body.write(prompt)),
                num_tokens=prompt.max_tokens if body.ignore_eos else None,
            )
            for prompt in prompts
        ]

    async def _get(self, path: str, reader: BodyReader) -> None:
        async with asyncio.timeout(10):
            await self._pool.send(self.target.request("GET", path), reader)


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
    """Whether a server shares this machine's processors."""
    try:
        return ipaddress.ip_address(target.host).is_loopback
    except ValueError:
        return target.host == "localhost"


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
        "url": session.target.url if server is None else None,
        "server_start_s": None if server is None else server.start_s,
    }
