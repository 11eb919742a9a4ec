"""What was found, as tables for people and as JSON for programs."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from mixtral.paraphrase.find import Pair, Paraphrases
from mixtral.paraphrase.text_file import Line


def guide_lines(pairs: Iterable[Pair], texts: Sequence[str]) -> Iterator[str]:
    """Yield pairs as the tutorial on Mixtral 8x22B prints them: a tuple and a 1 x 1 matrix.

    >>> [*guide_lines([Pair(first=0, second=1, distance=0.845)], ["Why?", "So."])]
    ["('Why?', 'So.') [[0.84500000]]"]
    """
    for pair in pairs:
        yield f"{(texts[pair.first], texts[pair.second])} [[{pair.distance:.8f}]]"


def pair_lines(pairs: Iterable[Pair], lines: Sequence[Line]) -> Iterator[str]:
    """Yield a table of pairs: a head, then two rows for each, one text under the other."""
    width = len(str(lines[-1].number)) if lines else 1
    yield f"distance  cosine  {'line':>{max(width, 4)}}  text"
    for pair in pairs:
        one, other = lines[pair.first], lines[pair.second]
        head = f"{pair.distance:8.4f}  {pair.cosine:6.4f}"
        yield f"{head}  {one.number:>{max(width, 4)}}  {one.text}"
        yield f"{'':{len(head)}}  {other.number:>{max(width, 4)}}  {other.text}"


def cluster_lines(clusters: Iterable[Sequence[int]], lines: Sequence[Line]) -> Iterator[str]:
    """Yield clusters: a head with the size, then one row for each text."""
    width = len(str(lines[-1].number)) if lines else 1
    for number, cluster in enumerate(clusters, start=1):
        yield f"cluster {number}: {len(cluster)} texts"
        for place in cluster:
            yield f"  {lines[place].number:>{width}}  {lines[place].text}"


def report_dict(
    found: Paraphrases, lines: Sequence[Line], *, model: str, with_clusters: bool, with_pairs: bool
) -> dict[str, Any]:
    """Return everything as JSON values; ``first``, ``second`` and ``lines`` are numbers of lines.

    Args:
        found: What was found.
        lines: The texts that were searched.
        model: Name of the embedding model.
        with_clusters: Whether to list clusters.
        with_pairs: Whether to list pairs.
    """
    report: dict[str, Any] = {
        "model": model,
        "threshold": found.threshold,
        "is_exact": found.is_exact,
        "num_texts": found.num_texts,
        "num_cut": found.num_cut,
        "duplicates": [[lines[place].number for place in where] for where in found.duplicates],
    }
    if with_pairs:
        report["pairs"] = [pair_dict(pair, lines) for pair in found.pairs]
    if with_clusters:
        report["clusters"] = [
            {
                "lines": [lines[place].number for place in cluster],
                "texts": [lines[place].text for place in cluster],
            }
            for cluster in found.clusters
        ]
    return report


def pair_dict(pair: Pair, lines: Sequence[Line]) -> dict[str, Any]:
    """Return one pair as JSON values."""
    one, other = lines[pair.first], lines[pair.second]
    return {
        "first": one.number,
        "second": other.number,
        "distance": pair.distance,
        "cosine": pair.cosine,
        "texts": [one.text, other.text],
    }
