"""The parts of serve.py: each starts a server, loads it and returns its number with what led to it.

Every part returns ``value``, the number that its goal is about, ``repeats``, and under ``results``
the served loads as ``mixtral bench serve`` reports them.
"""

import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any, Self

import torch

from mixtral.bench.results import Spread
from mixtral.bench.serve_http import Target
from mixtral.bench.serve_load import Load, LoadRun, Outcome
from mixtral.bench.serve_prompts import BodyOptions, Prompt, PromptOptions, random_prompts
from mixtral.bench.serve_report import (
    Percentiles,
    ServeResult,
    most_in_flight,
    summarize,
    throughputs,
    times_per_token,
)
from mixtral.bench.serve_server import OwnServer, own_server
from mixtral.bench.serve_session import ServeSession
from mixtral.bench.serve_stream import Answer
from mixtral.engine import SamplingParams
from mixtral.errors import EngineError
from mixtral.llm import LLM

LONG_STRING = {
    "type": "object",
    "properties": {"text": {"type": "string", "minLength": 4000}},
    "required": ["text"],
    "additionalProperties": False,
}
"""No answer of the length of these tests can reach its end, so all stay equally long."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """Sizes of everything."""

    model: str = "random:8x7b"
    layers: int = 2
    quantization: str | None = "int4"
    memory_model: str = "random:nano"
    """For the part about memory, which is about requests and not about weights."""
    prompt_tokens: int = 64
    new_tokens: int = 64
    batch: int = 32
    streams: int = 64
    chunk_tokens: int = 512
    """Tokens of a full step of the engine."""
    long_tokens: int = 2000
    prefix_tokens: int = 1000
    repeats: int = 5
    early_requests: int = 500
    all_requests: int = 10_000

    @classmethod
    def quick(cls) -> Self:
        """Return sizes that only show that it works."""
        return cls(
            model="random:nano",
            quantization=None,
            prompt_tokens=16,
            new_tokens=8,
            batch=4,
            streams=8,
            long_tokens=1200,
            prefix_tokens=400,
            repeats=2,
            early_requests=50,
            all_requests=200,
        )


class Stage:
    """A server, connections to it, and the engine without a server; each made when asked for."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.server: OwnServer | None = None
        self._model = ""
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def serve(self, *, model: str | None = None) -> ServeSession:
        """Start the server and warm it up."""
        plan = self.plan
        arguments = ["--model", model or plan.model, "--layers", str(plan.layers)]
        arguments += ["--kv-cache-gb", "1", "--max-num-seqs", str(plan.streams)]
        if plan.quantization is not None and model is None:
            arguments += ["--quantization", plan.quantization]
        self.server = self._stack.enter_context(own_server(arguments))
        session = self._stack.enter_context(
            ServeSession(Target.parse(self.server.url), server=self.server)
        )
        self._model, _ = session.find_model()
        self.run(session, self.prompts("warm-up", count=4), concurrency=4)
        return session

    def offline(self) -> LLM:
        """Load the same model into this process and warm it up."""
        plan = self.plan
        llm = LLM(
            plan.model,
            layers=plan.layers,
            quantization=plan.quantization,
            device="cpu",
            kv_cache_gb=1,
            max_num_seqs=plan.batch,
        )
        llm.generate([ids(prompt) for prompt in self.prompts("warm-up", count=4)], self.params())
        return llm

    def params(self, new_tokens: int | None = None) -> SamplingParams:
        """Return greedy settings of fixed length."""
        length = new_tokens or self.plan.new_tokens
        return SamplingParams(max_tokens=length, temperature=0.0, ignore_eos=True)

    def prompts(self, salt: str, *, count: int, **changes: int) -> list[Prompt]:
        """Draw prompts; other salts give other ones."""
        sizes = {"prompt_tokens": self.plan.prompt_tokens, "new_tokens": self.plan.new_tokens}
        return random_prompts(PromptOptions(**(sizes | changes)), count, salt=salt)

    def run(
        self,
        session: ServeSession,
        prompts: list[Prompt],
        *,
        concurrency: int | None = None,
        gaps: list[float] | None = None,
        extra_body: Mapping[str, Any] | None = None,
    ) -> LoadRun:
        """Send prompts; every one must succeed, or there is no number."""
        body = BodyOptions(model=self._model, extra_body=extra_body or {})
        load = Load(concurrency=concurrency) if gaps is None else Load(request_rate=1)
        run = session.run(load, session.write(prompts, body), gaps=gaps)
        if run.is_cut:
            raise KeyboardInterrupt
        failures = [outcome.failure for outcome in run.outcomes if outcome.failure is not None]
        if failures:
            raise EngineError(f"{len(failures)} of {len(prompts)} requests failed: {failures[0]}")
        return run

    def result(self, runs: list[LoadRun]) -> dict[str, Any]:
        """Return runs as one served result."""
        plan, outcomes = self.plan, [outcome for run in runs for outcome in run.outcomes]
        steps_s = times_per_token([answer_of(outcome) for outcome in outcomes])
        found = ServeResult(
            engine="mixtral",
            model=plan.model,
            layers=plan.layers,
            format=plan.quantization,
            batch=most_in_flight(outcomes),
            prompt_tokens=plan.prompt_tokens,
            new_tokens=plan.new_tokens,
            threads=torch.get_num_threads(),
            tokens_per_s=Spread.of(throughputs(runs)),
            step_ms=Spread.of([1e3 * step_s for step_s in steps_s]),
            peak_rss_bytes=self.server.peak_rss_bytes() if self.server else None,
            probes=None,
            serve=summarize(runs),
        )
        return asdict(found)

    def server_cpu_s(self) -> float:
        """Return the processor seconds of the server."""
        return (self.server.cpu_s() or 0.0) if self.server else 0.0


