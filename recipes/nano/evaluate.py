"""Count right answers on nano's held-out cases.

``python recipes/nano/evaluate.py --model PATH --heldout FILE --json OUT`` asks every case of the
file with greedy decoding. A case is right when the answer equals the expected text ("exact"), is
JSON of the same value with the fields in the same order ("json"), or begins with the expected text
("prefix", for refusals). Nothing is repaired or given partial credit.
"""

import argparse
import json
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mixtral import LLM, SamplingParams
from mixtral.errors import ConfigError, Error

_MAX_TOKENS = 256  # the longest expected answer has about 120


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """One answered case."""

    task: str
    """Name of the task."""
    question: str
    """Last message of the user."""
    expected: str
    """What is right."""
    answer: str
    """What the model said."""
    is_right: bool
    """Whether it counts."""


def main(arguments: list[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Count right answers on held-out cases.")
    parser.add_argument("--model", required=True, help="checkpoint folder, or nano")
    parser.add_argument("--heldout", type=Path, required=True, help="heldout.jsonl of prepare.py")
    parser.add_argument("--json", type=Path, help="file for counts and answers")
    parser.add_argument("--limit", type=int, help="cases per task (default: all)")
    options = parser.parse_args(arguments)
    try:
        cases = read_cases(options.heldout, limit=options.limit)
        results = answer_cases(LLM(options.model), cases)
        report = summarise(results)
        if options.json:
            write_json(options.json, {"model": options.model, **report})
    except Error as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, ConfigError) else 1
    for task, count in report["tasks"].items():
        print(f"{task:12} {count['right']:3} of {count['cases']}")
    return 0


def read_cases(path: Path, *, limit: int | None = None) -> list[dict[str, Any]]:
    """Read the cases, at most so many of each task.

    Raises:
        ConfigError: The file is missing or a line is no case.
    """
    counts: dict[str, int] = {}
    cases = []
    try:
        for line in path.read_text(encoding="utf-8").splitlines():
            case = json.loads(line)
            counts[case["task"]] = counts.get(case["task"], 0) + 1
            if limit is None or counts[case["task"]] <= limit:
                cases.append(case)
    except FileNotFoundError as error:
        raise ConfigError(f"{path} does not exist; run prepare.py first.") from error
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise ConfigError(f"{path} has a line that is no held-out case: {error!r}.") from error
    return cases


def answer_cases(llm: LLM, cases: Iterable[dict[str, Any]]) -> list[Result]:
    """Ask every case."""
    params = SamplingParams(max_tokens=_MAX_TOKENS, temperature=0.0)
    results = []
    for case in cases:
        answer = llm.chat(case["messages"], params).text
        results.append(
            Result(
                task=case["task"],
                question=case["messages"][-1]["content"],
                expected=case["expected"],
                answer=answer,
                is_right=is_right(answer, case["expected"], case["check"]),
            )
        )
    return results


def is_right(answer: str, expected: str, check: str) -> bool:
    """Compare an answer with what is expected; outer white space does not count.

    Raises:
        ConfigError: The check is unknown.
    """
    answer = answer.strip()
    if check == "exact":
        return answer == expected.strip()
    if check == "prefix":
        return answer.startswith(expected)
    if check == "json":
        try:
            found, wanted = json.loads(answer), json.loads(expected)
        except json.JSONDecodeError:
            return False
        return json.dumps(found) == json.dumps(wanted)
    raise ConfigError(f"check is {check!r}; it must be exact, json or prefix.")


def summarise(results: list[Result]) -> dict[str, Any]:
    """Count right answers per task, and keep every answer beside its question."""
    tasks: dict[str, dict[str, int]] = {}
    for result in results:
        count = tasks.setdefault(result.task, {"right": 0, "cases": 0})
        count["right"] += result.is_right
        count["cases"] += 1
    answers = [
        {
            "task": result.task,
            "question": result.question,
            "expected": result.expected,
            "answer": result.answer,
            "right": result.is_right,
        }
        for result in results
    ]
    return {"tasks": tasks, "answers": answers}


def write_json(path: Path, report: dict[str, Any]) -> None:
    """Write a report under a temporary name, then rename it."""
    temporary = path.with_name(path.name + ".part")
    temporary.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    temporary.replace(path)


if __name__ == "__main__":
    sys.exit(main())
