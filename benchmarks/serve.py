"""Measure what serving costs and promises; write benchmarks/results/serve.json.

    python benchmarks/serve.py                       # all parts: about 20 minutes
    python benchmarks/serve.py --only memory prefix  # some; the others stay as they were
    python benchmarks/serve.py --quick               # tiny sizes, which show that it works

Each part starts a ``mixtral serve`` of its own, loads it with the generator of ``mixtral bench
serve`` and stands between two probes of the machine. What is compared with the engine without a
server runs in turn with it, in this process, on the same prompts. A part that is done is written at
once, so that a run which was stopped goes on with ``--only``.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from serve_parts import PARTS, Plan, Stage

from mixtral.bench.other_processes import OtherProcesses
from mixtral.bench.probes import Prober, Probes
from mixtral.bench.results import Report, write_json
from mixtral.bench.serve_measure import quick_prober
from mixtral.errors import Error
from mixtral.machine import num_usable_cpus

ROOT = Path(__file__).resolve().parents[1]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the parts asked for; return the exit status."""
    options = _parser().parse_args(arguments)
    folder = options.results or ROOT / (
        "build/bench/results" if options.quick else "benchmarks/results"
    )
    path = folder / "serve.json"
    plan = Plan.quick() if options.quick else Plan()
    if options.repeats is not None:
        if options.repeats < 1:
            print(f"error: --repeats is {options.repeats}; it must be at least 1", file=sys.stderr)
            return 2
        plan = replace(plan, repeats=options.repeats)
    prober = quick_prober()
    try:
        for name in options.only or PARTS:
            begin = time.perf_counter()
            found = run_part(name, plan, prober)
            merge(path, name, found)
            seconds = time.perf_counter() - begin
            print(f"{name}: {found['value']:.4g} ({seconds:.0f} s)", file=sys.stderr, flush=True)
    except Error as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"stopped; finished parts are in {path}", file=sys.stderr)
        return 130
    report = [sys.executable, str(ROOT / "benchmarks" / "report.py")]
    report += ["--results", str(folder), "--output", str(folder.parent / "README.md")]
    return subprocess.run(report, check=False).returncode


def run_part(name: str, plan: Plan, prober: Prober) -> dict[str, Any]:
    """Run one part between two probes."""
    others, before = OtherProcesses(), prober.measure()
    begin = time.perf_counter()
    with Stage(plan) as stage:
        found = PARTS[name](stage)
        # The server is a child that still runs, whose time the system does not count as ours.
        share, available_s = others.share(), (time.perf_counter() - begin) * num_usable_cpus()
        busy = None if share is None else max(0.0, share - stage.server_cpu_s() / available_s)
    return {
        **found,
        "model": plan.model,
        "layers": plan.layers,
        "format": plan.quantization,
        "threads": torch.get_num_threads(),
        "sizes": asdict(plan),
        "probes": asdict(Probes.median([before, prober.measure()])),
        "other_processes": busy,
    }


def merge(path: Path, name: str, found: dict[str, Any]) -> None:
    """Write the numbers of one part into the file, beside those of the others."""
    values = Report(results=[], notes={"repeats": found["repeats"]}).to_json()
    parts = json.loads(path.read_text(encoding="utf-8"))["parts"] if path.is_file() else {}
    stamp = {key: values[key] for key in ("commit", "command", "date", "machine")}
    parts[name] = stamp | found
    # In the order of the page, whatever was run first.
    values["parts"] = {part: parts[part] for part in PARTS if part in parts}
    values["results"] = [r for part in values["parts"].values() for r in part.get("results", [])]
    write_json(path, values)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Measure what serving costs and promises.")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, a minute or two")
    parser.add_argument("--only", nargs="+", choices=PARTS, help="parts to run; default all")
    parser.add_argument("--repeats", type=int, help="runs of each part; more are steadier")
    parser.add_argument("--results", type=Path, help="folder of serve.json")
    return parser


if __name__ == "__main__":
    sys.exit(main())
