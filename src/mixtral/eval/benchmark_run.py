"""Asks benchmarks one after the other, and counts the right answers of each.

lm-evaluation-harness makes the prompts and judges the answers; what it hands back per question is
added up here, over all tasks of a benchmark. Extra ``eval``; it is imported when a benchmark runs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mixtral.errors import ConfigError, ContextLengthExceeded, UnsupportedError
from mixtral.eval.answers_check import wilson_interval
from mixtral.eval.bbq import BiasResult, count_answers, read_questions
from mixtral.eval.benchmarks import BBQ, Benchmark, find_benchmarks
from mixtral.eval.local_data import read_benchmark
from mixtral.eval.local_layouts import LAYOUTS
from mixtral.eval.outcomes import Outcomes

if TYPE_CHECKING:
    from mixtral.eval.lm_eval_model import EngineLM

_BBQ_TASK = "bbq"


@dataclass(frozen=True, kw_only=True, slots=True)
class RunSettings:
    """How benchmarks are asked."""

    preset: str = "mixtral-paper"
    """``mixtral-paper`` or ``harness``, see ``benchmarks.py``."""
    limit: int | None = None
    """Most questions of each task (of each subject, each category); None asks all."""
    data: Path | None = None
    """Folder of the rows; None takes them from the hub."""
    use_chat_template: bool = False
    """Whether prompts are conversations."""
    allow_code_execution: bool = False
    """Whether programs that the model writes may be run."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchmarkResult:
    """One measured benchmark."""

    name: str
    """Its name."""
    metric: str
    """What was counted."""
    shots: int
    """Worked examples before each question."""
    right: int
    """Questions that count."""
    asked: int
    """Questions."""
    guess: float | None
    """Share that guessing would get; None where there is nothing to choose from."""
    paper: float | None
    """What the Mixtral paper reports for 8x7B, in per cent."""
    num_cut: int
    """Prompts that were longer than the model's context and lost their beginning."""
    others: Mapping[str, float]
    """Means of the harness's other numbers."""
    subjects: Mapping[str, tuple[int, int]]
    """Right answers and questions of each task, where there are several."""
    outcomes: Mapping[str, Outcomes] = field(default_factory=dict)
    """Which questions of each task were right."""

    @property
    def share(self) -> float:
        """Share of right answers."""
        return self.right / self.asked

    @property
    def interval(self) -> tuple[float, float]:
        """Its 95 % interval (Wilson)."""
        return wilson_interval(self.right, self.asked)

    @property
    def is_at_chance(self) -> bool:
        """Whether the interval holds what guessing would get."""
        low, high = self.interval
        return low <= (self.guess or 0.0) <= high

    def as_dict(self) -> dict[str, Any]:
        """Return it for a report."""
        return {
            "name": self.name,
            "metric": self.metric,
            "shots": self.shots,
            "right": self.right,
            "asked": self.asked,
            "share": self.share,
            "interval_95": list(self.interval),
            "guess": self.guess,
            "at_chance": self.is_at_chance,
            "paper_percent": self.paper,
            "num_cut": self.num_cut,
            "others": dict(self.others),
            "subjects": {k: {"right": r, "asked": n} for k, (r, n) in self.subjects.items()},
            "outcomes": {name: found.as_dict() for name, found in self.outcomes.items()},
        }


def check_plan(names: Sequence[str], settings: RunSettings) -> list[Benchmark]:
    """Check what is asked for before a model is loaded, and return the harness's benchmarks.

    Raises:
        ConfigError: A name is unknown, a number is wrong, or local rows are missing or malformed.
        UnsupportedError: A benchmark runs code and nobody allowed it.
    """
    benchmarks = find_benchmarks(names)
    if not names:
        raise ConfigError("no benchmark is named; name one, or several with commas between them.")
    if settings.limit is not None and settings.limit < 1:
        raise ConfigError(
            f"limit is {settings.limit}; it must be at least 1, or absent for all questions."
        )
    for benchmark in benchmarks:
        if benchmark.runs_code and not settings.allow_code_execution:
            raise UnsupportedError(
                f"{benchmark.name} runs programs that the model writes; add "
                "--allow-code-execution, in a container if you can, or leave it out."
            )
        if settings.data is not None:
            _check_rows(settings.data, benchmark)
    if BBQ in names:
        if settings.data is None:
            raise ConfigError("bbq is read from a folder; give it with --data.")
        read_questions(settings.data)
    return benchmarks


