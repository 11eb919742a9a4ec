"""Measure retrieval: is the right passage found, is the absent one missed, how fast is it.

    python benchmarks/rag_retrieval.py --data DIR            # some 15 minutes on two cores
    python benchmarks/rag_retrieval.py --data DIR --tune     # grids of settings, too
    python benchmarks/rag_retrieval.py --data DIR --quick    # a minute; prints and writes nothing

DIR has train/fg_rlhf and eval/mbpp (``rag_cases``). Ours is a ``Collection`` with its default
settings; "plain" is what Mistral's guide to retrieval does (https://docs.mistral.ai/guides/rag):
windows of 512 characters, the same embeddings, faiss's IndexFlatL2, nothing else. Both read the
same files. Settings were chosen on one half of the questions, by the grids of ``--tune``; all other
numbers are of the other half. Writes benchmarks/results/rag_retrieval.json and, from it, the tables
of docs/rag.md.
"""

import argparse
import itertools
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from rag_arms import Embeddings, Ours, plain_search
from rag_cases import Corpus, Question, is_even, load_corpora, mean_and_error, score
from rag_speed import measure_embedding, measure_latency
from rag_tables import tables, write_tables

from mixtral.bench.other_processes import OtherProcesses
from mixtral.bench.probes import Prober
from mixtral.bench.results import Report, write_json
from mixtral.embed import Embedder
from mixtral.machine import num_usable_cpus
from mixtral.rag import AddedDocument, CollectionSettings, Passage
from mixtral.rag.ask import DEFAULT_LIMIT, Ask
from mixtral.rag.embedding import token_counter

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "rag_retrieval.json"
PAGE = ROOT / "docs" / "rag.md"
SIZES = (1_000, 10_000, 100_000)
NUM_TIMED = 200  # documents whose adding is timed
QUICK_QUESTIONS = 40
ARMS: dict[str, dict[str, Any]] = {
    "ours": {},
    "ours, vectors alone": {"keyword_weight": 0.0},
    "ours, words alone": {"keyword_weight": 1.0},
}
FUSION_GRID = {
    "keyword_weight": (0.0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5),
    "diversity": (0.0, 0.05, 0.1, 0.2),
}
RELEVANCE_GRID = {
    "sure_similarity": (0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65),
    "min_similarity": (0.1, 0.2, 0.3, 0.4),
    "min_keyword_share": (0.34, 0.5, 0.67, 0.75, 1.0),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, write, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of train/ and eval/")
    parser.add_argument("--quick", action="store_true", help="few questions; nothing is written")
    parser.add_argument("--tune", action="store_true", help="grids over the tuning half, too")
    parser.add_argument("--vectors", type=Path, help=".npz that keeps vectors for another run")
    parser.add_argument("--threads", type=int, default=num_usable_cpus())
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    embedder, others, prober = Embedder(), OtherProcesses(), Prober()
    before = prober.measure()
    embeddings = Embeddings(
        lambda texts: embedder.embed(texts).vectors,
        token_counter(embedder),
    )
    if options.vectors is not None and options.vectors.exists():
        embeddings.load(options.vectors)
    found = measure(
        load_corpora(options.data, limit=QUICK_QUESTIONS if options.quick else None),
        embeddings,
        sizes=SIZES[:1] if options.quick else SIZES,
        with_grids=options.tune,
    )
    after = prober.measure()
    if options.vectors is not None:
        embeddings.save(options.vectors)
    notes = {
        "embedding_model": embedder.name,
        "threads": options.threads,
        "versions": {name: version(name) for name in ("faiss-cpu", "sentence-transformers")},
        "settings": asdict(CollectionSettings()),
        "ask": asdict(Ask()),
        "read_gb_per_s": [before.read_gb_per_s, after.read_gb_per_s],
        "other_processes": others.share(),
    }
    report = Report(results=[], notes=notes).to_json() | {"rag": found}
    if not options.quick:
        write_json(options.output, report)
    if not options.quick and options.output == RESULTS:
        write_tables(report, PAGE)
    print(tables(report))
    for grid, fields, wanted in (
        ("fusion_grid", FUSION_GRID, ("recall_4", "mrr_10")),
        ("relevance_grid", RELEVANCE_GRID, ("right_kept_share", "refused_share")),
    ):
        _print_best(found[grid], tuple(fields), wanted)
    return 0


def _print_best(
    rows: Sequence[Mapping[str, Any]], fields: Sequence[str], wanted: Sequence[str]
) -> None:
    """Print the settings whose mean of some scores, over all data, is best."""
    means: dict[tuple[float, ...], list[list[float]]] = defaultdict(list)
    for row in rows:
        means[tuple(row[name] for name in fields)].append([row[name] for name in wanted])
    ranked = sorted(means.items(), key=lambda item: -sum(map(sum, item[1])))
    for values, scores in ranked[:10]:
        settings = ", ".join(f"{n} {v}" for n, v in zip(fields, values, strict=True))
        columns = zip(*scores, strict=True)
        shown = (f"{n} {sum(c) / len(c):.3f}" for n, c in zip(wanted, columns, strict=True))
        print(f"{settings}: {', '.join(shown)}")


def measure(
    corpora: Sequence[Corpus],
    embeddings: Embeddings,
    *,
    sizes: Sequence[int],
    with_grids: bool = False,
) -> dict[str, Any]:
    """Measure everything.

    Args:
        corpora: The first one is the one that passages are left out of.
        embeddings: Vectors of texts.
        sizes: Chunks of the collections whose latency is measured.
        with_grids: Whether to try other settings on the tuning half.
    """
    found: dict[str, Any] = {"adding": [], "retrieval": [], "fusion_grid": []}
    for corpus in corpora:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            found["adding"].append(_measure_adding(corpus, folder, embeddings))
            _add(corpus.documents, folder / "all", embeddings)
            with closing(Ours(folder / "all", embeddings)) as ours:
                found["retrieval"] += _compare(corpus, ours, embeddings)
                if with_grids:
                    found["fusion_grid"] += _fusion_grid(corpus, ours)
    found["relevance"], found["relevance_grid"] = _measure_relevance(
        corpora[0], embeddings, with_grid=with_grids
    )
    questions = [question.text for question in next(iter(corpora[0].questions.values()))]
    texts = list(corpora[0].documents.values())
    found["latency"] = [measure_latency(size, texts=texts, questions=questions) for size in sizes]
    found["question_embedding_ms"] = measure_embedding(embeddings.anew, questions)
    return found


# ---- Is the right passage found? ---------------------------------------------------------------


def _measure_adding(corpus: Corpus, folder: Path, embeddings: Embeddings) -> dict[str, Any]:
    """Time the first documents, all their vectors made anew."""
    names = list(corpus.documents)[:NUM_TIMED]
    fresh = Embeddings(embeddings.anew, embeddings.count_tokens)
    added, seconds = _add({name: corpus.documents[name] for name in names}, folder / "timed", fresh)
    num_chunks = sum(one.num_chunks for one in added)
    return {
        "corpus": corpus.name,
        "documents": len(added),
        "characters": sum(len(corpus.documents[name]) for name in names),
        "chunks": num_chunks,
        "seconds": seconds,
        "documents_per_s": len(added) / seconds,
        "chunks_per_s": num_chunks / seconds,
    }


def _add(
    documents: Mapping[str, str], folder: Path, embeddings: Embeddings
) -> tuple[list[AddedDocument], float]:
    """Add documents as files, as a user would; return what became of them, and the seconds."""
    (folder / "files").mkdir(parents=True)
    for file, text in documents.items():
        (folder / "files" / file).write_text(text, encoding="utf-8")
    begin = time.perf_counter()
    with embeddings.open(folder / "store") as collection:
        added = collection.add([folder / "files"])
    seconds = time.perf_counter() - begin
    assert all(one.status == "added" for one in added), "the files are plain and new"
    return added, seconds


def _compare(corpus: Corpus, ours: Ours, embeddings: Embeddings) -> list[dict[str, Any]]:
    """Return the scores of plain and of ours, on the half that nothing was tuned on."""
    plain = plain_search(corpus.documents, embeddings)
    rows = []
    for reading, questions in corpus.questions.items():
        asked = [question for question in questions if not question.is_tuning]
        base = score([plain(question.text) for question in asked], asked)
        about = {"corpus": corpus.name, "reading": reading, "questions": len(asked)}
        rows.append(about | {"arm": "plain"} | _summary(base, base))
        for arm, fields in ARMS.items():
            scores = score(ours.search_all(asked, fields), asked)
            rows.append(about | {"arm": arm} | _summary(scores, base))
    return rows


def _summary(
    scores: Mapping[str, Sequence[float]], base: Mapping[str, Sequence[float]]
) -> dict[str, Any]:
    """Return means, and the means of the differences to plain, question by question."""
    return {
        name: mean_and_error(values)
        | {
            "more_than_plain": mean_and_error(
                [one - other for one, other in zip(values, base[name], strict=True)]
            )
        }
        for name, values in scores.items()
    }


def _fusion_grid(corpus: Corpus, ours: Ours) -> list[dict[str, Any]]:
    """Return the scores of other settings on the tuning half."""
    rows = []
    for fields in _settings_of(FUSION_GRID):
        for reading, questions in corpus.questions.items():
            asked = [question for question in questions if question.is_tuning]
            scores = score(ours.search_all(asked, fields), asked)
            means = {name: mean_and_error(values)["mean"] for name, values in scores.items()}
            rows.append({"corpus": corpus.name, "reading": reading} | fields | means)
    return rows


# ---- Is the absent passage missed? -------------------------------------------------------------


def _measure_relevance(
    corpus: Corpus, embeddings: Embeddings, *, with_grid: bool
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Ask a collection of half the articles about all of them.

    Returns:
        What ``Ask`` says on both halves of the questions; and other thresholds on the tuning half.
    """
    inside = {name for name, group in corpus.groups.items() if is_even(group)}
    documents = {name: corpus.documents[name] for name in sorted(inside)}
    asked: dict[tuple[bool, bool], list[tuple[Question, list[Passage]]]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as name:
        _add(documents, Path(name), embeddings)
        with embeddings.open(Path(name) / "store") as collection:
            for question in next(iter(corpus.questions.values())):
                has_some = bool(question.right & inside)
                if has_some and not question.right <= inside:
                    continue  # Half an answer is there.
                found = collection.search(question.text, limit=DEFAULT_LIMIT)
                asked[question.is_tuning, has_some].append((question, found))
    rows = [
        {"half": "tuning" if is_tuning else "report"}
        | _verdicts(Ask(), asked[is_tuning, True], asked[is_tuning, False])
        for is_tuning in (True, False)
    ]
    grid = [
        fields | _verdicts(Ask(**fields), asked[True, True], asked[True, False])
        for fields in (_settings_of(RELEVANCE_GRID) if with_grid else [])
    ]
    return rows, grid


def _verdicts(
    ask: Ask,
    answerable: Sequence[tuple[Question, Sequence[Passage]]],
    absent: Sequence[tuple[Question, Sequence[Passage]]],
) -> dict[str, Any]:
    """Return how often there is something to show where there should be, and nothing elsewhere."""
    shown = [ask.relevant(question.text, found) for question, found in answerable]
    # Of the questions whose passage was found: whether it is still there.
    kept = [
        any(Path(one.source).name in question.right for one in some)
        for (question, found), some in zip(answerable, shown, strict=True)
        if any(Path(one.source).name in question.right for one in found)
    ]
    refused = [not ask.relevant(question.text, found) for question, found in absent]
    return {
        "answerable": len(answerable),
        "asked_share": sum(map(bool, shown)) / max(len(shown), 1),
        "right_kept_share": sum(kept) / max(len(kept), 1),
        "absent": len(absent),
        "refused_share": sum(refused) / max(len(refused), 1),
    }


def _settings_of(grid: Mapping[str, Sequence[float]]) -> Iterator[dict[str, float]]:
    for values in itertools.product(*grid.values()):
        yield dict(zip(grid, values, strict=True))


if __name__ == "__main__":
    sys.exit(main())
