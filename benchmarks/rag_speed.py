"""How long a search takes in collections of 1,000 to 100,000 chunks.

To embed 100,000 chunks would take hours on a laptop and say nothing about the search: here vectors
are random, and texts are words drawn by lot as often as they stand in a real corpus, so that the
keyword index has lists of real lengths. Questions are real. The embedding of a question is timed on
its own: it is the same at every size.
"""

import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mixtral.rag import Collection, CollectionSettings
from mixtral.rag.embedding import Embed
from mixtral.rag.vector_index import import_faiss

DIMENSION = 384
CHUNK = 600  # characters, about those of a chunk of 192 tokens of English prose
CHUNKS_PER_DOCUMENT = 100
NUM_QUESTIONS = 200
NUM_WARM_UP = 5
SEED = 0


def measure_latency(size: int, *, texts: Sequence[str], questions: Sequence[str]) -> dict[str, Any]:
    """Measure a collection of ``size`` chunks, and faiss's flat index over as many vectors.

    Args:
        size: Chunks, a multiple of 100.
        texts: Where words are drawn from.
        questions: What is asked, in turn.
    """
    rng = np.random.default_rng(SEED)
    words = np.array(" ".join(texts).split())
    settings = CollectionSettings(chunk_characters=CHUNK)

    def embed(batch: Sequence[str]) -> NDArray[np.float32]:
        return _unit_vectors(rng, len(batch))

    asked = [questions[i % len(questions)] for i in range(NUM_QUESTIONS)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "files").mkdir()
        for number in range(size // CHUNKS_PER_DOCUMENT):
            text = " ".join(rng.choice(words, size=CHUNKS_PER_DOCUMENT * CHUNK // 4))
            path = folder / "files" / f"{number:05}.txt"
            path.write_text(text[: CHUNKS_PER_DOCUMENT * CHUNK], encoding="utf-8")
        begin = time.perf_counter()
        with Collection(
            folder / "store", embed=embed, embedder_name="random", settings=settings
        ) as collection:
            added = collection.add([folder / "files"])
            seconds = time.perf_counter() - begin
            ours = _milliseconds([lambda q=q: collection.search(q) for q in asked])
    index = import_faiss().IndexFlatL2(DIMENSION)
    index.add(_unit_vectors(rng, size))
    queries = _unit_vectors(rng, NUM_QUESTIONS)
    plain = _milliseconds([lambda i=i: index.search(queries[i : i + 1], 4) for i in range(200)])
    return {
        "chunks": sum(one.num_chunks for one in added),
        "is_synthetic": True,
        "seed": SEED,
        "add_without_embedding_s": seconds,
        "questions": NUM_QUESTIONS,
        "ours_ms": ours,
        "plain_ms": plain,
    }


def measure_embedding(embed: Embed, questions: Sequence[str]) -> dict[str, float]:
    """Measure the embedding of one question at a time."""
    return _milliseconds([lambda q=q: embed([q]) for q in questions[:50]])


def _milliseconds(calls: Sequence[Callable[[], object]]) -> dict[str, float]:
    """Return the median and the 95th percentile of the times of some calls."""
    times = []
    for call in [*calls[:NUM_WARM_UP], *calls]:
        begin = time.perf_counter()
        call()
        times.append((time.perf_counter() - begin) * 1e3)
    return {
        "median": float(np.median(times[NUM_WARM_UP:])),
        "p95": float(np.percentile(times[NUM_WARM_UP:], 95)),
    }


def _unit_vectors(rng: np.random.Generator, count: int) -> NDArray[np.float32]:
    vectors = rng.standard_normal((count, DIMENSION), dtype=np.float32)
    unit: NDArray[np.float32] = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit
