"""What fine-tuning and training Mixtral takes: ``python benchmarks/train_plans.py``.

Works out the cases of docs/finetuning.md with ``mixtral train plan``, writes them to
results/train_plans.json and their table into the page. Nothing is measured: the memory is
arithmetic that tests hold against what PyTorch keeps, the time follows from the assumptions.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from measured_parts import fill

from mixtral.whole_file import write_whole

RESULTS = Path(__file__).resolve().parent / "results" / "train_plans.json"
PAGE = Path(__file__).resolve().parents[1] / "docs" / "finetuning.md"
BEGIN = "<!-- begin: made by benchmarks/train_plans.py -->\n"
ADAPTER = ["--lora-rank", "16", "--checkpointing"]
CASES = {
    "8x7B, adapter over int4, 1 GPU": ["--model", "8x7b", *ADAPTER, "--quantization", "int4"],
    "8x7B, adapter over int8, 1 GPU": ["--model", "8x7b", *ADAPTER, "--quantization", "int8"],
    "8x7B, adapter over bfloat16, 2 GPUs": ["--model", "8x7b", *ADAPTER, "--gpus", "2"],
    "8x7B, all weights, 8 GPUs": ["--model", "8x7b", "--gpus", "8", "--checkpointing"],
    "8x7B, all weights, 16 GPUs": ["--model", "8x7b", "--gpus", "16", "--checkpointing"],
    "8x22B, adapter over int4, 2 GPUs": [
        *("--model", "8x22b", *ADAPTER, "--quantization", "int4", "--gpus", "2")
    ],
}


def main() -> int:
    """Work out all cases and write both files."""
    plans = {name: _plan(options) for name, options in CASES.items()}
    RESULTS.write_text(json.dumps(plans, indent=1) + "\n", encoding="utf-8")
    write_whole(PAGE, fill(PAGE.read_text(encoding="utf-8"), BEGIN, _table(plans)))
    print(f"wrote {RESULTS} and the table of {PAGE}")
    return 0


def _plan(options: list[str]) -> dict[str, Any]:
    command = [sys.executable, "-m", "mixtral.cli", "train", "plan", *options, "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=False, text=True)
    return {"command": "mixtral train plan " + " ".join(options), **json.loads(done.stdout)}


def _table(plans: dict[str, dict[str, Any]]) -> str:
    assumed = next(iter(plans.values()))["assumed"]
    lines = [
        "| case | memory of a GPU | fits into 80 GB | tokens/s | a million tokens take |",
        "|---|---|---|---|---|",
    ]
    for name, plan in plans.items():
        minutes = 1e6 / plan["tokens_per_s"] / 60
        lines.append(
            f"| {name} | {plan['total_bytes'] / 1e9:.1f} GB | {'yes' if plan['fits'] else 'no'} "
            f"| {plan['tokens_per_s']:,.0f} | {minutes:.1f} min |"
        )
    lines.append(
        f"\nAssumed, and changeable by options: rank 16 on attention and experts, micro-batches of "
        f"{assumed['micro_batch_tokens']:,} tokens, GPUs of {assumed['tflops']:,.0f} TFLOP/s of "
        f"which {assumed['mfu']:.0%} are reached, {assumed['reserve_gb']:.0f} GB kept for the "
        "process. None of these was run on such a machine by us.\n"
    )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
