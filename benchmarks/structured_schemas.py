"""Run real-world JSON schemas: which hold, which are refused and why, and what it costs.

    python benchmarks/structured_schemas.py FOLDER [--limit 500] [--answers 4] [--processes 2]

FOLDER holds schemas as ``*.json``, in folders of any depth; the published run used the data of
JSONSchemaBench (github.com/guidance-ai/jsonschemabench) and of SchemaStore
(github.com/SchemaStore/schemastore). For each schema that compiles, answers are drawn by lot from
the masks, as a model with random weights would write them, with several ``max_tokens``; each one
whose first closing fits has to be valid under ``jsonschema`` with format assertion, for which
``pip install 'jsonschema[format-nongpl]'`` adds the formats. Violations have to be 0. Writes
benchmarks/results/structured_schemas.json.
"""

import argparse
import json
import random
import re
import sys
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from jsonschema.exceptions import SchemaError
from jsonschema.validators import Draft202012Validator, validator_for

from mixtral.errors import InvalidRequest
from mixtral.structured import Grammar, GrammarCompiler
from mixtral.structured.formats import FORMATS
from mixtral.structured.vocabulary import unpack
from mixtral.tokenizer import load_tokenizer

RESULTS = Path(__file__).resolve().parent / "results" / "structured_schemas.json"
PAGE = Path(__file__).resolve().parents[1] / "docs" / "structured.md"
BEGIN = "<!-- made by benchmarks/structured_schemas.py from its results -->\n"
BUDGETS = ((1.0, 0), (3.0, 100), (1.3, 2), (10.0, 200))
"""max_tokens: how often the first closing, and how many more."""


@dataclass(kw_only=True, slots=True)
class Outcome:
    """What happened to one schema."""

    path: str
    refusal: str | None = None
    keyword: str | None = None
    compile_ms: float = 0.0
    mask_us: list[float] = field(default_factory=list)
    num_answers: int = 0
    num_shortened: int = 0
    num_unfinished: int = 0
    violations: list[str] = field(default_factory=list)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, write, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--limit", type=int, help="how many schemas, drawn by lot; default all")
    parser.add_argument("--answers", type=int, default=4, help="answers per schema")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    paths = sorted(options.folder.rglob("*.json"))
    if options.limit:
        paths = random.Random(0).sample(paths, min(options.limit, len(paths)))
    chunks = [(options.folder, paths[i::64], options.answers) for i in range(64)]
    with ProcessPoolExecutor(options.processes) as pool:
        outcomes: list[Outcome] = []
        for part in pool.map(_run_chunk, chunks):
            outcomes += part
            print(f"{len(outcomes)} of {len(paths)}", file=sys.stderr, flush=True)
    report = _report(outcomes, options.answers)
    options.output.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    if options.output == RESULTS:
        before = PAGE.read_text(encoding="utf-8").partition(BEGIN)[0]
        PAGE.write_text(before + BEGIN + _section(report), encoding="utf-8")
    print(json.dumps({k: v for k, v in report.items() if k != "slowest"}, indent=2))
    return 1 if report["num_violations"] else 0


def _run_chunk(chunk: tuple[Path, list[Path], int]) -> list[Outcome]:
    folder, paths, num_answers = chunk
    tokenizer = load_tokenizer("v3")
    compiler = GrammarCompiler(tokenizer, vocab_size=tokenizer.vocab_size)
    compiler.json_object()
    outcomes = []
    for path in paths:
        try:
            schema = json.loads(path.read_text(encoding="utf-8-sig"))
        except ValueError:
            continue
        outcome = Outcome(path=str(path.relative_to(folder)))
        outcomes.append(outcome)
        start = time.perf_counter()
        try:
            grammar = compiler.json_schema(schema)
        except InvalidRequest as error:
            outcome.refusal = str(error)[:300]
            outcome.keyword = _keyword(outcome.refusal)
        else:
            outcome.compile_ms = (time.perf_counter() - start) * 1e3
            _draw_answers(outcome, grammar, schema, tokenizer, num_answers)
            continue
        outcome.compile_ms = (time.perf_counter() - start) * 1e3
    return outcomes


def _draw_answers(
    outcome: Outcome, grammar: Grammar, schema: Any, tokenizer: Any, num_answers: int
) -> None:
    rng = random.Random(outcome.path)
    cls = validator_for(schema, default=Draft202012Validator)
    validator = cls(schema, format_checker=cls.FORMAT_CHECKER)
    for index in range(num_answers):
        factor, more = BUDGETS[index % len(BUDGETS)]
        max_tokens = max(1, min(2000, int(len(grammar.closing) * factor) + more))
        if len(grammar.closing) > max_tokens:
            outcome.num_unfinished += 1
            continue
        text, was_shortened = _draw(grammar, tokenizer, max_tokens, rng, outcome.mask_us)
        outcome.num_answers += 1
        outcome.num_shortened += was_shortened
        problem = _problem(validator, text)
        if problem:
            outcome.violations.append(f"max_tokens {max_tokens}: {problem}: {text[:1000]}")
            print(outcome.path, outcome.violations[-1][:300], file=sys.stderr, flush=True)


