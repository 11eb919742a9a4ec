"""The measured part of docs/rag.md, from benchmarks/results/rag_retrieval.json.

python benchmarks/rag_tables.py
"""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from measured_parts import END, fill

from mixtral.whole_file import write_whole

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "rag_retrieval.json"
PAGE = ROOT / "docs" / "rag.md"
MARKS = ("<!-- made by benchmarks/rag_retrieval.py -->\n", END)
Report = Mapping[str, Any]


def main() -> int:
    """Write the page again."""
    write_tables(json.loads(RESULTS.read_text(encoding="utf-8")), PAGE)
    return 0


def write_tables(report: Report, page: Path) -> None:
    """Put the tables between the marks of a page."""
    text = fill(page.read_text(encoding="utf-8"), MARKS[0], tables(report))
    write_whole(page, text)


def tables(report: Report) -> str:
    """Return the tables."""
    parts = [_retrieval(report), _relevance(report), _speed(report), _conditions(report)]
    return "\n".join(parts)


def _retrieval(report: Report) -> str:
    lines = [
        "| data, and what is right | way | recall@4 | recall in 2,048 characters | MRR@10 |",
        "|---|---|---|---|---|",
    ]
    for row in report["rag"]["retrieval"]:
        name = f"{row['corpus']}, {row['reading']} ({row['questions']} questions)"
        cells = []
        for key in ("recall_4", "recall_2048", "mrr_10"):
            more = row[key]["more_than_plain"]
            cell = f"{row[key]['mean']:.3f}"
            if row["arm"] != "plain":
                cell += f" ({more['mean']:+.3f} ± {more['error']:.3f})"
            cells.append(cell)
        lines.append(f"| {name} | {row['arm']} | {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def _relevance(report: Report) -> str:
    lines = [
        "| half of the questions | passages there: model asked | right passage kept | "
        "passages left out: refused |",
        "|---|---|---|---|",
    ]
    for row in report["rag"]["relevance"]:
        lines.append(
            f"| {row['half']} | {row['asked_share']:.1%} of {row['answerable']} "
            f"| {row['right_kept_share']:.1%} | {row['refused_share']:.1%} of {row['absent']} |"
        )
    return "\n".join([*lines, ""])


def _speed(report: Report) -> str:
    found = report["rag"]
    lines = ["| chunks | search, median | p95 | faiss's flat index alone, median | p95 |"]
    lines += ["|---|---|---|---|---|"]
    for row in found["latency"]:
        cells = [row[way][which] for way in ("ours_ms", "plain_ms") for which in ("median", "p95")]
        lines.append(f"| {row['chunks']:,} | " + " | ".join(f"{c:.1f} ms" for c in cells) + " |")
    embedding = found["question_embedding_ms"]
    lines += [
        "",
        f"Embedding the question comes to that: {embedding['median']:.0f} ms, p95 "
        f"{embedding['p95']:.0f} ms.",
        "",
        "| added | documents | chunks | seconds | documents per second | chunks per second |",
        "|---|---|---|---|---|---|",
    ]
    for row in found["adding"]:
        lines.append(
            f"| {row['corpus']} | {row['documents']:,} | {row['chunks']:,} | {row['seconds']:.0f} "
            f"| {row['documents_per_s']:.1f} | {row['chunks_per_s']:.1f} |"
        )
    return "\n".join([*lines, ""])


def _conditions(report: Report) -> str:
    machine, notes = report["machine"], report["notes"]
    versions = ", ".join(f"{name} {value}" for name, value in notes["versions"].items())
    low, high = sorted(notes["read_gb_per_s"])
    return (
        f"{machine['cpu']}, {notes['threads']} of {machine['cores']} cores, torch "
        f"{machine['torch']}, {versions}, {notes['embedding_model']}; memory was read at {low:.0f} "
        f"to {high:.0f} GB/s, and other processes took {notes['other_processes'] or 0:.0%} of the "
        f"machine meanwhile; {report['date'][:10]}, {(report['commit'] or 'no commit')[:9]}.\n"
    )


if __name__ == "__main__":
    sys.exit(main())
