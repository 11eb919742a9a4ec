"""From a checkpoint's files to the first token, against the time to read them once.

Reading is a plain sequential read of every weight file into one reused buffer, the least that any
loader must do that reads everything. Loading is ``LLM(model)`` to the first token in a fresh
process, imports not counted; its peak resident memory stands against the bytes of the weights, and
its time also against that of the prompt alone, which runs once more when everything is there. The
whole process, from its start with all imports, is measured from outside. Reading and loading run in
turn.

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

from mixtral.bench.collect import collect
from mixtral.bench.other_processes import OtherProcesses
from mixtral.bench.probes import Prober, Probes
from mixtral.bench.results import Report, Result, Spread
from mixtral.checkpoint import open_checkpoint
from mixtral.errors import ConfigError, EngineError, UnsupportedError
from mixtral.loading import other_format
from mixtral.model_source import ModelSource
from mixtral.quantization import find_recipe

_BUFFER_BYTES = 1 << 24


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadOptions:
    """How loading is measured.

    Raises:
        ConfigError: A number is below 1, or there is no such recipe.
    """

    name: str
    """What the result calls the model."""
    repeats: int = 5
    """Pairs of measurements."""
    threads: int = 1
    """Threads of the loading process."""
    quantization: str | None = None
    """Recipe in which the weights are packed as they are loaded; None leaves them."""
    prompt_tokens: int = 16
    """Tokens of the prompt before the first token."""
    is_cold: bool = False
    """Whether the files are dropped from the page cache before each measurement."""

    def __post_init__(self) -> None:
        """Check the numbers and the recipe."""
        for name in ("repeats", "threads", "prompt_tokens"):
            if (value := getattr(self, name)) < 1:
                raise ConfigError(f"{name} is {value}; it must be at least 1.")
        if self.quantization is not None:
            find_recipe(self.quantization)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Files:
    """What is loaded."""

    model: str
    paths: list[Path]
    num_bytes: int
    layers: int
    format: str
    is_packed: bool
    longest: int
    """Context of the model in tokens."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Sample:
    read_s: float
    process_s: float
    construct_s: float
    first_token_s: float
    prefill_s: float
    imported_rss_bytes: int
    peak_rss_bytes: int


def measure_load(
    source: ModelSource,
    prober: Prober,
    options: LoadOptions,
    *,
    on_repeat: Callable[[], None] = lambda: None,
) -> Report:
    """Time reading and loading a checkpoint in turn.

    After Ctrl-C or a failure the report has the pairs that were whole by then.

    Args:
        source: The checkpoint, a folder or a GGUF file.
        prober: Takes the ceilings.
        options: How it is measured.
        on_repeat: Called after each pair.

    Raises:
        ConfigError: The model has no files, is packed in another way than asked for, or its
            context is too short for the prompt.
        CheckpointError: They are not a model.
        EngineError: The loading process failed.
        UnsupportedError: This system cannot drop files from its page cache.
        KeyboardInterrupt: At Ctrl-C, before the first pair was whole.
    """
    if options.is_cold and not hasattr(os, "posix_fadvise"):
        raise UnsupportedError(
            "this system cannot drop files from its page cache; leave out --cold."
        )
    files = _find_files(source)
    _check(files, options)
    buffer = bytearray(_BUFFER_BYTES)
    others = OtherProcesses()
    if not options.is_cold:
        read_files(files.paths, buffer)
    before = prober.measure()

    def measure_pair() -> tuple[_Sample, Probes]:
        sample = _measure_pair(files, options, buffer)
        after = prober.measure()
        on_repeat()
        return sample, after

    done = collect(measure_pair() for _ in range(options.repeats))
    samples = [sample for sample, _ in done.found]
    probes = Probes.median([before, *(after for _, after in done.found)])
    return Report(
        results=[_result(files, samples, probes, options)],
        notes={"repeats": options.repeats, "other_processes": others.share()},
        is_cut=done.is_cut,
        failure=done.failure,
    )