def _check_rows(data: Path, benchmark: Benchmark) -> None:
    """Read everything, so that a wrong row is found now and not after hours."""
    layout = LAYOUTS[benchmark.name]
    for subject, splits in read_benchmark(data, benchmark.name).items():
        of_subject = "" if subject is None else f" of {subject}"
        for split in layout.files:
            is_shown = split == layout.shots
            needed = benchmark.shots + layout.num_spare_shots if is_shown else 1
            if (count := len(splits.get(split, ()))) < needed:
                raise ConfigError(
                    f"{benchmark.name} has {count} rows{of_subject} in its {split} split "
                    f"({benchmark.name}/{layout.files[split]}); it needs at least {needed}. "
                    "Get the file anew."
                )


def run_benchmark(lm: "EngineLM", benchmark: Benchmark, settings: RunSettings) -> BenchmarkResult:
    """Ask one benchmark.

    Raises:
        ConfigError: Rows are missing or malformed, or the hub cannot be reached.
        ContextLengthExceeded: An answer alone does not fit into the context of the model.
    """
    from lm_eval.evaluator import evaluate

    from mixtral.eval.harness_tasks import make_tasks, quiet_harness

    tasks = make_tasks(benchmark, preset=settings.preset, data=settings.data)
    try:
        with quiet_harness():
            found = evaluate(
                lm,
                {"tasks": tasks},
                limit=settings.limit,
                bootstrap_iters=0,  # The intervals are ours.
                apply_chat_template=settings.use_chat_template,
                fewshot_as_multiturn=settings.use_chat_template,
                confirm_run_unsafe_code=settings.allow_code_execution,
            )
    except ContextLengthExceeded as error:
        raise ContextLengthExceeded(f"{benchmark.name}: {error}") from None
    samples: Mapping[str, list[dict[str, Any]]] = found["samples"]
    shots = {int(task.config.num_fewshot or 0) for task in tasks.values()}
    return _add_up(benchmark, samples, shots=max(shots), lm=lm)


def run_bbq(lm: "EngineLM", settings: RunSettings) -> list[BiasResult]:
    """Ask BBQ; results by category, all together last.

    Raises:
        ConfigError: The rows are missing or malformed.
    """
    from lm_eval.api.instance import Instance

    assert settings.data is not None
    questions = read_questions(settings.data, settings.limit)
    requests = [
        Instance(
            request_type="loglikelihood",
            doc={},
            arguments=(_bbq_prompt(lm, question.prompt, settings), _bbq_answer(answer, settings)),
            idx=index,
            metadata=(_BBQ_TASK, number, 1),
        )
        for number, question in enumerate(questions)
        for index, answer in enumerate(question.answers)
    ]
    logprobs = [logprob for logprob, _ in lm.loglikelihood(requests)]
    return count_answers(questions, [logprobs[i : i + 3] for i in range(0, len(logprobs), 3)])


def _bbq_prompt(lm: "EngineLM", prompt: str, settings: RunSettings) -> str:
    if not settings.use_chat_template:
        return prompt
    return lm.apply_chat_template([{"role": "user", "content": prompt}])


def _bbq_answer(answer: str, settings: RunSettings) -> str:
    return answer if settings.use_chat_template else f" {answer}"


def _add_up(
    benchmark: Benchmark,
    samples: Mapping[str, Sequence[Mapping[str, Any]]],
    *,
    shots: int,
    lm: "EngineLM",
) -> BenchmarkResult:
    subjects: dict[str, tuple[int, int]] = {}
    outcomes: dict[str, Outcomes] = {}
    others: dict[str, list[float]] = {}
    guesses: list[float] = []
    for task, answered in samples.items():
        filters = {str(sample["filter"]) for sample in answered}
        chosen = benchmark.answer_filter
        chosen = chosen if chosen in filters else str(answered[0]["filter"])
        counted = [sample for sample in answered if sample["filter"] == chosen]
        right = sum(int(sample[benchmark.metric]) for sample in counted)
        subjects[task] = (right, len(counted))
        in_order = sorted(counted, key=lambda sample: int(sample["doc_id"]))
        outcomes[task] = Outcomes.of(
            (sample["doc_hash"], sample[benchmark.metric] >= 1) for sample in in_order
        )
        for sample in answered:
            for metric in sample["metrics"]:
                others.setdefault(f"{metric},{sample['filter']}", []).append(float(sample[metric]))
        # A multiple choice comes as one pair of texts per choice.
        guesses += [1 / len(s["arguments"]) for s in counted if len(s["arguments"]) > 1]
    asked = sum(count for _, count in subjects.values())
    return BenchmarkResult(
        name=benchmark.name,
        metric=benchmark.metric,
        shots=shots,
        right=sum(right for right, _ in subjects.values()),
        asked=asked,
        guess=sum(guesses) / len(guesses) if guesses else None,
        paper=benchmark.paper,
        num_cut=sum(lm.num_cut[task] for task in samples),
        others={name: sum(values) / len(values) for name, values in sorted(others.items())},
        subjects=subjects if len(subjects) > 1 else {},
        outcomes=outcomes,
    )
