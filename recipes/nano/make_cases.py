"""Write the held-out cases and preference pairs: ``python recipes/nano/make_cases.py --out DIR``.

Without ``--out`` they go to their place in the package, ``src/mixtral/eval/nano_card``. They need
nothing but the novel excerpts there; the same seed gives the same bytes.
"""

import argparse
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from novels import sample_novels
from tasks import heldout_cases, preference_pairs

from mixtral.whole_file import write_whole

PACKAGE = Path(__file__).resolve().parents[2] / "src" / "mixtral" / "eval" / "nano_card"
CASES_PER_TASK = 100
NUM_PAIRS = 200
SEED = 5


def main(arguments: list[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Write nano's held-out cases.")
    parser.add_argument("--out", type=Path, default=PACKAGE, help="folder to write")
    write_cases(parser.parse_args(arguments).out)
    return 0


def write_cases(out: Path) -> None:
    """Write ``heldout.jsonl`` and ``preferences.jsonl``."""
    novels = sample_novels()
    write_lines(out / "heldout.jsonl", heldout_cases(SEED, CASES_PER_TASK, novels))
    pairs = preference_pairs(str(SEED), "heldout", NUM_PAIRS, novels)
    write_lines(out / "preferences.jsonl", pairs)


def write_lines(path: Path, records: Iterable[dict[str, Any]]) -> None:
    """Write records as lines of JSON, whole or not at all."""
    write_whole(path, "".join(json.dumps(each, ensure_ascii=False) + "\n" for each in records))


if __name__ == "__main__":
    sys.exit(main())