def throughput(stage: Stage) -> dict[str, Any]:
    """Served throughput over that of the engine, on the same prompts in turn."""
    plan, session, llm = stage.plan, stage.serve(), stage.offline()
    runs, offline = [], []
    for repeat in range(plan.repeats):
        prompts = stage.prompts(f"throughput {repeat}", count=plan.batch)
        begin = time.perf_counter()
        llm.generate([ids(prompt) for prompt in prompts], stage.params())
        offline.append(plan.batch * plan.new_tokens / (time.perf_counter() - begin))
        runs.append(stage.run(session, prompts, concurrency=plan.batch))
    ratios = [served / alone for served, alone in zip(throughputs(runs), offline, strict=True)]
    return {
        "value": median(ratios),
        "ratio": asdict(Spread.of(ratios)),
        "offline_tokens_per_s": asdict(Spread.of(offline)),
        "served_tokens_per_s": asdict(Spread.of(throughputs(runs))),
        "repeats": plan.repeats,
        "results": [stage.result(runs)],
    }


def overhead(stage: Stage) -> dict[str, Any]:
    """Milliseconds that a token of a lone stream takes longer than a step of the engine."""
    plan, session, llm = stage.plan, stage.serve(), stage.offline()
    runs, offline, served = [], [], []
    for repeat in range(2 * plan.repeats):
        prompt = stage.prompts(f"overhead {repeat}", count=1)[0]
        times = []
        for chunk in llm.stream(ids(prompt), stage.params()):
            times += [time.perf_counter()] * len(chunk.token_ids)
        offline.append(1e3 * (times[-1] - times[0]) / (plan.new_tokens - 1))
        runs.append(stage.run(session, [prompt], concurrency=1))
        served += [1e3 * step_s for step_s in times_per_token([answer_of(runs[-1].outcomes[0])])]
    differences = [a - b for a, b in zip(served, offline, strict=True)]
    return {
        "value": median(differences),
        "overhead_ms": asdict(Spread.of(differences)),
        "offline_step_ms": asdict(Spread.of(offline)),
        "served_step_ms": asdict(Spread.of(served)),
        "repeats": 2 * plan.repeats,
        "results": [stage.result(runs)],
    }


def beside(stage: Stage) -> dict[str, Any]:
    """Time to the first token of a short request beside a long prefill, in full chunks."""
    plan, session, llm = stage.plan, stage.serve(), stage.offline()
    chunks = []
    for repeat in range(plan.repeats):
        prompt = stage.prompts(f"chunk {repeat}", count=1, prompt_tokens=plan.chunk_tokens)[0]
        begin = time.perf_counter()
        llm.generate([ids(prompt)], stage.params(1))
        chunks.append(time.perf_counter() - begin)
    chunk_s, count = median(chunks), 2 * plan.repeats
    whole_chunks = plan.long_tokens / plan.chunk_tokens
    first_s = []
    for repeat in range(count):
        long = stage.prompts(f"long {repeat}", count=1, prompt_tokens=plan.long_tokens)
        short = stage.prompts(f"short {repeat}", count=1)
        # Arrivals are spread over the first two thirds of the prefill.
        delay_s = chunk_s * whole_chunks * 2 / 3 * (repeat + 0.5) / count
        run = stage.run(session, long + short, gaps=[0.0, delay_s])
        late = max(run.outcomes, key=lambda outcome: outcome.due_s)
        first_s.append(answer_of(late).first_s - late.due_s)
    ratios = [seconds / chunk_s for seconds in first_s]
    return {
        "value": median(ratios),
        "ratio": asdict(Spread.of(ratios)),
        "chunk_ms": asdict(Spread.of([1e3 * seconds for seconds in chunks])),
        "ttft_ms": asdict(Spread.of([1e3 * seconds for seconds in first_s])),
        "repeats": count,
    }


