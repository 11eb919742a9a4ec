"""Measure embeddings: load time, texts per second, and the guide's table of distances.

    python benchmarks/embeddings.py                     # the bundled model, one minute
    python benchmarks/embeddings.py --model FOLDER_OR_ID --threads 2

Writes benchmarks/results/embeddings.json, and the tables between the two marks in
docs/embeddings.md from it. What other processes took of the machine is noted with the numbers.
"""

import argparse
import asyncio
import itertools
import random
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mixtral.bench.other_processes import OtherProcesses
from mixtral.bench.results import Report, Spread, write_json
from mixtral.embed import AsyncEmbedder, Embedder
from mixtral.machine import num_usable_cpus

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "embeddings.json"
PAGE = ROOT / "docs" / "embeddings.md"
MARKS = ("<!-- made by benchmarks/embeddings.py -->\n", "<!-- end -->\n")
SENTENCES = (
    "What led to Zidane's ban from football?",
    "This is a totally different sentence.",
    "What caused Zidane to get banned from football?",
)
WORDS = (
    "a",
    "model",
    "sends",
    "each",
    "token",
    "to",
    "two",
    "of",
    "eight",
    "experts",
    "and",
    "adds",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, write, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="a folder or a hub id; the bundled model if left out")
    parser.add_argument("--threads", type=int, default=1, help="1 is what AsyncEmbedder takes")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    others = OtherProcesses()
    load = _measure_load(options.model)
    torch.set_num_threads(options.threads)
    embedder = Embedder(options.model)
    speed = [
        _measure_batch(embedder, batch=batch, words=words, repeats=options.repeats)
        for words in (16, 128)
        for batch in (1, 8, 64)
    ]
    served = asyncio.run(_measure_served(embedder, repeats=options.repeats))
    contended = [_measure_contended(embedder, threads=n) for n in (1, num_usable_cpus())]
    notes = {
        "repeats": options.repeats,
        "threads": options.threads,
        "sentence_transformers": version("sentence-transformers"),
        "other_processes": others.share(),
    }
    found = {
        "embeddings": {
            "model": embedder.name,
            "dimension": embedder.dimension,
            "max_tokens": embedder.max_tokens,
            "load": load,
            "speed": speed,
            "served": served,
            "cores_shared": contended,
            "distances": _measure_distances(embedder),
        }
    }
    report = Report(results=[], notes=notes).to_json() | found
    write_json(options.output, report)
    if options.output == RESULTS:
        before, _, rest = PAGE.read_text(encoding="utf-8").partition(MARKS[0])
        after = rest.partition(MARKS[1])[2]
        PAGE.write_text(before + MARKS[0] + _tables(report) + MARKS[1] + after, encoding="utf-8")
    return 0


def _measure_load(model: str | None) -> dict[str, float]:
    """Time a load in a fresh process: imports, then the model."""
    program = (
        "import sys, time; a = time.perf_counter(); import torch; b = time.perf_counter()\n"
        "import sentence_transformers; c = time.perf_counter()\n"
        "from mixtral.embed import Embedder; d = time.perf_counter()\n"
        "Embedder(sys.argv[1] or None); print(b - a, c - b, time.perf_counter() - d)"
    )
    command = [sys.executable, "-c", program, model or ""]
    # The first one reads the files from disk.
    for _ in range(2):
        done = subprocess.run(command, check=True, capture_output=True, text=True)
    torch_s, library_s, model_s = map(float, done.stdout.split())
    return {
        "import_torch_s": torch_s,
        "import_sentence_transformers_s": library_s,
        "load_model_s": model_s,
    }


def _measure_batch(embedder: Embedder, *, batch: int, words: int, repeats: int) -> dict[str, Any]:
    texts = _texts(batch, words)
    tokens = sum(embedder.embed(texts).num_tokens)
    spread = Spread.of(_times(lambda: embedder.embed(texts), repeats))
    return {
        "batch": batch,
        "tokens_per_text": tokens / batch,
        "seconds": {"median": spread.median, "min": spread.min, "max": spread.max},
        "texts_per_s": batch / spread.median,
        "tokens_per_s": tokens / spread.median,
    }


