"""Prefill and decode, timed: gate first, then repeats in turn, each between two probes.

One repeat of a workload is ``probe, ours, probe, theirs, probe``. A fraction of a ceiling uses the
mean of the probes right before and after it, a ratio uses neighbours in time, and only then is the
median taken, so that a machine whose bandwidth changes between repeats does not blur either.
"""

import functools
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from mixtral.bench.contender import (
    Contender,
    TimedRun,
    count_experts_per_step,
    count_operations,
    count_weight_bytes,
)
from mixtral.bench.probes import Prober, Probes
from mixtral.bench.results import Ratio, Result, Spread, Work, peak_rss_bytes
from mixtral.config import ModelConfig
from mixtral.errors import EngineError
from mixtral.model import Transformer

TOLERANCES = {torch.float32: 1e-3, torch.float16: 2e-2, torch.bfloat16: 5e-2}
"""Relative error of the logits that two correct engines stay within, by type of the weights."""
_GATE_PROMPT_TOKENS = 48
_GATE_NEW_TOKENS = 15


@dataclass(frozen=True, kw_only=True, slots=True)
class Workload:
    """What a repeat runs."""

    work: Work
    """prefill or decode."""
    batch: int
    """Prompts at once."""
    prompt_tokens: int
    """Tokens of each."""
    new_tokens: int
    """Timed decode steps; not used by prefill."""

    @property
    def num_decode_steps(self) -> int:
        """Decode steps of a repeat."""
        return self.new_tokens if self.work == "decode" else 0

    def prompts(self, vocab_size: int, seed: int) -> list[list[int]]:
        """Return random prompts; they differ from each other, as the routing of real ones does."""
        generator = random.Random(seed)
        return [
            [generator.randrange(vocab_size) for _ in range(self.prompt_tokens)]
            for _ in range(self.batch)
        ]


CountExperts = Callable[[Sequence[Sequence[int]], Sequence[Sequence[int]]], tuple[float, float]]
"""From prompts and answers to the experts read: in the prefill step, and per decode step."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Subject:
    """What is measured and under which name; holds no weights."""

    config: ModelConfig
    """Geometry."""
    dtype: torch.dtype
    """Type of the weights."""
    name: str
    """As the user named it."""
    threads: int
    """Threads of torch."""
    count_experts: CountExperts
    """Asks the routers of the model; see ``count_experts_per_step``."""
    seed: int = 0
    """Seed of the prompts."""

    @property
    def format(self) -> str:
        """Name of the type."""
        return str(self.dtype).removeprefix("torch.")

    @classmethod
    def of(cls, model: Transformer, *, name: str, seed: int = 0) -> "Subject":
        """Return the subject of a model in memory."""
        return cls(
            config=model.config,
            dtype=model.lm_head.weight.dtype,
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


@dataclass(frozen=True, kw_only=True, slots=True)
class Gate:
    """How far two engines agree, taken before anything is timed."""

    relative_error: float
    """Median over tokens of |ours - theirs| / |theirs| of the logits."""
    tolerance: float
    """The most that passes."""
    num_agreeing_tokens: int
    """Greedy tokens of our decode that the peer finds best too, or within the tolerance of it."""
    num_tokens: int
    """Greedy tokens compared."""

    @property
    def passes(self) -> bool:
        """Whether both engines compute the same model."""
        # Half: a near tie in the router may change any token, a wrong engine changes all.
        agree = 2 * self.num_agreeing_tokens >= self.num_tokens
        return self.relative_error <= self.tolerance and agree


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What an engine says to one prompt, kept so that another can be held against it."""

    engine: str
    """Who answered."""
    prompt: list[int]
    """The prompt."""
    logits: Tensor
    """Logits after each of its tokens, [T, V], float32."""
    token_ids: list[int]
    """Greedy continuation through the engine's cache."""


def record_answer(subject: Subject, contender: Contender, *, max_tokens: int) -> Answer:
    """Ask an engine for logits and a greedy continuation of one prompt.

    Args:
        subject: What is measured.
        contender: The engine.
        max_tokens: Most tokens of prompt and continuation.
    """
    length = max(1, min(_GATE_PROMPT_TOKENS, max_tokens - _GATE_NEW_TOKENS - 1))
    workload = Workload(work="decode", batch=1, prompt_tokens=length, new_tokens=_GATE_NEW_TOKENS)
    prompt = workload.prompts(subject.config.vocab_size, subject.seed)[0]
    return Answer(
        engine=contender.name,
        prompt=prompt,
        logits=contender.logits(prompt),
        token_ids=contender.run([prompt], _GATE_NEW_TOKENS).token_ids[0],
    )


