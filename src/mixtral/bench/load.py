"""From a checkpoint folder to the first token, against the time to read its files once.

Reading is a plain sequential read of every weight file into one reused buffer, the least that any
loader must do that reads everything. Loading is ``LLM(folder)`` to the first token in a fresh
process, imports not counted; its peak resident memory stands against the bytes of the weights. The
two run in turn.

By default the files are read once before, so that they are in the page cache, which both then
start from; ``is_cold`` asks the system to drop them before every single measurement instead.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mixtral.bench.probes import Prober, Probes
from mixtral.bench.results import Result, Spread
from mixtral.checkpoint import Checkpoint, open_checkpoint
from mixtral.errors import EngineError, UnsupportedError

_BUFFER_BYTES = 1 << 24


@dataclass(frozen=True, kw_only=True, slots=True)
class _Sample:
    read_s: float
    construct_s: float
    first_token_s: float
    imported_rss_bytes: int
    peak_rss_bytes: int


def measure_load(
    folder: Path,
    prober: Prober,
    *,
    name: str,
    repeats: int,
    threads: int,
    prompt_tokens: int = 16,
    is_cold: bool = False,
    on_repeat: Callable[[], None] = lambda: None,
) -> Result:
    """Time reading and loading a checkpoint in turn.

    Args:
        folder: The checkpoint.
        prober: Takes the ceilings.
        name: What the result calls it.
        repeats: Pairs of measurements.
        threads: Threads of torch in the loading process.
        prompt_tokens: Tokens of the prompt before the first token.
        is_cold: Whether to drop the files from the page cache before each measurement.
        on_repeat: Called after each pair.

    Raises:
        CheckpointError: The folder is not a model.
        EngineError: The loading process failed.
        UnsupportedError: This system cannot drop files from its page cache.
    """
    if is_cold and not hasattr(os, "posix_fadvise"):
        raise UnsupportedError(
            "this system cannot drop files from its page cache; leave out --cold."
        )
    checkpoint = open_checkpoint(folder)
    paths = sorted({file.path for file, _ in checkpoint.found.values()})
    buffer = bytearray(_BUFFER_BYTES)
    if not is_cold:
        read_files(paths, buffer)
    samples, probes = [], [prober.measure()]
    for _ in range(repeats):
        if is_cold:
            drop_from_cache(paths)
        begin = time.perf_counter()
        read_files(paths, buffer)
        read_s = time.perf_counter() - begin
        if is_cold:
            drop_from_cache(paths)
        samples.append(_Sample(read_s=read_s, **_load(folder, prompt_tokens, threads)))
        probes.append(prober.measure())
        on_repeat()
    return _result(
        checkpoint,
        samples,
        Probes.median(probes),
        name=name,
        threads=threads,
        prompt_tokens=prompt_tokens,
        page_cache="cold" if is_cold else "warm",
    )


def read_files(paths: Sequence[Path], buffer: bytearray) -> int:
    """Read every file from front to back into the buffer; return the bytes read."""
    total = 0
    for path in paths:
        with path.open("rb", buffering=0) as file:
            while count := file.readinto(buffer):
                total += count
    return total


def drop_from_cache(paths: Sequence[Path]) -> None:
    """Ask the system to forget the contents of files; they must not be mapped by anyone."""
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def _load(folder: Path, prompt_tokens: int, threads: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "mixtral.bench.first_token"]
    done = subprocess.run(
        [*command, str(folder), str(prompt_tokens), str(threads)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise EngineError(f"loading {folder} failed with status {done.returncode}: {reason}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _result(
    checkpoint: Checkpoint,
    samples: Sequence[_Sample],
    probes: Probes,
    *,
    name: str,
    threads: int,
    prompt_tokens: int,
    page_cache: str,
) -> Result:
    config = checkpoint.config
    size = checkpoint.num_bytes
    peak = max(sample.peak_rss_bytes for sample in samples)
    speeds = [size / sample.first_token_s for sample in samples]
    return Result(
        work="load",
        engine="mixtral",
        model=name,
        layers=config.num_hidden_layers,
        format=checkpoint.dtype,
        batch=1,
        prompt_tokens=prompt_tokens,
        new_tokens=1,
        threads=threads,
        tokens_per_s=Spread.of([1 / sample.first_token_s for sample in samples]),
        step_ms=Spread.of([1e3 * sample.first_token_s for sample in samples]),
        weight_bytes_per_step=size,
        bandwidth_fraction=Spread.of(speeds).median / (probes.read_gb_per_s * 1e9),
        peak_fraction=None,
        peak_rss_bytes=peak,
        probes=probes,
        load={
            "checkpoint_bytes": size,
            "page_cache": page_cache,
            "read_s": Spread.of([sample.read_s for sample in samples]),
            "construct_s": Spread.of([sample.construct_s for sample in samples]),
            "first_token_s": Spread.of([sample.first_token_s for sample in samples]),
            "first_token_over_read": Spread.of([s.first_token_s / s.read_s for s in samples]),
            "peak_rss_over_checkpoint": peak / size,
            "imported_rss_bytes": max(sample.imported_rss_bytes for sample in samples),
        },
    )
