"""Put a trained nano into the package, with its card and curves; no number is typed.

``python recipes/nano/release.py --runs runs/nano --evaluation EVALUATION.json``
copies the fine-tuned weights to src/mixtral/models/nano, the logs and loss curves to
recipes/nano/results, and writes the card from the logs, the recipes and the evaluation;
``card.md`` is its template.
"""

import argparse
import json
import shutil
import sys
import tomllib
from pathlib import Path
from typing import Any

from mixtral.config import ModelConfig, load_json
from mixtral.errors import Error
from mixtral.tokenizer.files import built_in_file
from mixtral.train.plot import plot_log

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
PACKAGE = HERE.parents[1] / "src" / "mixtral" / "models" / "nano"
STAGES = ("pretrain", "sft")
# What each task asks; the counts come from the evaluation.
TASKS = {
    "json": "a record as lines, list or sentence -> JSON with exactly these fields and values",
    "fewshot": "two or three examples of a format, then a new input -> the format applied",
    "reading": "a short paragraph of made-up facts and a question -> the words that answer it",
    "arithmetic": "sums and differences of numbers with up to three digits",
    "words": "reverse, sort, count, pick or repeat given words",
    "talk": "greetings, questions about nano, a few facts, in new wordings",
    "code": "a request in new wording -> a small Python function that it knows",
    "safe": "a request to be mean -> a polite refusal",
}


def main(arguments: list[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Put a trained nano into the package.")
    parser.add_argument("--runs", type=Path, required=True, help="folder with pretrain and sft")
    parser.add_argument("--evaluation", type=Path, required=True, help="JSON of evaluate.py")
    options = parser.parse_args(arguments)
    try:
        release(options.runs, load_json(options.evaluation))
    except (Error, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def release(runs: Path, evaluation: dict[str, Any]) -> None:
    """Copy weights, logs and curves, and write the card."""
    RESULTS.mkdir(exist_ok=True)
    PACKAGE.mkdir(parents=True, exist_ok=True)
    for stage in STAGES:
        shutil.copyfile(runs / stage / "log.jsonl", RESULTS / f"{stage}_log.jsonl")
        plot_log(runs / stage / "log.jsonl", RESULTS / f"{stage}_loss.png")
    for name in ("config.json", "model.safetensors"):
        shutil.copyfile(runs / "sft" / "model" / name, PACKAGE / name)
    shutil.copyfile(built_in_file("v3"), PACKAGE / "tokenizer.model.v3")
    (PACKAGE / "README.md").write_text(card(evaluation), encoding="utf-8")


def card(evaluation: dict[str, Any]) -> str:
    """Return the model card."""
    config = ModelConfig.from_hf(load_json(PACKAGE / "config.json"))
    size = (PACKAGE / "model.safetensors").stat().st_size
    stages = "\n".join(_stage_row(stage) for stage in STAGES)
    tasks = "\n".join(
        f"| {task} | {TASKS[task]} | {count['right']} of {count['cases']} |"
        for task, count in evaluation["tasks"].items()
    )
    return (
        (HERE / "card.md")
        .read_text(encoding="utf-8")
        .format(
            total=f"{config.num_parameters / 1e6:.1f}",
            active=f"{config.num_active_parameters / 1e6:.1f}",
            layers=config.num_hidden_layers,
            width=config.hidden_size,
            experts=config.num_local_experts,
            chosen=config.num_experts_per_tok,
            context=f"{config.max_position_embeddings:,}",
            megabytes=f"{size / 1e6:.1f}",
            dtype=config.dtype,
            tasks=tasks,
            stages=stages,
        )
    )


def _stage_row(stage: str) -> str:
    recipe = tomllib.loads((HERE / f"{stage}.toml").read_text(encoding="utf-8"))
    lines = (RESULTS / f"{stage}_log.jsonl").read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    last = [record["loss"] for record in records[-20:]]
    held_out = [r["valid_loss"] for r in records if r["valid_loss"] is not None][-1]
    tokens = recipe["max_steps"] * recipe["tokens_per_step"]
    return (
        f"| {stage} | {recipe['max_steps']:,} | {tokens / 1e6:.1f} M "
        f"| {sum(last) / len(last):.2f} | {held_out:.2f} |"
    )


if __name__ == "__main__":
    sys.exit(main())