def check_agreement(answer: Answer, other: Contender, dtype: torch.dtype) -> Gate:
    """Compare logits and greedy tokens of two engines: a wrong one has no speed.

    The logits are compared token by token and the median is taken, because two correct engines in
    bfloat16 may send a token with a near tie to different experts. Then the other engine scores
    each token that the first one chose.

    Args:
        answer: What the first engine said.
        other: The second one.
        dtype: Type of the weights; decides how close is close.

    Raises:
        EngineError: They do not agree.
    """
    logits = other.logits(answer.prompt)
    errors = (answer.logits - logits).norm(dim=1) / logits.norm(dim=1)
    tolerance = TOLERANCES[dtype]
    scores = other.logits([*answer.prompt, *answer.token_ids[:-1]])
    scores = scores[len(answer.prompt) - 1 :]  # [new tokens, V]
    chosen = scores.gather(1, torch.tensor(answer.token_ids)[:, None])[:, 0]
    best = scores.amax(1)
    gate = Gate(
        relative_error=float(errors.median()),
        tolerance=tolerance,
        num_agreeing_tokens=int((best - chosen <= tolerance * best.abs()).sum()),
        num_tokens=len(answer.token_ids),
    )
    if not gate.passes:
        raise EngineError(
            f"{answer.engine} and {other.name} disagree: relative error of the logits "
            f"{gate.relative_error:.2e} (at most {tolerance:.0e}), {gate.num_agreeing_tokens} of "
            f"{gate.num_tokens} greedy tokens agree; nothing was timed."
        )
    return gate


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
                Repeat(steps_s=_steps(workload, run), probes=_mean(before, after))
            )
            course.peak_rss_bytes = peak_rss_bytes()
            before = after
            on_repeat()
    num_experts = experts[1 if workload.work == "decode" else 0]
    results = [_result(subject, workload, course, num_experts) for course in courses]
    ratios = [_ratio(workload, courses[0], peer) for peer in courses[1:]]
    return results, ratios


def _steps(workload: Workload, run: TimedRun) -> list[float]:
    return run.decode_s if workload.work == "decode" else [run.prefill_s]


def _median_s(repeat: Repeat) -> float:
    return Spread.of(repeat.steps_s).median


def _mean(first: Probes, second: Probes) -> Probes:
    # The median of two is their mean, and knows what to do with a probe that is not taken.
    return Probes.median([first, second])


def _result(subject: Subject, workload: Workload, course: _Course, num_experts: float) -> Result:
    config, repeats = subject.config, course.repeats
    steps_s = [seconds for repeat in repeats for seconds in repeat.steps_s]
    is_decode = workload.work == "decode"
    new_tokens = 1 if is_decode else workload.prompt_tokens
    weight_bytes = count_weight_bytes(config, num_experts, subject.dtype.itemsize)
    # The mean decode step stands in the middle of the answer.
    context = workload.prompt_tokens + (workload.new_tokens // 2 if is_decode else 0)
    operations = count_operations(
        config, batch=workload.batch, new_tokens=new_tokens, context_tokens=context
    )
    bandwidth = [weight_bytes / _median_s(r) / (r.probes.read_gb_per_s * 1e9) for r in repeats]
    peak = [operations / _median_s(r) / (r.probes.bf16_gflops * 1e9) for r in repeats]
    return Result(
        work=workload.work,
        engine=course.contender.name,
        model=subject.name,
        layers=config.num_hidden_layers,
        format=subject.format,
        batch=workload.batch,
        prompt_tokens=workload.prompt_tokens,
        new_tokens=workload.new_tokens if is_decode else 1,
        threads=subject.threads,
        tokens_per_s=Spread.of([workload.batch * new_tokens / seconds for seconds in steps_s]),
        step_ms=Spread.of([1e3 * seconds for seconds in steps_s]),
        weight_bytes_per_step=weight_bytes,
        bandwidth_fraction=Spread.of(bandwidth).median,
        peak_fraction=Spread.of(peak).median if subject.dtype == torch.bfloat16 else None,
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
        tokens_per_s=Spread.of([_median_s(b) / _median_s(a) for a, b in pairs]),
    )
