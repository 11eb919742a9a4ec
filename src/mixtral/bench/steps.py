"""Prefill and decode, timed: repeats in turn, each between two probes.

One repeat of a workload is ``probe, ours, probe, theirs, probe``. A fraction of a ceiling uses the
mean of the probes right before and after it, a ratio uses neighbours in time, and only then is the
median taken, so that a machine whose bandwidth changes between repeats does not blur either.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch

from mixtral.bench.contender import Contender, TimedRun, random_prompts
from mixtral.bench.counts import count_experts_per_step, count_operations
from mixtral.bench.probes import Prober, Probes
from mixtral.bench.results import Ratio, Result, Spread, peak_rss_bytes
from mixtral.config import ModelConfig
from mixtral.errors import ConfigError
from mixtral.model import LanguageModel


@dataclass(frozen=True, kw_only=True, slots=True)
class Workload:
    """What a repeat runs.

    Raises:
        ConfigError: A number is below 1.
    """

    work: Literal["prefill", "decode"]
    """Which steps are timed."""
    batch: int
    """Prompts at once."""
    prompt_tokens: int
    """Tokens of each."""
    new_tokens: int = 1
    """Timed decode steps; not used by prefill."""

    def __post_init__(self) -> None:
        """Check the numbers."""
        for name in ("batch", "prompt_tokens", "new_tokens"):
            if (value := getattr(self, name)) < 1:
                raise ConfigError(f"{name} is {value}; it must be at least 1.")

    @property
    def num_decode_steps(self) -> int:
        """Decode steps of a repeat."""
        return self.new_tokens if self.work == "decode" else 0

    @property
    def max_tokens(self) -> int:
        """Tokens of one sequence at the end."""
        return self.prompt_tokens + 1 + self.num_decode_steps

    def prompts(self, vocab_size: int, seed: int) -> list[list[int]]:
        """Return random prompts."""
        return random_prompts(self.batch, self.prompt_tokens, vocab_size=vocab_size, seed=seed)


CountExperts = Callable[[Sequence[Sequence[int]], Sequence[Sequence[int]]], tuple[float, float]]
"""From prompts and answers to the experts read: in the prefill step, and per decode step."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Subject:
    """What is measured and under which name; holds no weights."""

    config: ModelConfig
    """Geometry."""
    name: str
    """As the user named it."""
    threads: int
    """Threads of each engine."""
    count_experts: CountExperts
    """Asks the routers of the model; see ``count_experts_per_step``."""
    seed: int = 0
    """Seed of the prompts."""

    @classmethod
    def of(cls, model: LanguageModel, *, name: str, seed: int = 0) -> "Subject":
        """Return the subject of a model in memory."""
        return cls(
            config=model.config,
            name=name,
            threads=torch.get_num_threads(),
            count_experts=functools.partial(count_experts_per_step, model),
            seed=seed,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Repeat:
    """One timed run with the ceilings around it."""

    steps_s: list[float]
    """Seconds of each step of the kind that is measured."""
    probes: Probes
    """Mean of the probes before and after it."""

    @property
    def median_s(self) -> float:
        """Seconds of its median step."""
        return Spread.of(self.steps_s).median


@dataclass(kw_only=True, slots=True)
class _Course:
    """The repeats of one contender."""

    contender: Contender
    repeats: list[Repeat] = field(default_factory=list)
    peak_rss_bytes: int = 0


def measure(
    subject: Subject,
    workload: Workload,
    contenders: Sequence[Contender],
    prober: Prober,
    *,
    repeats: int,
    on_repeat: Callable[[], None] = lambda: None,
) -> tuple[list[Result], list[Ratio]]:
    """Time a workload on each contender in turn.

    Args:
        subject: What is measured.
        workload: The work.
        contenders: Ours first; ratios compare it with each other one.
        prober: Takes the ceilings.
        repeats: Timed repeats, after one untimed.
        on_repeat: Called after each repeat of a contender, for a progress bar.

    Returns:
        One result per contender, and one ratio per peer.
    """
    prompts = workload.prompts(subject.config.vocab_size, subject.seed)
    courses = [_Course(contender=contender) for contender in contenders]
    answers = [c.contender.run(prompts, workload.num_decode_steps).token_ids for c in courses]
    experts = subject.count_experts(prompts, answers[0])
    before = prober.measure()
    for _ in range(repeats):
        for course in courses:
            run = course.contender.run(prompts, workload.num_decode_steps)
            after = prober.measure()
            course.repeats.append(
                Repeat(steps_s=_steps(workload, run), probes=Probes.median([before, after]))
            )
            course.peak_rss_bytes = peak_rss_bytes()
            before = after
            on_repeat()
    num_experts = experts[1 if workload.work == "decode" else 0]
    results = [_result(subject, workload, course, num_experts) for course in courses]
    ratios = [_ratio(workload, courses[0], peer) for peer in courses[1:]]
    return results, ratios


def peak_fractions(
    peak: Literal["int8", "bf16"] | None, operations: int, repeats: Sequence[Repeat]
) -> list[float]:
    """Return operations per second over the ceiling of each repeat; empty where it has none."""
    fractions = []
    for repeat in repeats:
        ceiling = repeat.probes.ceiling(peak)
        if ceiling is not None:
            fractions.append(operations / repeat.median_s / (ceiling * 1e9))
    return fractions


def _steps(workload: Workload, run: TimedRun) -> list[float]:
    return run.decode_s if workload.work == "decode" else [run.prefill_s]


def _result(subject: Subject, workload: Workload, course: _Course, num_experts: float) -> Result:
    config, repeats, weights = subject.config, course.repeats, course.contender.weights
    steps_s = [seconds for repeat in repeats for seconds in repeat.steps_s]
    is_decode = workload.work == "decode"
    new_tokens = 1 if is_decode else workload.prompt_tokens
    weight_bytes = weights.step_bytes(num_experts)
    # The mean decode step stands in the middle of the answer.
    context = workload.prompt_tokens + (workload.new_tokens // 2 if is_decode else 0)
    operations = count_operations(
        config, batch=workload.batch, new_tokens=new_tokens, context_tokens=context
    )
    bandwidth = [weight_bytes / r.median_s / (r.probes.read_gb_per_s * 1e9) for r in repeats]
    peak = peak_fractions(weights.peak, operations, repeats)
    return Result(
        work=workload.work,
        engine=course.contender.name,
        model=subject.name,
        layers=config.num_hidden_layers,
        format=weights.format,
        batch=workload.batch,
        prompt_tokens=workload.prompt_tokens,
        new_tokens=workload.new_tokens if is_decode else 1,
        threads=subject.threads,
        tokens_per_s=Spread.of([workload.batch * new_tokens / seconds for seconds in steps_s]),
        step_ms=Spread.of([1e3 * seconds for seconds in steps_s]),
        weight_bytes_per_step=weight_bytes,
        bandwidth_fraction=Spread.of(bandwidth).median,
        peak_fraction=Spread.of(peak).median if peak else None,
        peak_rss_bytes=course.peak_rss_bytes,
        probes=Probes.median([repeat.probes for repeat in repeats]),
    )


def _ratio(workload: Workload, ours: _Course, theirs: _Course) -> Ratio:
    pairs = zip(ours.repeats, theirs.repeats, strict=True)
    return Ratio(
        work=workload.work,
        engine=ours.contender.name,
        peer=theirs.contender.name,
        batch=workload.batch,
        prompt_tokens=workload.prompt_tokens,
        tokens_per_s=Spread.of([b.median_s / a.median_s for a, b in pairs]),
    )