def _measure_pair(files: _Files, options: LoadOptions, buffer: bytearray) -> _Sample:
    if options.is_cold:
        drop_from_cache(files.paths)
    begin = time.perf_counter()
    read_files(files.paths, buffer)
    read_s = time.perf_counter() - begin
    if options.is_cold:
        drop_from_cache(files.paths)
    return _Sample(read_s=read_s, **_load(files, options))


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


def _find_files(source: ModelSource) -> _Files:
    if source.gguf is not None:
        from mixtral.checkpoint.gguf import open_gguf  # half a second, and only for these files

        gguf = open_gguf(source.gguf)
        return _Files(
            model=str(source.gguf),
            paths=sorted({tensor.path for tensor in gguf.file.tensors.values()}),
            num_bytes=gguf.num_bytes,
            layers=gguf.config.num_hidden_layers,
            format=gguf.dtype,
            is_packed=False,  # in none of our recipes
            longest=gguf.config.max_position_embeddings,
        )
    if source.folder is None:
        raise ConfigError(
            f"model is {source.name!r}, which has no files; bench load needs a checkpoint folder, "
            "a GGUF file, nano, or a hub id."
        )
    checkpoint = open_checkpoint(source.folder)
    recipe = checkpoint.recipe
    return _Files(
        model=str(source.folder),
        paths=sorted({file.path for file, _ in checkpoint.found.values()}),
        num_bytes=checkpoint.num_bytes,
        layers=checkpoint.config.num_hidden_layers,
        format=checkpoint.dtype if recipe is None else recipe.name,
        is_packed=recipe is not None,
        longest=checkpoint.config.max_position_embeddings,
    )


def _check(files: _Files, options: LoadOptions) -> None:
    """Refuse what the loading process would refuse, before the first file is read."""
    wanted = options.quantization
    if files.is_packed and wanted is not None and wanted != files.format:
        raise other_format(files.model, stored=files.format, wanted=wanted)
    if options.prompt_tokens >= files.longest:
        raise ConfigError(
            f"prompt_tokens is {options.prompt_tokens}; it must be at most {files.longest - 1}, "
            "so that one more token goes into the context of this model."
        )


def _load(files: _Files, options: LoadOptions) -> dict[str, Any]:
    command = [sys.executable, "-m", "mixtral.bench.first_token", files.model]
    command += [str(options.prompt_tokens), str(options.threads)]
    if options.quantization is not None:
        command.append(options.quantization)
    begin = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    process_s = time.perf_counter() - begin
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise EngineError(f"loading {files.model} failed with status {done.returncode}: {reason}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    # What it did after the first token is not part of it.
    return {"process_s": process_s - found["prefill_s"], **found}


def _result(
    files: _Files, samples: Sequence[_Sample], probes: Probes, options: LoadOptions
) -> Result:
    size = files.num_bytes
    peak = max(sample.peak_rss_bytes for sample in samples)
    speeds = [size / sample.first_token_s for sample in samples]
    times = ("read_s", "process_s", "construct_s", "first_token_s", "prefill_s")
    return Result(
        work="load",
        engine="mixtral",
        model=options.name,
        layers=files.layers,
        format=options.quantization or files.format,
        batch=1,
        prompt_tokens=options.prompt_tokens,
        new_tokens=1,
        threads=options.threads,
        tokens_per_s=Spread.of([1 / sample.first_token_s for sample in samples]),
        step_ms=Spread.of([1e3 * sample.first_token_s for sample in samples]),
        weight_bytes_per_step=size,
        bandwidth_fraction=Spread.of(speeds).median / (probes.read_gb_per_s * 1e9),
        peak_fraction=None,
        peak_rss_bytes=peak,
        probes=probes,
        load={
            "checkpoint_bytes": size,
            "page_cache": "cold" if options.is_cold else "warm",
            **{name: Spread.of([getattr(sample, name) for sample in samples]) for name in times},
            "startup_s": Spread.of([s.first_token_s - s.prefill_s for s in samples]),
            "first_token_over_read": Spread.of([s.first_token_s / s.read_s for s in samples]),
            "peak_rss_over_checkpoint": peak / size,
            "imported_rss_bytes": max(sample.imported_rss_bytes for sample in samples),
        },
    )
