"""Make nano's training files: ``python recipes/nano/prepare.py --data DIR --out DIR``.

Writes token files that ``mixtral train`` maps into memory: ``pretrain`` and ``sft``, each with a
``_valid`` twin, the loss masks of the chat files, and ``heldout.jsonl`` with the held-out cases.
The order of documents, and every byte, depends on nothing but the data and the seed; the work is
cut into jobs with seeds of their own, so the number of processes does not matter.
"""

import argparse
import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from random import Random

import numpy as np
from corpus import TextDocument, read_corpus
from drills import make_drill, plain_words
from encoding import Encoder
from numpy.typing import NDArray
from tasks import heldout_cases, make_conversation, make_sums

from mixtral.errors import ConfigError

Tokens = NDArray[np.uint16]
Mask = NDArray[np.uint8]

_PRETRAIN_CHAT_TOKENS = 4_300_000
_SFT_TOKENS = 3_500_000
_SFT_VALID_TOKENS = 60_000
_DRILL_TOKENS = 600_000
_SUMS_TOKENS = 400_000
_JOB_TOKENS = 100_000
_LONGEST_CONVERSATION = 1024
_CASES_PER_TASK = 60


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """What one process makes at a time."""

    kind: str
    """text, chat, drill or sums."""
    seed: str
    """Seed of this job alone."""
    texts: tuple[str, ...] = ()
    """Documents to encode, for text."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Encoded:
    """A document as tokens."""

    kind: str
    """Where it comes from."""
    tokens: Tokens
    """Its ids."""
    mask: Mask
    """1 where the fine-tuning loss counts."""


def main(arguments: list[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Make nano's training files.")
    parser.add_argument("--data", type=Path, required=True, help="folder of the sources")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scale", type=float, default=1.0, help="share of all token budgets")
    options = parser.parse_args(arguments)
    try:
        prepare(options.data, options.out, seed=options.seed, scale=options.scale)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def prepare(data: Path, out: Path, *, seed: int, scale: float) -> None:
    """Write all files.

    Raises:
        ConfigError: A source is missing, or scale is not above 0.
    """
    if scale <= 0:
        raise ConfigError(f"scale is {scale}; it must be above 0.")
    out.mkdir(parents=True, exist_ok=True)
    documents = read_corpus(data, seed)
    documents = documents[:: max(1, round(1 / scale))]
    pretrain = _text_jobs([d for d in documents if not d.is_valid])
    pretrain += _jobs("chat", f"{seed}/pretrain", _PRETRAIN_CHAT_TOKENS * scale)
    pretrain += _jobs("drill", f"{seed}/drill", _DRILL_TOKENS * scale)
    pretrain += _jobs("sums", f"{seed}/sums", _SUMS_TOKENS * scale)
    plan = {
        "pretrain": pretrain,
        "pretrain_valid": _text_jobs([d for d in documents if d.is_valid]),
        "sft": _jobs("chat", f"{seed}/sft", _SFT_TOKENS * scale),
        "sft_valid": _jobs("chat", f"{seed}/sft_valid", _SFT_VALID_TOKENS * scale),
    }
    with get_context("spawn").Pool(2) as pool:
        for name, jobs in plan.items():
            made = [document for part in pool.imap(_run, jobs) for document in part]
            _write(out, name, made, seed=seed, with_mask=name.startswith("sft"))
    cases = heldout_cases(seed, _CASES_PER_TASK)
    text = "".join(json.dumps(case, ensure_ascii=False) + "\n" for case in cases)
    _replace(out / "heldout.jsonl", lambda path: path.write_text(text, encoding="utf-8"))
    print(f"heldout: {len(cases)} cases")


def _jobs(kind: str, seed: str, num_tokens: float) -> list[Job]:
    count = max(1, round(num_tokens / _JOB_TOKENS))
    return [Job(kind=kind, seed=f"{seed}/{index}") for index in range(count)]


def _text_jobs(documents: list[TextDocument]) -> list[Job]:
    by_kind: dict[str, list[str]] = {}
    for document in documents:
        by_kind.setdefault(document.kind, []).append(document.text)
    return [
        Job(kind="text", seed=kind, texts=tuple(texts[start : start + 200]))
        for kind, texts in by_kind.items()
        for start in range(0, len(texts), 200)
    ]


@cache
def _encoder() -> Encoder:
    return Encoder()


@cache
def _drill_words() -> list[str]:
    return plain_words(_encoder().vocabulary())


def _run(job: Job) -> list[Encoded]:
    if job.kind == "text":
        return [_encode_text(job.seed, text) for text in job.texts]
    rng = Random(f"{job.seed}/{job.kind}")
    documents: list[Encoded] = []
    num_tokens = 0
    while num_tokens < _JOB_TOKENS:
        document = _draw(job.kind, rng)
        if len(document.tokens) <= _LONGEST_CONVERSATION:
            documents.append(document)
            num_tokens += len(document.tokens)
    return documents


def _draw(kind: str, rng: Random) -> Encoded:
    if kind == "drill":
        return _encode_text(kind, make_drill(rng, _drill_words()))
    if kind == "sums":
        return _encode_text(kind, make_sums(rng))
    conversation = make_conversation(rng)
    tokens, mask = _encoder().conversation(conversation)
    return Encoded(kind=f"task {conversation.task}", tokens=tokens, mask=mask)


def _encode_text(kind: str, text: str) -> Encoded:
    tokens = _encoder().document(text)
    return Encoded(kind=kind, tokens=tokens, mask=np.ones(len(tokens), dtype=np.uint8))


def _write(out: Path, name: str, made: list[Encoded], *, seed: int, with_mask: bool) -> None:
    Random(f"{seed}/{name}/order").shuffle(made)
    tokens = np.concatenate([document.tokens for document in made])
    _save(out / f"{name}.tokens.npy", tokens)
    counts: Counter[str] = Counter()
    for document in made:
        counts[document.kind] += len(document.tokens)
    print(f"{name}: {len(tokens):,} tokens in {len(made):,} documents")
    _print_shares(counts.most_common(), len(tokens))
    if with_mask:
        mask = np.concatenate([document.mask for document in made])
        _save(out / f"{name}.mask.npy", mask)
        print(f"  the loss counts {int(mask.sum()):,} of them")


def _print_shares(counts: Iterable[tuple[str, int]], total: int) -> None:
    for kind, count in counts:
        print(f"  {kind:24} {count:>10,}  {count / total:6.1%}")


def _save(path: Path, array: Tokens | Mask) -> None:
    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            np.save(file, array)
            file.flush()
            os.fsync(file.fileno())

    _replace(path, write)


def _replace(path: Path, write: Callable[[Path], object]) -> None:
    """Write to a temporary name, then rename, so that a file is whole or not there."""
    temporary = path.with_name(path.name + ".part")
    write(temporary)
    temporary.replace(path)


if __name__ == "__main__":
    sys.exit(main())