def prefix(stage: Stage) -> dict[str, Any]:
    """Time to the first token with a prefix that was there before, over that of a new one."""
    plan, session = stage.plan, stage.serve()
    sizes = {
        "prompt_tokens": plan.prefix_tokens + plan.prompt_tokens,
        "shared_prefix_tokens": plan.prefix_tokens,
    }
    first_s, second_s = [], []
    for repeat in range(plan.repeats):
        for prompt in stage.prompts("prefix", count=2, seed=1 + repeat, **sizes):
            outcome = stage.run(session, [prompt], concurrency=1).outcomes[0]
            is_second = len(second_s) < len(first_s)
            seconds = answer_of(outcome).first_s - outcome.due_s
            (second_s if is_second else first_s).append(seconds)
    ratios = [second / first for first, second in zip(first_s, second_s, strict=True)]
    return {
        "value": median(ratios),
        "ratio": asdict(Spread.of(ratios)),
        "first_ttft_ms": asdict(Spread.of([1e3 * seconds for seconds in first_s])),
        "second_ttft_ms": asdict(Spread.of([1e3 * seconds for seconds in second_s])),
        "repeats": plan.repeats,
    }


def memory(stage: Stage) -> dict[str, Any]:
    """Resident memory of a server after many requests over that after the first ones."""
    plan, session = stage.plan, stage.serve(model=stage.plan.memory_model)
    assert stage.server is not None
    course, done = [], 0
    step = plan.early_requests
    while done < plan.all_requests:
        prompts = stage.prompts(f"memory {done}", count=step, prompt_tokens=8, new_tokens=4)
        stage.run(session, prompts, concurrency=16)
        done += step
        rss = stage.server.rss_bytes()
        if rss is None:
            raise EngineError("this system does not say how much memory a process holds.")
        course.append({"requests": done, "rss_bytes": rss})
    return {
        "value": course[-1]["rss_bytes"] / course[0]["rss_bytes"],
        "served_model": plan.memory_model,
        "course": course,
        "repeats": 1,
    }


def streams(stage: Stage) -> dict[str, Any]:
    """How far the slowest of many streams falls behind the middle one."""
    plan, session = stage.plan, stage.serve()
    runs = [
        stage.run(
            session,
            stage.prompts(f"streams {repeat}", count=2 * plan.streams),
            concurrency=plan.streams,
        )
        for repeat in range(max(1, plan.repeats // 2))
    ]
    answers = [answer_of(outcome) for run in runs for outcome in run.outcomes]
    times = Percentiles.of(times_per_token(answers))
    assert times is not None
    return {
        "value": times.p99 / times.p50,
        "tpot_ms": asdict(times),
        "repeats": len(runs),
        "results": [stage.result(runs)],
    }


def structured(stage: Stage) -> dict[str, Any]:
    """Throughput with a JSON schema over that without, on the same prompts in turn."""
    plan, session = stage.plan, stage.serve()
    schema = {"name": "long_string", "schema": LONG_STRING, "strict": True}
    # The format says where an answer ends, so ignore_eos cannot go with it.
    response_format = {"type": "json_schema", "json_schema": schema}
    extra_body = {"response_format": response_format, "ignore_eos": None}
    free, bound = [], []
    for repeat in range(plan.repeats + 1):
        prompts = [
            stage.prompts(f"{kind} {repeat}", count=plan.batch) for kind in ("free", "bound")
        ]
        free.append(stage.run(session, prompts[0], concurrency=plan.batch))
        bound.append(stage.run(session, prompts[1], concurrency=plan.batch, extra_body=extra_body))
    # The first compiles the schema, once in the life of a server.
    free, bound = free[1:], bound[1:]
    ratios = [b / a for a, b in zip(throughputs(free), throughputs(bound), strict=True)]
    return {
        "value": median(ratios),
        "ratio": asdict(Spread.of(ratios)),
        "free_tokens_per_s": asdict(Spread.of(throughputs(free))),
        "schema_tokens_per_s": asdict(Spread.of(throughputs(bound))),
        "repeats": plan.repeats,
        "results": [stage.result(free), stage.result(bound)],
    }


def ids(prompt: Prompt) -> list[int]:
    """Return the token ids of a random prompt."""
    assert isinstance(prompt.content, list)
    return [token_id for token_id in prompt.content if isinstance(token_id, int)]


def answer_of(outcome: Outcome) -> Answer:
    """Return the answer of a request that succeeded."""
    assert outcome.answer is not None
    return outcome.answer


PARTS: Mapping[str, Callable[[Stage], dict[str, Any]]] = {
    "throughput": throughput,
    "overhead": overhead,
    "beside": beside,
    "prefix": prefix,
    "memory": memory,
    "streams": streams,
    "structured": structured,
}
