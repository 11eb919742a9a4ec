"""Makes lm-evaluation-harness's own tasks, asked as ``benchmarks.py`` says and fed from a folder.

A task is read from the harness's YAML. Changed are the shots and settings of the preset, where the
rows come from, and for programs how they are judged: the harness would run them in this process.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

import lm_eval
import lm_eval.api.task as harness
from datasets import Dataset
from datasets.utils import (
    are_progress_bars_disabled,
    disable_progress_bars,
    enable_progress_bars,
)
from lm_eval.api.task import ConfigurableTask
from lm_eval.tasks._yaml_loader import load_yaml

from mixtral.errors import ConfigError
from mixtral.eval.benchmarks import Benchmark
from mixtral.eval.code_trial import runs_through
from mixtral.eval.local_data import read_benchmark
from mixtral.eval.local_layouts import LAYOUTS, Row

_SPLITS = ("training_split", "validation_split", "test_split", "fewshot_split")
_FEWSHOT_SEED = 1234  # the harness's own


def make_tasks(
    benchmark: Benchmark, *, preset: str, data: Path | None
) -> dict[str, ConfigurableTask]:
    """Return the tasks of a benchmark by name, in the harness's order.

    Args:
        benchmark: Which one.
        preset: ``mixtral-paper`` or ``harness``.
        data: Folder of all benchmarks' rows; None takes them from the hub.

    Raises:
        ConfigError: Rows are missing or malformed, or the hub cannot be reached.
    """
    folder = Path(lm_eval.__file__).parent / "tasks"
    rows = None if data is None else read_benchmark(data, benchmark.name)
    tasks = {}
    subjects = set()
    for path in sorted(folder.glob(benchmark.tasks)):
        # Functions of tasks that run code are not even imported: that alone would run some.
        config = load_yaml(path, resolve_func=not benchmark.runs_code)
        # Programs are always asked for as in the paper: the harness's shots are code, too.
        if preset == "mixtral-paper" or benchmark.runs_code:
            _ask_as_the_paper(config, benchmark)
        config["num_fewshot"] = config.get("num_fewshot") or 0
        subjects.add(config.get("dataset_name"))
        if benchmark.runs_code:
            _judge_by_running(config, benchmark)
        if rows is not None:
            _take_rows(config, benchmark, rows)
        task = _make_task(config, benchmark)
        task.set_fewshot_seed(_FEWSHOT_SEED)
        tasks[config["task"]] = task
    assert tasks, benchmark
    # A pattern stands for every subject; one name is a choice of the caller.
    if "*" in benchmark.tasks and (unknown := set(rows or ()) - subjects - {None}):
        raise ConfigError(
            f"{benchmark.name} has rows of {min(map(str, unknown))}, which is none of its "
            f"subjects; they are {', '.join(sorted(map(str, subjects)))}. Correct or remove them."
        )
    return tasks


@contextmanager
def quiet_harness() -> Iterator[None]:
    """Keep the harness from drawing progress bars and telling of its defaults; errors come through.

    The module's bar is put aside because it has no switch.
    """
    logger = logging.getLogger("lm_eval")
    level, bar = logger.level, harness.tqdm
    had_bars = not are_progress_bars_disabled()
    logger.setLevel(logging.ERROR)
    disable_progress_bars()
    harness.tqdm = lambda rows, **settings: rows
    try:
        yield
    finally:
        logger.setLevel(level)
        harness.tqdm = bar
        if had_bars:
            enable_progress_bars()


def _make_task(config: Mapping[str, Any], benchmark: Benchmark) -> ConfigurableTask:
    unwanted = ("tag", "group", "task_list")
    try:
        with quiet_harness():
            return ConfigurableTask(config={k: v for k, v in config.items() if k not in unwanted})
    except (OSError, ValueError) as error:
        if "custom_dataset" in config:
            raise
        raise ConfigError(
            f"{benchmark.name} could not be read from the hub ({LAYOUTS[benchmark.name].hub}): "
            f"{type(error).__name__}. Give its rows with --data, or look at the network."
        ) from None


def _ask_as_the_paper(config: dict[str, Any], benchmark: Benchmark) -> None:
    config["num_fewshot"] = benchmark.shots
    config.update(deepcopy(dict(benchmark.changes)))  # The harness changes what it is given.
    if benchmark.generation:
        config["generation_kwargs"] = {**config["generation_kwargs"], **benchmark.generation}
    if benchmark.name == "hendrycks_math":
        vote = [
            {"function": "custom", "filter_fn": _math_answers},
            {"function": "majority_vote"},
            {"function": "take_first"},
        ]
        config["filter_list"] = [{"name": benchmark.answer_filter, "filter": vote}]


def _math_answers(
    resps: Sequence[Sequence[str]], docs: Sequence[Mapping[str, Any]]
) -> list[list[str]]:
    """Return what is voted on: the text between the first and the last dollar, as in the task."""
    return [[_between_dollars(text) for text in texts] for texts in resps]


def _between_dollars(text: str) -> str:
    first, last = text.find("$"), text.rfind("$")
    return text[first + 1 : last] if first < last else text.strip()


def _judge_by_running(config: dict[str, Any], benchmark: Benchmark) -> None:
    make = {"humaneval": _humaneval_program, "mbpp": _mbpp_program}[benchmark.name]

    def judge(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
        return {"pass@1": float(runs_through(make(doc, results[0])))}

    config["process_results"] = judge
    config["metric_list"] = [{"metric": "pass@1", "aggregation": "mean", "higher_is_better": True}]
    config["filter_list"] = None


def _humaneval_program(doc: Mapping[str, Any], answer: str) -> str:
    return f"{doc['prompt']}{answer}\n{doc['test']}\ncheck({doc['entry_point']})\n"


def _mbpp_program(doc: Mapping[str, Any], answer: str) -> str:
    lines = [*(doc.get("test_imports") or []), answer, *doc["test_list"]]
    return "\n".join(lines) + "\n"


def _take_rows(
    config: dict[str, Any],
    benchmark: Benchmark,
    rows: Mapping[str | None, Mapping[str, list[Row]]],
) -> None:
    layout = LAYOUTS[benchmark.name]
    for key in _SPLITS:
        if config.get(key) not in layout.files:
            config[key] = None
    subject = config["dataset_name"] if layout.subject is not None else None
    splits = rows.get(subject, {})
    if missing := [split for split in layout.files if split not in splits]:
        raise ConfigError(
            f"{benchmark.name} has no row of {subject} in its {missing[0]} split; get the file "
            "anew."
        )

    def as_datasets(**settings: Any) -> dict[str, Dataset]:
        return {split: Dataset.from_list(found) for split, found in splits.items()}

    config["custom_dataset"] = as_datasets
