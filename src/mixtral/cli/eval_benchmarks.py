"""``mixtral eval mmlu,hellaswag,...``: benchmarks as the Mixtral paper asks them, and BBQ.

The table goes to standard output; ``--out`` writes a folder, in which a killed run goes on.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mixtral.cli.console import spinner
from mixtral.cli.measuring import (
    JsonOption,
    OutOption,
    SeedOption,
    check_out,
    describe,
    give_report,
    lock_out,
    model_title,
    progress_bar,
    record_cost,
)
from mixtral.cli.options import AdapterOption, ModelOptions, named_adapter
from mixtral.errors import ConfigError, UnsupportedError

if TYPE_CHECKING:
    from mixtral.eval.answer_cache import AnswerCache
    from mixtral.eval.benchmark_report import BenchmarkReport
    from mixtral.eval.benchmark_run import RunSettings
    from mixtral.eval.benchmarks import Benchmark
    from mixtral.llm import LLM
    from mixtral.reports.report import Report

EXAMPLES = """Examples:
  mixtral eval mmlu,hellaswag --model nano --limit 100 --data eval-data --out results
  mixtral eval gsm8k,bbq --model mistralai/Mixtral-8x7B-v0.1 -q int4 --data eval-data
  mixtral eval humaneval,mbpp --allow-code-execution"""

_ANSWERS_FILE = "answers.jsonl"


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskOptions:
    """How the benchmarks are asked."""

    preset: Annotated[
        str,
        typer.Option(
            "--preset",
            help="mixtral-paper: shots and votes of the paper; harness: lm-evaluation-harness's.",
        ),
    ] = "mixtral-paper"
    limit: Annotated[
        int | None,
        typer.Option("--limit", help="Questions of each task or subject; without it, all."),
    ] = None
    data: Annotated[
        Path | None,
        typer.Option(
            "--data",
            metavar="FOLDER",
            help="Rows from here; without it, from the Hugging Face hub.",
        ),
    ] = None
    chat_template: Annotated[
        bool, typer.Option("--chat-template", help="Ask in conversations, for instruction models.")
    ] = False
    allow_code_execution: Annotated[
        bool,
        typer.Option("--allow-code-execution", help="Run the programs that the model writes."),
    ] = False

    def settings(self) -> "RunSettings":
        """Return them as the run knows them.

        Raises:
            ConfigError: There is no such preset.
        """
        from mixtral.eval.benchmark_run import RunSettings
        from mixtral.eval.benchmarks import PRESETS

        if self.preset not in PRESETS:
            raise ConfigError(f"preset is {self.preset!r}; it must be {' or '.join(PRESETS)}.")
        return RunSettings(
            preset=self.preset,
            limit=self.limit,
            data=self.data,
            use_chat_template=self.chat_template,
            allow_code_execution=self.allow_code_execution,
        )


def benchmarks(
    model: ModelOptions,
    tasks: Annotated[
        str, typer.Argument(metavar="TASKS", help="Names with commas between them, bbq included.")
    ],
    how: TaskOptions,
    adapter: AdapterOption = None,
    batch: Annotated[int, typer.Option("--batch", help="Sequences that run at one time.")] = 64,
    seed: SeedOption = 0,
    out: OutOption = None,
    as_json: JsonOption = False,
) -> None:
    """Ask benchmarks, and count the right answers with 95 % intervals.

    lm-evaluation-harness writes the prompts and judges; docs/evaluation.md says what is needed.
    """
    with spinner("starting"):
        from mixtral.eval.benchmark_run import check_plan

    settings = how.settings()
    if batch < 1:
        raise ConfigError(f"batch is {batch}; it must be at least 1.")
    names = [name.strip() for name in tasks.split(",") if name.strip()]
    plan = check_plan(names, settings)
    check_out(out, kind="benchmarks")
    harness = _harness_version()
    lock = lock_out(out)
    llm = model.load(max_num_seqs=batch, adapters=named_adapter(adapter))
    asked_of = {
        "model": describe(model, adapter=adapter),
        "context": llm.max_model_len,
        "seed": seed,
    }
    described = {**_describe(settings, names), **asked_of, "batch": batch, "lm_eval": harness}
    with _cache(out, asked_of) as cache:
        report = _measure(llm, plan, names, settings, cache=cache, seed=seed, described=described)
    cost = record_cost(llm, is_kept=as_json or out is not None)
    title = model_title(model, adapter=adapter)
    give_report(_whole_report(report, cost, title=title), out=out, as_json=as_json)
    del lock  # Held until everything is written.


def _measure(
    llm: "LLM",
    plan: "Sequence[Benchmark]",
    names: Sequence[str],
    settings: "RunSettings",
    *,
    cache: "AnswerCache",
    seed: int,
    described: dict[str, Any],
) -> "BenchmarkReport":
    from mixtral.eval.benchmark_report import BenchmarkReport
    from mixtral.eval.benchmark_run import run_bbq, run_benchmark
    from mixtral.eval.benchmarks import BBQ
    from mixtral.eval.lm_eval_model import EngineLM

    adapter = next(iter(llm.requests.adapters), None)
    results = []
    bias = []
    for benchmark in plan:
        with progress_bar(benchmark.name) as show:
            lm = EngineLM(llm, cache=cache, seed=seed, adapter=adapter, progress=show)
            results.append(run_benchmark(lm, benchmark, settings))
    if BBQ in names:
        with progress_bar(BBQ) as show:
            lm = EngineLM(llm, cache=cache, seed=seed, adapter=adapter, progress=show)
            bias = run_bbq(lm, settings)
    return BenchmarkReport(settings=described, results=results, bias=bias)


def _whole_report(report: "BenchmarkReport", cost: dict[str, Any], *, title: str) -> "Report":
    from mixtral.eval.benchmark_report import shares_picture
    from mixtral.reports.report import Report, new_head

    return Report(
        head=new_head("benchmarks", report.settings),
        title=f"Benchmarks: {title}",
        results={**cost, **report.as_dict()},
        blocks=report.blocks(),
        pictures=[shares_picture(report, title=title)] if report.results else [],
    )


def _harness_version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("lm-eval")
    except PackageNotFoundError:
        raise UnsupportedError(
            "benchmarks need lm-evaluation-harness: pip install 'mixtral[eval]'."
        ) from None


def _cache(out: Path | None, asked_of: dict[str, Any]) -> "AnswerCache":
    from mixtral.eval.answer_cache import AnswerCache

    return AnswerCache(None if out is None else out / _ANSWERS_FILE, asked_of)


def _describe(settings: "RunSettings", names: Sequence[str]) -> dict[str, Any]:
    """Return settings and hashes of the data as JSON values."""
    from mixtral.reports.provenance import hash_files

    hashes = {}
    if settings.data is not None:
        files = (path for name in names for path in (settings.data / name).glob("*.jsonl*"))
        hashes = hash_files(sorted(files), below=settings.data)
    return {
        "tasks": list(names),
        "preset": settings.preset,
        "limit": settings.limit,
        "chat_template": settings.use_chat_template,
        "data_sha256": hashes,
    }
