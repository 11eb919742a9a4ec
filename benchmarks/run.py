"""Measure speed and memory of this project and write benchmarks/results and benchmarks/README.md.

    python benchmarks/run.py                       # everything: half an hour, 22 GB of memory
    python benchmarks/run.py --only decode-int4    # one part
    python benchmarks/run.py --quick               # every part on a tiny model, two minutes

Everything is done by ``mixtral bench``, each part in a process of its own; the exact command is in
each JSON file. ``--quick`` shows that the machinery works; its numbers mean nothing, and it leaves
the committed results alone. The checkpoints for the load tests are made of random weights in a
temporary folder (6.4 GB of disk, --scratch says where) and removed afterwards. The part with
llama.cpp is left out where llama-cpp-python is not installed (pip install '.[compare]').
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from mixtral.bench.other_processes import OtherProcesses
from mixtral.bench.results import Report, Spread, write_json

ROOT = Path(__file__).resolve().parents[1]
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

    @property
    def two_layers(self) -> tuple[str, ...]:
        """The model that most parts run on."""
        return ("--model", self.model, "--layers", str(self.layers))

    @property
    def decode(self) -> tuple[str, ...]:
        """How long answers are."""
        return ("--new-tokens", str(self.new_tokens))

    @property
    def prompt(self) -> tuple[str, ...]:
        """How long the prompt of a prefill is."""
        return ("--prompt-tokens", str(self.prompt_tokens))

    def bench(self, part: str, *arguments: str) -> None:
        """Run ``mixtral bench`` with its report going to the part's file."""
        file = _shown(self.results / f"{part}.json")
        self.run("bench", *arguments, "--repeats", str(self.repeats), "--json", file)

    def run(self, *arguments: str) -> None:
        """Run ``mixtral``, and say so."""
        print("$", " ".join(["mixtral", *arguments]), file=sys.stderr, flush=True)
        # The report is in the file; the copy on standard output is for other programs.
        command = [self.program, *arguments]
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
            PARTS[part](plan)
    except subprocess.CalledProcessError as error:
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


def run_load(plan: Plan, *, part: str, convert: tuple[str, ...]) -> None:
    """Write a checkpoint of random weights, measure loading it, remove it."""
    with tempfile.TemporaryDirectory(prefix="mixtral-bench-", dir=plan.scratch) as folder:
        target = str(Path(folder) / part)
        plan.run("convert", plan.model, target, "--layers", str(plan.layers), *convert)
        plan.bench(part, "load", "--model", target)


def run_decode(plan: Plan, *, part: str, quantization: str) -> None:
    """Measure decode of one sequence."""
    arguments = (*plan.two_layers, *plan.decode, "--quantization", quantization)
    plan.bench(part, "decode", *arguments, "--batch", "1")


def run_prefill(plan: Plan, *, part: str, quantization: str) -> None:
    """Measure one step over a prompt."""
    arguments = (*plan.two_layers, *plan.prompt, "--quantization", quantization)
    plan.bench(part, "prefill", *arguments)


def run_moe(plan: Plan) -> None:
    """Measure the experts of one layer alone."""
    tokens = ("--tokens", f"1,8,32,{plan.prompt_tokens}")
    plan.bench("moe-int4", "moe", "--model", plan.model, "--quantization", "int4", *tokens)


def run_compare_int4(plan: Plan) -> None:
    """Measure int4 beside llama.cpp, on the same weights in its 4-bit format."""
    if find_spec("llama_cpp") is None:
        print("left out: llama-cpp-python is not installed", file=sys.stderr)
        return
    arguments = (*plan.two_layers, *plan.prompt, *plan.decode, "--quantization", "int4")
    peer = ("--peers", "llama.cpp", "--peer-format", "q4_0", "--batch", "1,8,32")
    plan.bench("compare-int4", "compare", *arguments, *peer)


def run_compare_bf16(plan: Plan) -> None:
    """Measure bfloat16 beside transformers, on the same weights."""
    arguments = (*plan.two_layers, *plan.prompt, *plan.decode, "--dtype", "bfloat16")
    plan.bench("compare-bf16", "compare", *arguments, "--peers", "transformers", "--batch", "1,8")


def run_all_layers(plan: Plan) -> None:
    """Measure decode of the model with all its layers."""
    arguments = ("--model", plan.model, *plan.decode, "--quantization", "int3", "--batch", "1")
    plan.bench("decode-int3-all-layers", "decode", *arguments)


PARTS: dict[str, Callable[[Plan], None]] = {
    "startup": run_startup,
    "load": partial(run_load, part="load", convert=("--format", "hf", "--dtype", "bfloat16")),
    "load-int4": partial(run_load, part="load-int4", convert=("--quantization", "int4")),
    **{
        f"decode-{name}": partial(run_decode, part=f"decode-{name}", quantization=name)
        for name in ("int8", "int4", "int3")
    },
    **{
        f"prefill-{name}": partial(run_prefill, part=f"prefill-{name}", quantization=name)
        for name in ("int8", "int4")
    },
    "moe-int4": run_moe,
    "compare-int4": run_compare_int4,
    "compare-bf16": run_compare_bf16,
    "decode-int3-all-layers": run_all_layers,
}


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
    parser.add_argument("--quick", action="store_true", help="tiny sizes, two minutes")
    parser.add_argument("--only", nargs="+", choices=PARTS, help="parts to run; default all")
    parser.add_argument("--results", type=Path, help="folder for the JSON files")
    parser.add_argument("--scratch", type=Path, help="folder for the checkpoints of the load tests")
    return parser


if __name__ == "__main__":
    sys.exit(main())
