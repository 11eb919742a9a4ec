"""What a benchmark writes down: one JSON object per run, with the machine and the commit in it.

The fields of a result are a public contract; tables and reports are generated from them.
"""

import dataclasses
import datetime
import json
import os
import platform
import re
import resource
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any, Literal, Self

import torch

from mixtral.bench.probes import Probes
from mixtral.machine import num_usable_cpus
from mixtral.whole_file import write_whole

_KEY_OPTION = "--api-key"
# The words of --server-options are one word of ours.
_KEY_WITHIN = re.compile(rf"({_KEY_OPTION}[= ]\s*)\S+")
Work = Literal["prefill", "decode", "moe", "load", "serve"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Spread:
    """Several measurements of one thing."""

    median: float
    """Middle value."""
    min: float
    """Smallest."""
    max: float
    """Largest."""

    @classmethod
    def of(cls, values: Sequence[float]) -> Self:
        """Summarise at least one value."""
        return cls(median=median(values), min=min(values), max=max(values))


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """One engine doing one kind of work at one size."""

    work: Work
    """prefill: one step over whole prompts; decode: one token per sequence and step; moe: the
    experts of one layer alone; load."""
    engine: str
    """mixtral, or the name of the peer."""
    model: str
    """As the user named it."""
    layers: int
    """Layers of the model."""
    format: str
    """A dtype, a recipe of ours, or one of GGUF's formats, as this engine holds the weights."""
    batch: int
    """Sequences in a step."""
    prompt_tokens: int
    """Tokens of each prompt."""
    new_tokens: int
    """Timed decode steps of each repeat; 1 for prefill and load, which end with one token; 0 for
    moe, which makes none."""
    threads: int
    """Threads of the engine."""
    tokens_per_s: Spread
    """Over all sequences: prompt tokens for prefill and moe, new tokens for decode and load."""
    step_ms: Spread
    """Time of one step; for load, from the constructor to the first token."""
    weight_bytes_per_step: int
    """Bytes of the weights that a step reads, with the experts that were really chosen; the whole
    checkpoint for a load."""
    bandwidth_fraction: float | None
    """Weight bytes per second over the read probe."""
    peak_fraction: float | None
    """Operations per second over the int8 probe for low-bit weights, over the bfloat16 probe for
    bfloat16 ones; null for other types and for load."""
    peak_rss_bytes: int
    """Highest resident memory of the process from its start: loading, the model, the buffers of
    the probes (0.5 GB), and peers in the same process with what their gate needed are all in it. A
    load has that of the loading process up to the first token, where no probe runs."""
    probes: Probes
    """Ceilings of the same seconds."""
    load: dict[str, Any] | None = None
    """What only a load has: bytes, seconds of each part, ratios; left out of other results."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ratio:
    """How many times the peer's tokens per second, from repeats that ran in turn."""

    work: Work
    """Kind of work."""
    engine: str
    """Who is compared."""
    peer: str
    """With whom."""
    batch: int
    """Sequences in a step."""
    prompt_tokens: int
    """Tokens of each prompt."""
    tokens_per_s: Spread
    """Quotient of each pair of neighbouring repeats."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """Everything of one run."""

    results: list[Result]
    """In the order measured."""
    ratios: list[Ratio] = field(default_factory=list)
    """One per work, size and peer."""
    notes: dict[str, Any] = field(default_factory=dict)
    """Conditions: seed, repeats, the peers' versions, the outcomes of the correctness gate."""
    is_cut: bool = False
    """Whether Ctrl-C ended it; the results are those that were whole by then."""
    failure: str | None = None
    """What ended it, where that was a failure after the first result."""

    def to_json(self) -> dict[str, Any]:
        """Return the report with machine, commit, command and date."""
        values = dataclasses.asdict(self)
        for result in values["results"]:
            if result["load"] is None:
                del result["load"]
        return {
            "machine": describe_machine(),
            "commit": find_commit(),
            "command": describe_command(),
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            **values,
        }


def peak_rss_bytes() -> int:
    """Highest resident memory of this process so far."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    except OSError:
        lines = []
    # Linux's ru_maxrss starts at what the parent had; this one starts at the program.
    for line in lines:
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def describe_machine() -> dict[str, Any]:
    """Return what the numbers depend on: processor, memory, system, Python and torch."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "cpu": _cpu_name(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "cores": num_usable_cpus(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "gpu": gpu,
        "os": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def describe_command() -> str:
    """Return the command line of this process, without the folder of its program and without keys.

    The value of ``--api-key`` is ``***``: reports are shown around.
    """
    words = [_without_key(before, word) for before, word in pairwise(sys.argv)]
    return shlex.join([Path(sys.argv[0]).name, *words])


def _without_key(before: str, word: str) -> str:
    if before == _KEY_OPTION:
        return "***"
    if word.startswith(f"{_KEY_OPTION}="):
        return f"{_KEY_OPTION}=***"
    return _KEY_WITHIN.sub(r"\1***", word)


def find_commit() -> str | None:
    """Return the commit of the package's source, "-dirty" where it was changed since.

    None where the package does not lie in a git checkout that tracks it.
    """
    package = Path(__file__).resolve().parents[1]
    if _git(package, "ls-files", "--error-unmatch", "__init__.py") is None:
        return None
    commit = _git(package, "rev-parse", "HEAD")
    changes = _git(package, "status", "--porcelain", ".")
    if commit is None or changes is None:
        return None
    return f"{commit}-dirty" if changes else commit


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write an object to a file, which appears whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(value, indent=2) + "\n")


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    for line in lines:
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.processor() or platform.machine()