async def _measure_served(embedder: Embedder, *, repeats: int) -> dict[str, Any]:
    """Time 100 requests of one text that come at once, with and without joining them."""
    texts = _texts(100, 16)
    shared = AsyncEmbedder(embedder)
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        await asyncio.gather(*(shared.embed([text]) for text in texts))
        times.append(time.perf_counter() - begin)
    rounds = shared.num_rounds / repeats
    await shared.close()
    alone = _times(lambda: [embedder.embed([text]) for text in texts], repeats)
    return {
        "requests": len(texts),
        "rounds": rounds,
        "requests_per_s": len(texts) / Spread.of(times).median,
        "one_by_one_requests_per_s": len(texts) / Spread.of(alone).median,
    }


def _measure_contended(embedder: Embedder, *, threads: int) -> dict[str, Any]:
    """Measure 8 texts while as many other processes as there are cores compute without end."""
    texts = _texts(8, 16)
    torch.set_num_threads(threads)
    command = [sys.executable, "-c", "while True: pass"]
    busy = [subprocess.Popen(command) for _ in range(num_usable_cpus())]
    try:
        spread = Spread.of(_times(lambda: embedder.embed(texts), 5))
    finally:
        for process in busy:
            process.kill()
            process.wait()
    return {"threads": threads, "busy_processes": len(busy), "texts_per_s": 8 / spread.median}


def _measure_distances(embedder: Embedder) -> list[dict[str, Any]]:
    """Return the euclidean distances of the guide's paraphrase detector."""
    vectors = embedder.embed(list(SENTENCES)).vectors
    return [
        {"pair": [SENTENCES[i], SENTENCES[j]], "distance": _distance(vectors[i], vectors[j])}
        for i, j in itertools.combinations(range(len(SENTENCES)), 2)
    ]


def _distance(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.linalg.norm(a - b))


def _texts(count: int, words: int) -> list[str]:
    rng = random.Random(0)
    return [" ".join(rng.choices(WORDS, k=words)) for _ in range(count)]


def _times(work: Callable[[], object], repeats: int) -> list[float]:
    work()
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        work()
        times.append(time.perf_counter() - begin)
    return times


def _tables(report: dict[str, Any]) -> str:
    """Return the measured part of docs/embeddings.md."""
    found, notes, machine = report["embeddings"], report["notes"], report["machine"]
    load, served = found["load"], found["served"]
    one, all_cores = found["cores_shared"]
    lines = ["| sentence | sentence | distance |", "|---|---|---|"]
    lines += [
        f"| {' | '.join(row['pair'])} | {row['distance']:.3f} |" for row in found["distances"]
    ]
    lines += ["", "| tokens per text | texts at once | ms | texts/s | tokens/s |"]
    lines += ["|---|---|---|---|---|"]
    for row in found["speed"]:
        cells = [row["tokens_per_text"], row["batch"], row["seconds"]["median"] * 1e3]
        cells += [row["texts_per_s"], row["tokens_per_s"]]
        lines.append("| " + " | ".join(f"{cell:.0f}" for cell in cells) + " |")
    lines += [
        "",
        f"* Load: torch {load['import_torch_s']:.1f} s (a server has it anyway), the import of "
        f"sentence-transformers {load['import_sentence_transformers_s']:.1f} s, the model with its "
        f"checks {load['load_model_s']:.1f} s.",
        f"* {served['requests']} requests of one text at once: {served['requests_per_s']:.0f} per "
        f"second in {served['rounds']:.0f} rounds, {served['one_by_one_requests_per_s']:.0f} when "
        "run one by one.",
        f"* Beside {one['busy_processes']} processes that never rest: {one['texts_per_s']:.0f} "
        f"texts per second with 1 thread, {all_cores['texts_per_s']:.0f} with "
        f"{all_cores['threads']}.",
        f"* {machine['cpu']}, {notes['threads']} of {machine['cores']} cores, torch "
        f"{machine['torch']}, sentence-transformers {notes['sentence_transformers']}; other "
        f"processes took {notes['other_processes'] or 0:.0%} of the machine meanwhile.",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
