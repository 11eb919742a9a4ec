"""Measure what an unmerged adapter costs: a step with it over the same step without it.

    python benchmarks/adapters.py                    # three bases, about four minutes, 4 GB
    python benchmarks/adapters.py --base nano        # one of them

Every repeat runs the step three times, in turn: without adapters in memory, with one in memory that
no sequence asks for, and with that one asked for by all. A number is the median quotient of such
neighbours. Steps run on one thread, and its own processor time is taken, which other processes
disturb least. Writes benchmarks/results/adapters.json.
"""

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from mixtral.bench.other_processes import OtherProcesses
from mixtral.bench.results import Report, Spread, write_json
from mixtral.config import ModelConfig
from mixtral.loading import find_or_download, load_model
from mixtral.model import LanguageModel, TokenBatch
from mixtral.model.adapter import Adapter, LoraMatrices, adaptable_linears

RESULTS = Path(__file__).parent / "results" / "adapters.json"
RANK = 16
CONTEXT = 256  # tokens before those of a decode step
BLOCK = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class Base:
    """A model to measure on."""

    model: str
    """Name, as the user writes it."""
    quantization: str | None
    """How its weights are packed; None: as stored."""
    layers: int | None
    """Layers of random weights."""
    prompt: int
    """Tokens of the prefill step."""
    repeats: int
    """Of each step."""
    decodes: int
    """Decode steps that are timed together."""


BASES = {
    "nano": Base(model="nano", quantization=None, layers=None, prompt=512, repeats=15, decodes=20),
    "nano-int4": Base(
        model="nano", quantization="int4", layers=None, prompt=512, repeats=15, decodes=20
    ),
    "8x7b-int4": Base(
        model="random:8x7b", quantization="int4", layers=2, prompt=32, repeats=5, decodes=1
    ),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, write, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base", choices=BASES, action="append", help="all if left out")
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    others = OtherProcesses()
    rows = [row for name in options.base or BASES for row in measure(name, BASES[name])]
    notes = {"rank": RANK, "targets": "attention, experts", "threads": 1, "clock": "thread_time"}
    notes["other_processes"] = others.share()
    write_json(options.output, Report(results=[], notes=notes).to_json() | {"adapters": rows})
    for row in rows:
        print(
            f"{row['base']:10} {row['work']:8} {row['tokens']:4} tokens: "
            f"{row['step_ms']['median']:9.3f} ms, in memory x{row['idle']['median']:.3f}, "
            f"in use x{row['used']['median']:.3f}"
        )
    return 0


def measure(name: str, base: Base) -> list[dict[str, Any]]:
    """Return one row per kind of step."""
    model = load_model(
        find_or_download(base.model, layers=base.layers), quantization=base.quantization
    )
    model.num_threads = 1  # type: ignore[attr-defined]
    adapter = attention_and_experts(model.config)
    size = 4 * adapter.num_parameters
    rows = []
    for work, sequences, new, past in (
        ("decode", 1, 1, CONTEXT),
        ("decode", 8, 1, CONTEXT),
        ("prefill", 1, base.prompt, 0),
    ):
        batch = lay_out(sequences=sequences, new=new, past=past)
        steps = base.decodes if work == "decode" else 1
        times = measure_step(model, adapter, batch, repeats=base.repeats, steps=steps)
        rows.append(
            {
                "base": name,
                "work": work,
                "sequences": sequences,
                "tokens": sequences * new,
                "adapter_bytes": size,
                "weight_bytes": model.weight_bytes,
                "step_ms": spread([1000 * none for none, _, _ in times]),
                "idle": spread([idle / none for none, idle, _ in times]),
                "used": spread([used / none for none, _, used in times]),
            }
        )
    return rows


def lay_out(*, sequences: int, new: int, past: int) -> TokenBatch:
    """Return a step of some sequences, each with new tokens behind those in the cache."""
    blocks = -(-(past + new) // BLOCK)
    return TokenBatch(
        input_ids=torch.arange(sequences * new) * 7 % 32000,
        positions=(torch.arange(new) + past).repeat(sequences),
        starts=tuple(range(0, sequences * new + 1, new)),
        context_lens=(past + new,) * sequences,
        block_tables=[range(i * blocks, (i + 1) * blocks) for i in range(sequences)],
    )


def measure_step(
    model: LanguageModel, adapter: Adapter, batch: TokenBatch, *, repeats: int, steps: int
) -> list[tuple[float, float, float]]:
    """Return seconds of a step without adapters, with an idle one, and with one in use."""
    num_blocks = sum(len(table) for table in batch.block_tables)
    cache = model.new_cache(num_blocks=num_blocks, block_size=BLOCK)
    asked = replace(batch, adapter_ids=(0,) * len(batch.block_tables))

    def seconds(adapters: list[Adapter], step: TokenBatch) -> float:
        model.set_adapters(adapters)
        model.step(step, cache)  # brings the weights near
        begin = time.thread_time()
        for _ in range(steps):
            model.step(step, cache)
        return (time.thread_time() - begin) / steps

    ways: tuple[tuple[list[Adapter], TokenBatch], ...] = (
        ([], batch),
        ([adapter], batch),
        ([adapter], asked),
    )
    rounds = [[seconds(*way) for way in ways] for _ in range(repeats)]
    return [(none, idle, used) for none, idle, used in rounds]


def attention_and_experts(config: ModelConfig) -> Adapter:
    """Return a random adapter on everything but the router, which would send tokens elsewhere."""
    generator = torch.Generator().manual_seed(0)

    def matrix(rows: int, columns: int) -> torch.Tensor:
        return torch.randn(rows, columns, generator=generator) * 1e-3

    return Adapter(
        matrices={
            name: LoraMatrices(a=matrix(RANK, columns), b=matrix(rows, RANK), scale=1.0)
            for name, (rows, columns) in adaptable_linears(config).items()
            if not name.endswith(".gate")
        }
    )


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return the middle value, the smallest and the largest."""
    found = Spread.of(values)
    return {"median": found.median, "min": found.min, "max": found.max}


if __name__ == "__main__":
    raise SystemExit(main())
