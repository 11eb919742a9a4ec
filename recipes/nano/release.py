"""Put a trained nano into the package, with its card and curves; no number is typed.

``python recipes/nano/release.py --runs runs/nano --card CARD --card-before CARD_SFT``
copies the weights of the last stage to src/mixtral/models/nano, the logs and loss curves to
recipes/nano/results, and writes the card from the logs, the recipes and what
``mixtral eval nano-card --out CARD`` has written of the last stage and of the one before preference
training; ``card.md`` is its template.
"""

import argparse
import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mixtral.bench.results import write_json
from mixtral.config import ModelConfig, load_json
from mixtral.errors import Error
from mixtral.tokenizer.files import built_in_file
from mixtral.train.plot import plot_run

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
PACKAGE = HERE.parents[1] / "src" / "mixtral" / "models" / "nano"
STAGES = (
    "pretrain",
    "sft",
    "sft_long",
    "sft_more",
    "sft_last",
    "sft_all",
    "sft_end",
    "sft_marks",
    "sft_texts",
    "sft_open",
    "sft_novels",
    "dpo",
    "sft_again",
    "sft_final",
    "sft_pages",
    "sft_far",
    "dpo_again",
)
PICTURES = ("card.png", "perplexity.png")
PREFERENCE_GOAL, MOST_LOST = 15, 1  # points


def main(arguments: list[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Put a trained nano into the package.")
    parser.add_argument("--runs", type=Path, required=True, help="folder with one run per stage")
    parser.add_argument("--card", type=Path, required=True, help="folder of mixtral eval nano-card")
    parser.add_argument(
        "--card-before", type=Path, required=True, help="the same of the stage before dpo"
    )
    options = parser.parse_args(arguments)
    try:
        release(options.runs, options.card, options.card_before)
    except (Error, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def release(runs: Path, card_folder: Path, before_folder: Path) -> None:
    """Copy weights, logs, curves and measurements, and write the card."""
    stages = [stage for stage in STAGES if (runs / stage / "log.jsonl").exists()]
    if not stages:
        raise FileNotFoundError(f"{runs} holds no run of {', '.join(STAGES)}.")
    RESULTS.mkdir(exist_ok=True)
    PACKAGE.mkdir(parents=True, exist_ok=True)
    for stage in stages:
        shutil.copyfile(runs / stage / "log.jsonl", _log_of(stage))
        for picture in plot_run(runs / stage / "log.jsonl"):
            shutil.copyfile(picture, RESULTS / f"{stage}_{picture.name}")
    shutil.copyfile(card_folder / "results.json", RESULTS / "card.json")
    before, after = (load_json(f / "results.json") for f in (before_folder, card_folder))
    # The answers of the stage before are of no use to anyone, and long.
    kept = {key: value for key, value in before.items() if key != "answers"}
    write_json(RESULTS / "card_before_dpo.json", kept)
    for name in PICTURES:
        shutil.copyfile(card_folder / name, RESULTS / name)
    for name in ("config.json", "model.safetensors"):
        shutil.copyfile(runs / stages[-1] / "model" / name, PACKAGE / name)
    shutil.copyfile(built_in_file("v3"), PACKAGE / "tokenizer.model.v3")
    table = (card_folder / "report.md").read_text(encoding="utf-8")
    # Stages that were run before, elsewhere, have their logs in the results already.
    known = [stage for stage in STAGES if _log_of(stage).exists()]
    (PACKAGE / "README.md").write_text(
        card(table, preference_table(before, after), known), encoding="utf-8"
    )


def preference_table(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    """Say what preference training changed.

    Args:
        before: ``results.json`` of the stage before it.
        after: That of its result.
    """
    first, last = (100 * found["preferences"]["share"] for found in (before, after))
    gained = round(last - first, 3)
    verdict = "met" if gained >= PREFERENCE_GOAL else "missed"
    lines = [
        "Of two answers to a held-out question the better one is likelier in "
        f"{first:.1f} % of the pairs before preference training and in {last:.1f} % after it: "
        f"{gained:+.1f} points, goal +{PREFERENCE_GOAL}, {verdict}.",
        "",
        "| task | right before | right after |",
        "|---|--:|--:|",
    ]
    was = {row["task"]: row for row in before["rows"]}
    lost = {}
    for row in after["rows"]:
        cells = [f"{one['right']} of {one['cases']}" for one in (was[row["task"]], row)]
        lines.append(f"| {row['task']} | {' | '.join(cells)} |")
        if row["goal"] is not None:
            lost[row["task"]] = round(100 * (was[row["task"]]["share"] - row["share"]), 3)
    worst = max(lost, key=lambda task: lost[task])
    verdict = "met" if lost[worst] <= MOST_LOST else "missed"
    lines += [
        "",
        f"No row with a goal may lose more than {MOST_LOST} point; the most is "
        f"{max(0, lost[worst]):.0f}{f' ({worst})' if lost[worst] > 0 else ''}: {verdict}.",
    ]
    return "\n".join(lines)


def card(table: str, preferences: str, stages: Sequence[str]) -> str:
    """Return the model card.

    Args:
        table: ``report.md`` of the evaluation, rows and perplexities.
        preferences: What preference training changed.
        stages: The stages that were run, in order.
    """
    config = ModelConfig.from_hf(load_json(PACKAGE / "config.json"))
    size = (PACKAGE / "model.safetensors").stat().st_size
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
            table=table.strip(),
            preferences=preferences,
            stages="\n".join(_stage_row(stage) for stage in stages),
        )
    )


def _log_of(stage: str) -> Path:
    return RESULTS / f"{stage}_log.jsonl"


def _stage_row(stage: str) -> str:
    lines = _log_of(stage).read_text(encoding="utf-8").splitlines()
    records: list[dict[str, Any]] = [json.loads(line) for line in lines]
    losses = [record["loss"] for record in records if record.get("loss") is not None][-20:]
    held_out = [r["valid_loss"] for r in records if r.get("valid_loss") is not None]
    steps = records[-1]["step"] + 1
    # Not every step is logged; those that are stand for the others.
    tokens = steps * sum(record["num_tokens"] for record in records) / len(records)
    return (
        f"| {stage} | {steps:,} | {tokens / 1e6:.1f} M "
        f"| {sum(losses) / len(losses):.2f} | {held_out[-1]:.2f} |"
    )


if __name__ == "__main__":
    sys.exit(main())
