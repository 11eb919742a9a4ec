"""``mixtral paraphrase``: which lines of a file say the same.

Tables go to standard output (``--json`` prints one JSON object instead); ``--out`` writes the JSON.
"""

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mixtral.cli.console import note, print_json, spinner, write_text
from mixtral.cli.measuring import progress_bar
from mixtral.errors import InvalidRequest
from mixtral.whole_file import write_whole

if TYPE_CHECKING:
    from mixtral.embed import Embedder
    from mixtral.paraphrase import Paraphrases
    from mixtral.paraphrase.text_file import Line

_EXAMPLES = """Examples:
  mixtral paraphrase questions.txt
  mixtral paraphrase tickets.csv --column subject --threshold 0.5 --clusters --json
  mixtral paraphrase three-sentences.txt --all"""

app = typer.Typer(add_completion=False)


@app.command(epilog=_EXAMPLES)
def paraphrase(
    file: Annotated[
        Path, typer.Argument(help="Lines, .csv, .tsv or .jsonl; - reads lines of standard input.")
    ],
    threshold: Annotated[
        float | None,
        typer.Option(
            "--threshold",
            help="Largest euclidean distance of a pair, 0 to 2.",
            show_default="0.6, for the default model",
        ),
    ] = None,
    pairs: Annotated[bool, typer.Option("--pairs", help="Show pairs, not clusters.")] = False,
    clusters: Annotated[
        bool, typer.Option("--clusters", help="Show clusters, not pairs; for very many pairs.")
    ] = False,
    every: Annotated[
        bool,
        typer.Option(
            "--all", help="Show every pair in the order of the file, whatever its distance."
        ),
    ] = False,
    column: Annotated[
        str | None,
        typer.Option(
            "--column", help="Column of a .csv, or key of a .jsonl file.", show_default="text"
        ),
    ] = None,
    embedding_model: Annotated[
        str | None,
        typer.Option(
            "--embedding-model",
            help="Folder or hub id; without it, all-MiniLM-L6-v2 of the extra embed.",
        ),
    ] = None,
    device: Annotated[str, typer.Option("--device", help="cpu, cuda, or auto.")] = "cpu",
    method: Annotated[
        str,
        typer.Option("--method", help="exact, index, or auto: the index above 20,000 texts."),
    ] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Write the JSON object here.")
    ] = None,
) -> None:
    """Find the lines of a file that say the same: pairs and clusters."""
    from mixtral.paraphrase import DEFAULT_THRESHOLD
    from mixtral.paraphrase.find import check_threshold
    from mixtral.paraphrase.near_pairs import is_exact
    from mixtral.reports.folder import check_file

    # Before the minutes of work, not after them.
    if every and (pairs or clusters or threshold is not None):
        raise InvalidRequest("--all shows every pair; leave out --pairs, --clusters, --threshold.")
    if pairs and clusters:
        raise InvalidRequest("--pairs and --clusters exclude each other; without both, both come.")
    if out is not None:
        check_file("--out", out)
    limit = DEFAULT_THRESHOLD if threshold is None else threshold
    check_threshold(limit)
    is_exact(0, method)  # type: ignore[arg-type] # it is what says whether this is a method
    lines = _read(file, column)
    embedder = _load(embedding_model, device)
    if every:
        report, shown = _every_pair(lines, embedder)
    else:
        found = _find(lines, embedder, threshold=limit, method=method, with_pairs=not clusters)
        report, shown = _report(found, lines, embedder, pairs=pairs, clusters=clusters)
    if out is not None:
        write_whole(out, json.dumps(report, indent=1, ensure_ascii=False) + "\n")
        note(f"wrote {out}")
    if as_json:
        print_json(report)
    else:
        for line in shown:
            write_text(line + "\n")


def _read(file: Path, column: str | None) -> "list[Line]":
    from mixtral.paraphrase.text_file import read_stream, read_texts

    if str(file) != "-":
        lines = read_texts(file, column=column)
    else:
        try:
            sys.stdin.reconfigure(encoding="utf-8-sig")  # type: ignore[union-attr]
            lines = read_stream(sys.stdin, suffix="", column=column, name="standard input")
        except UnicodeDecodeError as error:
            raise InvalidRequest("standard input is not UTF-8 text; convert it first.") from error
    if len(lines) < 2:
        raise InvalidRequest(f"{file} has {len(lines)} texts; pairs need at least 2.")
    return lines


def _load(model: str | None, device: str) -> "Embedder":
    with spinner("loading the embedding model"):
        from mixtral.embed import Embedder

        return Embedder(model, device=device)


def _every_pair(
    lines: "Sequence[Line]", embedder: "Embedder"
) -> tuple[dict[str, Any], Iterator[str]]:
    from mixtral.paraphrase.find import pair_table
    from mixtral.paraphrase.report import guide_lines, pair_dict

    texts = [line.text for line in lines]
    with spinner("embedding"):
        found, num_cut = pair_table(texts, embedder)
    _note_cut(num_cut, embedder)
    report = {
        "model": embedder.name,
        "num_cut": num_cut,
        "pairs": [pair_dict(pair, lines) for pair in found],
    }
    return report, guide_lines(found, texts)


def _note_cut(num_cut: int, embedder: "Embedder") -> None:
    if num_cut:
        note(
            f"{num_cut} texts are longer than the {embedder.max_tokens} tokens that "
            f"{embedder.name} reads; their ends were left out"
        )


def _find(
    lines: "Sequence[Line]",
    embedder: "Embedder",
    *,
    threshold: float,
    method: str,
    with_pairs: bool,
) -> "Paraphrases":
    from mixtral.paraphrase import find_paraphrases

    with progress_bar("embedding") as show:
        found = find_paraphrases(
            [line.text for line in lines],
            embedder,
            threshold=threshold,
            method=method,  # type: ignore[arg-type] # checked by is_exact
            with_pairs=with_pairs,
            progress=show,
        )
    _note_cut(found.num_cut, embedder)
    if not found.is_exact:
        note(
            "found through an index, which misses a pair now and then; --method exact compares all"
        )
    return found


def _report(
    found: "Paraphrases",
    lines: "Sequence[Line]",
    embedder: "Embedder",
    *,
    pairs: bool,
    clusters: bool,
) -> tuple[dict[str, Any], Iterator[str]]:
    from mixtral.paraphrase.report import cluster_lines, pair_lines, report_dict

    report = report_dict(
        found, lines, model=embedder.name, with_clusters=not pairs, with_pairs=not clusters
    )

    def shown() -> Iterator[str]:
        if not clusters and found.pairs:
            yield from pair_lines(found.pairs, lines)
        if not pairs and not clusters and found.pairs:
            yield ""
        if not pairs:
            yield from cluster_lines(found.clusters, lines)
        num_pairs = "" if clusters else f"{len(found.pairs)} pairs and "
        note(
            f"{num_pairs}{len(found.clusters)} clusters among {found.num_texts} texts, within a "
            f"distance of {found.threshold:g}"
        )

    return report, shown()
