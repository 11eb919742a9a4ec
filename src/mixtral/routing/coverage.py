"""The routing of a text as a file for other commands: busy experts, and starved ones.

``[lora] experts = "busiest:4"`` of a training recipe reads ``layers`` (``train/lora_settings.py``).
``coverage`` says whether the text would do to calibrate a quantised model: an expert that sees few
tokens has nothing to be rounded by.
"""

from collections.abc import Sequence
from typing import Any


def coverage_report(
    *, model: str, visits: Sequence[Sequence[int]], min_tokens_per_expert: int = 1
) -> dict[str, Any]:
    """Return busy and starved experts as one JSON object.

    Args:
        model: Name of the model.
        visits: Tokens that each expert computed, L lists of E.
        min_tokens_per_expert: Tokens below which an expert counts as starved; 1 names those
            that had no visit at all.

    Returns:
        ``layers`` with the ``load`` of each, shares with the sum 1 (zeros in a layer without a
        visit), and ``visits``; ``coverage`` with the fewest tokens and the starved experts.
    """
    layers = [{"load": shares(counts), "visits": list(counts)} for counts in visits]
    starved = [
        {"layer": layer, "expert": expert, "tokens": count}
        for layer, counts in enumerate(visits)
        for expert, count in enumerate(counts)
        if count < min_tokens_per_expert
    ]
    coverage = {
        "min_tokens_per_expert": min_tokens_per_expert,
        "fewest_tokens": min(min(counts) for counts in visits),
        "starved": starved,
    }
    return {"model": model, "layers": layers, "coverage": coverage}


def shares(counts: Sequence[int]) -> list[float]:
    """Return counts as shares of their sum; zeros where it is 0.

    >>> shares([1, 3])
    [0.25, 0.75]
    """
    total = sum(counts)
    return [count / total if total else 0.0 for count in counts]
