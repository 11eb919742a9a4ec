"""Which sentences say the same: pairs whose embeddings are near, and clusters of such pairs.

    >>> from mixtral.paraphrase import find_paraphrases                      # doctest: +SKIP
    >>> find_paraphrases(["What led to Zidane's ban from football?",
    ...                   "This is a totally different sentence.",
    ...                   "What caused Zidane to get banned from football?"]).clusters
    [[0, 2]]

The parts:

    vectors      texts to unit vectors, in blocks
    near_pairs   all pairs within a distance: by comparing all, or through an index
    clusters     what is joined by pairs, directly or through others
    find         the three together
    text_file    texts of a file: lines, a column of CSV, a key of JSON lines
    report       the result as a table, and as JSON

docs/paraphrase.md is the guide.
"""

from mixtral.paraphrase.find import (
    DEFAULT_THRESHOLD,
    Pair,
    Paraphrases,
    all_pairs,
    find_paraphrases,
)

__all__ = ["DEFAULT_THRESHOLD", "Pair", "Paraphrases", "all_pairs", "find_paraphrases"]
