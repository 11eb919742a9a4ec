"""Measure how fast near pairs are found among many sentences, and how many the index finds.

    python benchmarks/paraphrase.py --data DIR            # some five minutes on two cores
    python benchmarks/paraphrase.py --data DIR --quick    # half a minute; writes nothing

DIR has train/topical_chat, human dialogues. Its different sentences of four words and more are
embedded with the default model; then the pairs within the default threshold are looked for in
three ways: all compared, the index, and sentence-transformers' ``paraphrase_mining``, which keeps
the 100 nearest of each. The index counts only if all that it finds is there when all are compared,
with the same distance. Writes benchmarks/results/paraphrase.json and the table of
docs/paraphrase.md (benchmarks/measured_parts.py).
"""

import argparse
import gzip
import json
import re
import sys
import time
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measured_parts import RESULTS, write_paraphrase
from measured_parts import main as write_pages
from numpy.typing import NDArray
from sentence_transformers.util import paraphrase_mining_embeddings

from mixtral.bench.other_processes import OtherProcesses
from mixtral.bench.probes import float32_gflops
from mixtral.bench.results import Report, write_json
from mixtral.embed import Embedder
from mixtral.errors import EngineError
from mixtral.machine import num_usable_cpus
from mixtral.paraphrase import DEFAULT_THRESHOLD
from mixtral.paraphrase.near_pairs import Method, near_pairs
from mixtral.paraphrase.vectors import embed_texts

SIZES = (20_000, 40_000, 74_000)
QUICK_SIZES = (2_000,)
MIN_WORDS = 4
PEER_PAIRS = 10_000_000  # so that it leaves none out for their number
_END = re.compile(r"(?<=[.!?])\s+")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, write, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of train/")
    parser.add_argument("--quick", action="store_true", help="few sentences; nothing is written")
    parser.add_argument("--threads", type=int, default=num_usable_cpus())
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    sizes = QUICK_SIZES if options.quick else SIZES
    sentences = read_sentences(options.data, most=sizes[-1])
    others = OtherProcesses()
    before = float32_gflops()
    embedder = Embedder()
    begin = time.perf_counter()
    vectors = embed_texts(sentences, embedder).vectors
    found = {
        "embedding": {"sentences": len(sentences), "seconds": time.perf_counter() - begin},
        "ways": [compare(vectors[:size]) for size in sizes],
    }
    notes = {
        "embedding_model": embedder.name,
        "threshold": DEFAULT_THRESHOLD,
        "threads": options.threads,
        "faiss": version("faiss-cpu"),
        "sentence_transformers": version("sentence-transformers"),
        "float32_gflops": [before, float32_gflops()],
        "other_processes": others.share(),
    }
    report = Report(results=[], notes=notes).to_json() | {"paraphrase": found}
    if not options.quick:
        write_json(RESULTS / "paraphrase.json", report)
        write_pages()
    print(write_paraphrase(report))
    return 0


def read_sentences(data: Path, *, most: int) -> list[str]:
    """Return different sentences of the dialogues, in their order.

    Raises:
        SystemExit: There are fewer, or none.
    """
    try:
        sentences = list(dict.fromkeys(_sentences(data)))[:most]
    except FileNotFoundError as error:
        raise SystemExit(f"{error.filename} does not exist; name its folder with --data.") from None
    if len(sentences) < most:
        raise SystemExit(f"{data} has {len(sentences):,} sentences; {most:,} are needed.")
    return sentences


def _sentences(data: Path) -> Iterator[str]:
    path = data / "train/topical_chat/conversations.jsonl.gz"
    with gzip.open(path, "rt", encoding="utf-8") as file:
        for line in file:
            for message in json.loads(line)["messages"]:
                for sentence in _END.split(" ".join(message["text"].split())):
                    if len(sentence.split()) >= MIN_WORDS:
                        yield sentence


def compare(vectors: NDArray[np.float32]) -> dict[str, Any]:
    """Look for the pairs in three ways.

    Raises:
        EngineError: The index gives a pair that is none, or another distance.
    """
    whole, whole_s = _timed_pairs(vectors, "exact")
    index, index_s = _timed_pairs(vectors, "index")
    if any(whole.get(pair) != distance for pair, distance in index.items()):
        raise EngineError("the index and the comparison of all disagree; nothing counts.")
    begin = time.perf_counter()
    mined = paraphrase_mining_embeddings(torch.from_numpy(vectors), max_pairs=PEER_PAIRS)
    peer_s = time.perf_counter() - begin
    lowest = 1 - DEFAULT_THRESHOLD**2 / 2
    peer = {(min(i, j), max(i, j)) for score, i, j in mined if score >= lowest}
    return {
        "sentences": len(vectors),
        "pairs": len(whole),
        "exact": {"seconds": whole_s},
        "index": {"seconds": index_s, "found": len(index)},
        "peer": {"seconds": peer_s, "found": len(peer & whole.keys())},
    }


def _timed_pairs(
    vectors: NDArray[np.float32], method: Method
) -> tuple[dict[tuple[int, int], float], float]:
    begin = time.perf_counter()
    blocks = list(near_pairs(vectors, DEFAULT_THRESHOLD, method=method))
    seconds = time.perf_counter() - begin
    pairs: dict[tuple[int, int], float] = {}
    for block in blocks:
        sides = zip(block.first.tolist(), block.second.tolist(), strict=True)
        pairs.update(zip(sides, block.distance.tolist(), strict=True))
    return pairs, seconds


if __name__ == "__main__":
    sys.exit(main())
