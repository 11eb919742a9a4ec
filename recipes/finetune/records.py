"""Example data for fine-tuning: ``python recipes/finetune/records.py --data DATA --out DIR``.

Turns public data in layouts of its own into the records that ``mixtral train`` reads:

    self_instruct/seed_tasks.jsonl    -> sft.jsonl   {"messages": [user, assistant]}
    oasst_sample/sft.jsonl            -> sft.jsonl
    fg_rlhf/pairs.jsonl.gz            -> dpo.jsonl   {"messages", "chosen", "rejected"}

Both orders are drawn from a seed. A file that is missing is left out with a note.
"""

import argparse
import gzip
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

from mixtral.whole_file import write_whole

_ROLES = {"prompter": "user", "assistant": "assistant"}
# Of the passages that a question comes with, as much as leaves room for two answers.
_PASSAGE_CHARACTERS = 1200

Record = dict[str, Any]


def main(arguments: list[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Make example records for fine-tuning.")
    parser.add_argument("--data", type=Path, required=True, help="folder of the sources")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--conversations", type=int, default=200, help="records of sft.jsonl")
    parser.add_argument("--pairs", type=int, default=2000, help="records of dpo.jsonl")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    wanted = {
        "sft.jsonl": (
            [*_seed_tasks(options.data), *_assistant_turns(options.data)],
            options.conversations,
        ),
        "dpo.jsonl": (list(_feedback_pairs(options.data)), options.pairs),
    }
    for name, (records, count) in wanted.items():
        if not records:
            print(f"error: {options.data} has no source of {name}", file=sys.stderr)
            return 2
        Random(name).shuffle(records)
        _write(options.out / name, records[:count])
        print(f"wrote {min(count, len(records))} records to {options.out / name}")
    return 0


def _seed_tasks(data: Path) -> Iterator[Record]:
    for row in _rows(data / "self_instruct" / "seed_tasks.jsonl"):
        for instance in row["instances"][:1]:
            question = "\n\n".join(part for part in (row["instruction"], instance["input"]) if part)
            yield _conversation([("user", question), ("assistant", instance["output"])])


def _assistant_turns(data: Path) -> Iterator[Record]:
    for row in _rows(data / "oasst_sample" / "sft.jsonl"):
        turns = [(_ROLES[role], text) for role, text in row["messages"]]
        yield _conversation([*turns, ("assistant", row["response"])])


def _feedback_pairs(data: Path) -> Iterator[Record]:
    for row in _rows(data / "fg_rlhf" / "pairs.jsonl.gz"):
        passages = row["passages"][:_PASSAGE_CHARACTERS].rpartition(".")[0]
        prompt = f"{passages}.\n\nAnswer from the text above: {row['question']}"
        if row["chosen"].strip() and row["rejected"].strip() and row["chosen"] != row["rejected"]:
            yield {
                "messages": [{"role": "user", "content": prompt}],
                "chosen": {"role": "assistant", "content": row["chosen"]},
                "rejected": {"role": "assistant", "content": row["rejected"]},
            }


def _conversation(turns: list[tuple[str, str]]) -> Record:
    return {"messages": [{"role": role, "content": text} for role, text in turns]}


def _rows(path: Path) -> Iterator[Record]:
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rt", encoding="utf-8") as file:
            yield from (json.loads(line) for line in file)
    except FileNotFoundError:
        print(f"note: {path} is not there and left out", file=sys.stderr)


def _write(path: Path, records: list[Record]) -> None:
    write_whole(path, "".join(json.dumps(each, ensure_ascii=False) + "\n" for each in records))


if __name__ == "__main__":
    sys.exit(main())
