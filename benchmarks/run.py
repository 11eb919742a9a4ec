"""Measure speed and memory of this project and write benchmarks/results and benchmarks/README.md.

    python benchmarks/run.py                  # everything, about 15 minutes, 14 GB of memory
    python benchmarks/run.py --only prefill   # one part
    python benchmarks/run.py --quick          # every part on a tiny model, under a minute

Everything is done by ``mixtral bench``, each part in a process of its own; the exact command is in
each JSON file. ``--quick`` shows that the machinery works; its numbers mean nothing, and it leaves
the committed results alone. The checkpoint for the load test is made of random weights in a
temporary folder (6.4 GB of disk, --scratch says where) and removed afterwards.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from mixtral.bench.other_processes import OtherProcesses
from mixtral.bench.results import Report, Spread, write_json
from mixtral.checkpoint import write_checkpoint
from mixtral.errors import Error
from mixtral.loading import random_tensors
from mixtral.model_source import find_model

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("startup", "load", "prefill", "decode")
STARTUP_COMMANDS = (("--help",), ("info", "8x22b"))


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What to run and where the JSON goes."""

    program: str
    model: str
    layers: int
    prompt_tokens: int
    new_tokens: int
    repeats: int
    results: Path
    scratch: Path | None

    def bench(self, part: str, *arguments: str) -> None:
        """Run ``mixtral bench`` with its report going to the part's file."""
        command = [self.program, "bench", part, *arguments]
        command += ["--repeats", str(self.repeats), "--json", _shown(self.results / f"{part}.json")]
        print("$", " ".join(["mixtral", *command[1:]]), file=sys.stderr, flush=True)
        # The report is in the file; the copy on standard output is for other programs.
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=ROOT)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the parts asked for; return the exit status."""
    options = _parser().parse_args(arguments)
    program = shutil.which("mixtral", path=str(Path(sys.executable).parent))
    if program is None:
        print("mixtral is not installed beside this Python; run make setup.", file=sys.stderr)
        return 2
    plan = _plan(program, quick=options.quick, results=options.results, scratch=options.scratch)
    plan.results.mkdir(parents=True, exist_ok=True)
    begin = time.perf_counter()
    try:
        for part in options.only or PARTS:
            RUN[part](plan)
    except (subprocess.CalledProcessError, Error) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    seconds = time.perf_counter() - begin
    print(f"{seconds:.0f} s; results in {_shown(plan.results)}", file=sys.stderr)
    report = [sys.executable, str(ROOT / "benchmarks" / "report.py")]
    report += ["--results", str(plan.results), "--output", str(plan.results.parent / "README.md")]
    return subprocess.run(report, check=False).returncode


def run_startup(plan: Plan) -> None:
    """Time commands that should answer at once, from start to end of the process."""
    others = OtherProcesses()
    found = []
    for arguments in STARTUP_COMMANDS:
        seconds = [_time_command([plan.program, *arguments]) for _ in range(plan.repeats + 1)]
        # The first run reads the files from disk.
        spread = Spread.of(seconds[1:])
        found.append(
            {
                "command": " ".join(["mixtral", *arguments]),
                "seconds": {"median": spread.median, "min": spread.min, "max": spread.max},
            }
        )
        print(f"{found[-1]['command']}: {spread.median:.2f} s", file=sys.stderr)
    notes = {"repeats": plan.repeats, "other_processes": others.share()}
    values = Report(results=[], notes=notes).to_json() | {"startup": found}
    write_json(plan.results / "startup.json", values)


def run_load(plan: Plan) -> None:
    """Write a checkpoint of random weights, measure loading it, remove it."""
    config = find_model(plan.model, layers=plan.layers).config
    with tempfile.TemporaryDirectory(prefix="mixtral-bench-", dir=plan.scratch) as folder:
        target = Path(folder) / "random"
        gigabytes = config.weight_bytes("bfloat16") / 1e9
        print(f"writing a checkpoint of {gigabytes:.2f} GB to {target}", file=sys.stderr)
        tensors = random_tensors(config, dtype=torch.bfloat16)
        write_checkpoint(target, config, tensors, layout="hf")
        plan.bench("load", "--model", str(target))


def run_prefill(plan: Plan) -> None:
    """Measure one step over a prompt, beside transformers."""
    plan.bench("prefill", *_model(plan), "--prompt-tokens", str(plan.prompt_tokens))


def run_decode(plan: Plan) -> None:
    """Measure decode of one and of eight sequences, beside transformers."""
    plan.bench("decode", *_model(plan), "--batch", "1,8", "--new-tokens", str(plan.new_tokens))


RUN = {"startup": run_startup, "load": run_load, "prefill": run_prefill, "decode": run_decode}


def _model(plan: Plan) -> tuple[str, ...]:
    model = ("--model", plan.model, "--layers", str(plan.layers), "--dtype", "bfloat16")
    return (*model, "--device", "cpu", "--compare", "transformers")


def _plan(program: str, *, quick: bool, results: Path | None, scratch: Path | None) -> Plan:
    if quick:
        return Plan(
            program=program,
            model="random:nano",
            layers=2,
            prompt_tokens=64,
            new_tokens=4,
            repeats=2,
            results=results or ROOT / "build" / "bench" / "results",
            scratch=scratch,
        )
    return Plan(
        program=program,
        model="random:8x7b",
        layers=2,
        prompt_tokens=512,
        new_tokens=32,
        repeats=7,
        results=results or ROOT / "benchmarks" / "results",
        scratch=scratch,
    )


def _time_command(command: list[str]) -> float:
    begin = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - begin


def _shown(path: Path) -> str:
    """A path as short as it can be told from the root of the repository."""
    path = path.absolute()
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Measure speed and memory of this project.")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, under a minute")
    parser.add_argument("--only", nargs="+", choices=PARTS, help="parts to run; default all")
    parser.add_argument("--results", type=Path, help="folder for the JSON files")
    parser.add_argument("--scratch", type=Path, help="folder for the checkpoint of the load test")
    return parser


if __name__ == "__main__":
    sys.exit(main())