def _draw(
    grammar: Grammar, tokenizer: Any, max_tokens: int, rng: random.Random, mask_us: list[float]
) -> tuple[str, bool]:
    """Write an answer, half of the tokens from all that are allowed, half from single bytes."""
    state = grammar.start()
    single = grammar.tools.vocabulary.words(lambda text: len(text) == 1)
    token_ids: list[int] = []
    while len(token_ids) < max_tokens:
        start = time.perf_counter()
        state.prepare(max_tokens - len(token_ids))
        words = state.mask()
        mask_us.append((time.perf_counter() - start) * 1e6)
        if rng.random() < 0.5 and (words & single).any():
            words = words & single
        token_id = int(rng.choice(np.flatnonzero(unpack(words))))
        if token_id == tokenizer.eos_id:
            break
        state.accept(token_id)
        token_ids.append(token_id)
        if state.is_complete:
            break
    return tokenizer.decode(token_ids), state.was_shortened


def _problem(validator: Any, text: str) -> str | None:
    try:
        error = next(iter(validator.iter_errors(json.loads(text))), None)
    except ValueError as error:
        return f"no JSON ({error})"
    except (SchemaError, re.error) as error:
        return f"the validator failed ({type(error).__name__}: {error})"
    if error is None:
        return None
    if error.validator == "format" and error.validator_value not in FORMATS:
        return None  # an annotation for us, see docs/structured.md
    return f"{error.validator} at {'/'.join(map(str, error.absolute_path))}"


def _keyword(refusal: str) -> str:
    found = re.search(r"the schema's (\S+)|^(\$ref)|(nested deeper|too large|more than)", refusal)
    return next((g for g in found.groups() if g), "other") if found else "other"


def _report(outcomes: list[Outcome], num_answers: int) -> dict[str, Any]:
    held = [outcome for outcome in outcomes if outcome.refusal is None]
    refused = [outcome for outcome in outcomes if outcome.refusal is not None]
    masks = np.array([us for outcome in held for us in outcome.mask_us] or [0.0])
    compile_ms = np.array([outcome.compile_ms for outcome in outcomes] or [0.0])
    return {
        "llguidance": version("llguidance"),
        "jsonschema": version("jsonschema"),
        "num_schemas": len(outcomes),
        "num_held": len(held),
        "num_refused": len(refused),
        "refused_by_keyword": dict(Counter(o.keyword for o in refused).most_common()),
        "num_answers": sum(o.num_answers for o in held),
        "answers_per_schema": num_answers,
        "num_shortened": sum(o.num_shortened for o in held),
        "num_without_room": sum(o.num_unfinished for o in held),
        "num_violations": sum(len(o.violations) for o in held),
        "violations": [f"{o.path}: {v}" for o in held for v in o.violations][:50],
        "compile_ms": {
            name: round(float(np.percentile(compile_ms, q)), 2)
            for name, q in (("p50", 50), ("p90", 90), ("p99", 99), ("max", 100))
        },
        "mask_us": {
            "mean": round(float(masks.mean()), 1),
            "p50": round(float(np.percentile(masks, 50)), 1),
            "p99": round(float(np.percentile(masks, 99)), 1),
            "max": round(float(masks.max()), 1),
            "count": len(masks),
        },
        "slowest": [
            {"path": o.path, "compile_ms": round(o.compile_ms, 1)}
            for o in sorted(outcomes, key=lambda o: -o.compile_ms)[:10]
        ],
        "examples_of_refusals": _examples(refused),
    }


def _section(report: dict[str, Any]) -> str:
    """Return the end of docs/structured.md."""
    compile_ms, mask_us = report["compile_ms"], report["mask_us"]
    times = " / ".join(str(compile_ms[name]) for name in ("p50", "p90", "p99"))
    shortened = f"of them {report['num_shortened']:,} ended by `max_tokens`"
    rows = {
        "schemas of JSONSchemaBench and SchemaStore": f"{report['num_schemas']:,}",
        "held / refused": f"{report['num_held']:,} / {report['num_refused']:,}",
        "answers drawn by lot, as from random weights": f"{report['num_answers']:,}, {shortened}",
        "answers that do not validate": str(report["num_violations"]),
        "compiling, p50 / p90 / p99": f"{times} ms, once per schema",
        "one mask, mean / p99": f"{mask_us['mean']} / {mask_us['p99']} us, beside the model's step",
    }
    table = "".join(f"| {name} | {value} |\n" for name, value in rows.items())
    refused = ", ".join(f"`{k}` {n}" for k, n in report["refused_by_keyword"].items())
    return (
        f"\nllguidance {report['llguidance']}, the v3 vocabulary:\n\n| | |\n|---|---|\n{table}\n"
        f"Refused, by the keyword that the message names: {refused}.\n"
    )


def _examples(refused: list[Outcome]) -> dict[str, list[str]]:
    examples: dict[str, list[str]] = {}
    for outcome in refused:
        known = examples.setdefault(str(outcome.keyword), [])
        if len(known) < 3:
            known.append(f"{outcome.path}: {outcome.refusal}")
    return examples


if __name__ == "__main__":
    sys.exit(main())
