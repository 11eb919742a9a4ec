"""Reads the reports of earlier runs into scores that can stand side by side.

A score knows the conditions under which it means something: two numbers of one name with other
shots, other texts or another way of cutting them are different measurements. What an older or
shorter run did not record is None here; nothing is guessed.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from mixtral.errors import ConfigError
from mixtral.eval.answers_check import wilson_interval
from mixtral.eval.chance import chance_verdict
from mixtral.eval.outcomes import Outcomes
from mixtral.reports.folder import RESULTS_FILE

TARGETS = "ids of the scored tokens"
"""Condition that says more than those below it, where both runs recorded it: a hash."""
CHOICE_OF_TARGETS = ("longest context", "tokenizer")
"""Conditions that decide which tokens are scored, in reports of any version."""

Measure = Literal["share", "perplexity", "bias"]

_Z = 1.959964  # half of a 95 % interval, in standard errors
_CARD_CONDITIONS = ("limit", "cases_sha256")
_BENCHMARK_CONDITIONS = ("preset", "limit", "chat_template")
_PASSKEY_CONDITIONS = ("prompt", "filler", "filler_sha256", "seed")


@dataclass(frozen=True, kw_only=True, slots=True)
class Score:
    """One number of one run."""

    task: str
    """What was asked; scores of one name are compared."""
    measure: Measure
    """share: of right answers; perplexity: lower is better; bias: neither sign is better."""
    value: float
    """The number."""
    error: float | None
    """Its standard error; None where the run does not tell."""
    count: int
    """Questions, or scored tokens."""
    conditions: Mapping[str, Any]
    """What must be equal for a comparison, by names for people."""
    guess: float | None = None
    """Share that guessing gets; None where there is nothing to choose from."""
    outcomes: Outcomes | None = None
    """Which questions were right."""
    documents: Mapping[int, tuple[int, float]] = field(default_factory=dict)
    """Of a perplexity: tokens and summed loss (nats) by place of the document among the texts."""

    @property
    def verdict(self) -> str:
        """At chance, none right, or nothing."""
        if self.measure != "share":
            return ""
        return chance_verdict(
            wilson_interval(round(self.value * self.count), self.count), self.guess
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """What one report says."""

    name: str
    """Of its folder."""
    kind: str
    """What was measured."""
    model: str
    """Name of the model."""
    weights: Mapping[str, Any]
    """Parameters, bytes, format; empty where they were not recorded."""
    speed: Mapping[str, Any]
    """Tokens per second and how they were taken; empty where they were not recorded."""
    scores: Mapping[str, Score]
    """By task, in the order of the report."""


def read_runs(paths: Sequence[Path]) -> list[Run]:
    """Read reports, each a folder or its results.json.

    Raises:
        ConfigError: A report is not there, is damaged, is of another kind, or is named twice.
    """
    files = [results_file(path) for path in paths]
    if len({file.resolve() for file in files}) < len(files):
        raise ConfigError("a run is named twice; name each once.")
    names = [_name(file) for file in files]
    return [
        _read(file, str(file.parent) if names.count(name) > 1 else name)
        for file, name in zip(files, names, strict=True)
    ]


def results_file(path: Path) -> Path:
    """Return the file of results that a path names, itself or the one in the folder."""
    return path / RESULTS_FILE if path.is_dir() else path


def _name(file: Path) -> str:
    return file.resolve().parent.name if file.name == RESULTS_FILE else file.stem


def _read(file: Path, name: str) -> Run:
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(
            f"{file} is not there; name a folder that mixtral eval, passkey or perplexity wrote."
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{file} is no file of results; name another one.") from error
    kind = values.get("kind") if isinstance(values, dict) else None
    if not isinstance(kind, str) or kind not in _READERS:
        raise ConfigError(
            f"{file} holds {kind or 'no kind of report'}; what can be compared is "
            f"{', '.join(_READERS)}. Measure again if an earlier version wrote it."
        )
    try:
        return Run(
            name=name,
            kind=kind,
            model=values["settings"]["model"]["name"],
            weights=values.get("weights") or {},
            speed=values.get("speed") or {},
            scores={score.task: score for score in _READERS[kind](values)},
        )
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise ConfigError(
            f"{file} is damaged or of another version ({error!r}); measure again."
        ) from error


def _benchmarks(values: Mapping[str, Any]) -> Iterator[Score]:
    settings = values["settings"]
    shared = {name: settings[name] for name in _BENCHMARK_CONDITIONS}
    for found in values["benchmarks"]:
        parts = {name: Outcomes(**each) for name, each in found.get("outcomes", {}).items()}
        yield _share(
            found["name"],
            found["right"],
            found["asked"],
            conditions={
                **shared,
                "shots": found["shots"],
                "metric": found["metric"],
                "lm-eval": settings["lm_eval"],
                "data": _data(settings, found["name"]),
            },
            guess=found["guess"],
            outcomes=Outcomes.join(parts),
        )
    for found in values["bbq"][-1:]:  # all categories together
        yield from _bias_scores(found, {**shared, "data": _data(settings, "bbq")})


def _bias_scores(found: Mapping[str, Any], conditions: Mapping[str, Any]) -> Iterator[Score]:
    for context in ("ambiguous", "disambiguated"):
        asked = found[f"{context}_asked"]
        if not asked:
            continue
        outcomes = found[f"{context}_outcomes"]
        yield _share(
            f"bbq, {context}",
            round(found[f"{context}_accuracy"] * asked),
            asked,
            conditions=conditions,
            guess=1 / 3,
            outcomes=outcomes and Outcomes(**outcomes),
        )
        bounds = found[f"{context}_bias_interval_95"]
        if found[f"{context}_bias"] is not None:
            yield Score(
                task=f"bbq, {context}: bias",
                measure="bias",
                value=found[f"{context}_bias"],
                error=bounds and (bounds[1] - bounds[0]) / (2 * _Z),
                count=asked,
                conditions=conditions,
            )


def _card(values: Mapping[str, Any]) -> Iterator[Score]:
    conditions = {name: values["settings"][name] for name in _CARD_CONDITIONS}
    for row in values["rows"]:
        answers = [each for each in values["answers"] if each["task"] == row["task"]]
        asked = (([each["question"], each["expected"]], each["right"]) for each in answers)
        if row["cases"]:
            yield _share(
                row["task"],
                row["right"],
                row["cases"],
                conditions={**conditions, "cases that do not fit": row["too_long"]},
                outcomes=Outcomes.of(asked),
            )
    found = values["preferences"]
    if found and found["pairs"]:
        right, pairs = found["right"], found["pairs"]
        yield _share("preferences", right, pairs, conditions=conditions, guess=found["guess"])
    for found in values["perplexities"]:
        if found["perplexity"] is not None:
            yield Score(
                task=f"novels, context {found['context']:,}",
                measure="perplexity",
                value=found["perplexity"],
                error=None,
                count=found["num_tokens"],
                conditions=conditions,
            )


def _passkey(values: Mapping[str, Any]) -> Iterator[Score]:
    shared = {name: values["settings"][name] for name in _PASSKEY_CONDITIONS}
    shared |= {"depths": values["plan"]["depths"], "cases": values["plan"]["cases"]}
    for cell in values["lengths"]:
        trials = [trial for trial in values["trials"] if trial["length"] == cell["length"]]
        trials.sort(key=lambda trial: (trial["depth"], trial["case"]))
        asked = (([each["depth"], each["case"], each["key"]], each["is_right"]) for each in trials)
        if cell["cases"]:
            yield _share(
                f"passkey, {cell['length']:,} tokens",
                cell["right"],
                cell["cases"],
                conditions=shared,
                outcomes=Outcomes.of(asked),
            )


def _perplexity(values: Mapping[str, Any]) -> Iterator[Score]:
    settings = values["settings"]
    if "points" in values:
        yield from _curve(values)
        return
    context, stride = settings["context"], settings["stride"]
    cut = "whole documents" if context is None else f"windows of {context:,}"
    yield Score(
        task=f"perplexity, {cut}" + ("" if stride is None else f" every {stride:,}"),
        measure="perplexity",
        value=values["perplexity"],
        error=values["standard_error"],
        count=values["tokens"],
        conditions={"tokens": values["tokens"], **_targets(values)},
        # Not by name: the same texts may lie in another folder.
        documents={
            place: (each["tokens"], each["tokens"] * math.log(each["perplexity"]))
            for place, each in enumerate(values["documents"])
            if each["perplexity"] is not None
        },
    )


def _curve(values: Mapping[str, Any]) -> Iterator[Score]:
    conditions = {
        "seed": values["settings"]["seed"],
        "windows": values["num_windows"],
        "scored tokens": values["num_scored"],
        "longest context": max(values["settings"]["by_context"]),
        **_targets(values),
    }
    for point in values["points"]:
        spread = math.log(point["high"] / point["low"]) / (2 * _Z)
        yield Score(
            task=f"perplexity, context {point['context']:,}",
            measure="perplexity",
            value=point["perplexity"],
            error=point["perplexity"] * spread,
            count=values["num_windows"] * values["num_scored"],
            conditions=conditions,
        )


def _targets(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return what tells whether two runs scored the same tokens."""
    settings = values["settings"]
    return {
        "texts": settings["texts_sha256"],
        "tokenizer": settings["model"].get("tokenizer"),
        TARGETS: values.get("targets_sha256"),
    }


def _share(
    task: str,
    right: int,
    asked: int,
    *,
    conditions: Mapping[str, Any],
    guess: float | None = None,
    outcomes: Outcomes | None = None,
) -> Score:
    low, high = wilson_interval(right, asked)
    return Score(
        task=task,
        measure="share",
        value=right / asked,
        # Not the textbook's, which is 0 where every answer is right or wrong.
        error=(high - low) / (2 * _Z),
        count=asked,
        conditions=conditions,
        guess=guess,
        outcomes=outcomes,
    )


def _data(settings: Mapping[str, Any], name: str) -> dict[str, str]:
    hashes: Mapping[str, str] = settings["data_sha256"]
    return {file: value for file, value in hashes.items() if Path(file).parts[0] == name}


_READERS = {
    "benchmarks": _benchmarks,
    "nano-card": _card,
    "passkey": _passkey,
    "perplexity": _perplexity,
}
