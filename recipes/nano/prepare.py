"""Make nano's training files: ``python recipes/nano/prepare.py --data DIR --out DIR``.

Writes token files with loss masks that ``mixtral train`` maps into memory: ``pretrain`` and
``sft``, each with a ``_valid`` twin; ``dpo.jsonl`` and ``dpo_valid.jsonl``; a sample of the SFT
conversations as ``sft.jsonl``; and the held-out cases. Training reads a file from its beginning,
so the order in it is the curriculum: every document has a time from 0 to 1 (``_TIMES``), and the
file is sorted by it. Copy drills come first and grow; then text, tasks and drills; long texts last
in pre-training, and all the time in fine-tuning.

Every byte depends on nothing but the data, the seed and the sizes; the work is cut into jobs with
seeds of their own, so the number of processes does not matter.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from random import Random

import numpy as np
from arithmetic_task import make_sums
from corpus import TextDocument, novel_texts, read_corpus
from drills import make_drill, make_marks, make_spelling
from encoding import Encoder
from make_cases import write_cases, write_lines
from novels import Novels
from numpy.typing import NDArray
from tasks import make_conversation, make_long, make_skills, preference_pairs

from mixtral.errors import ConfigError
from mixtral.whole_file import whole_file

Tokens = NDArray[np.uint16]
Mask = NDArray[np.uint8]

# What the tokens of each stage are.
_PRETRAIN = {"text": 0.2, "drill": 0.3, "spelling": 0.04, "sums": 0.04, "chat": 0.4, "long": 0.02}
# A little text in fine-tuning, too: without, nano forgets how to read it within some hundred steps;
# with more, the noise of text, which stays at 5 nats a token, drowns what tasks have to teach.
_SFT = {"text": 0.03, "drill": 0.03, "marks": 0.1, "spelling": 0.06, "sums": 0.14, "chat": 0.42,
        "skills": 0.18, "long": 0.04}  # fmt: skip
# The same for a last stage with documents of four times as many tokens.
_SFT_LONG = {"text": 0.04, "novel": 0.18, "drill": 0.02, "marks": 0.07, "spelling": 0.03,
             "sums": 0.06, "chat": 0.37, "skills": 0.11, "long": 0.12}  # fmt: skip
# Kind -> when it comes, from 0 to 1; drills come early, see _draw.
_TIMES = {"text": (0.04, 1.0), "marks": (0.04, 1.0), "spelling": (0.04, 1.0), "sums": (0.04, 1.0),
          "chat": (0.08, 1.0), "skills": (0.04, 1.0), "novel": (0.04, 1.0), "long": (0.5, 1.0),
          "long text": (0.7, 1.0)}  # fmt: skip
# In fine-tuning long texts come all the time: a stage cut short has them, too, and what is far away
# is not forgotten while short texts are learned.
_SFT_TIMES = _TIMES | {"long": (0.04, 1.0), "long text": (0.04, 1.0)}
_SFT_VALID_TOKENS = 60_000
_JOB_TOKENS = 100_000
_NUM_NOVELS = 12
_SAMPLE_RECORDS = 2000
_NUM_PAIRS = 1500
_SHORT_TOKENS = 1024  # of a text that is not a long one, at most
_LONG_TOKENS = 4096  # documents of that many have shares of their own
_NOVEL_CHARACTERS = 4  # of a novel, for each token
_EQUALS, _SPACED_EQUALS, _IS, _COMMA = 29514, 1095, 1117, 29493  # in the v3 tokenizer
_LINE_FEED = 781  # in the v3 tokenizer


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """What one process makes at a time."""

    kind: str
    """A kind of ``_PRETRAIN``."""
    seed: str
    """Seed of this job alone."""
    longest: int
    """Most tokens of a document; longer ones are left out, longer texts are cut."""
    data: Path
    """Where the novels are."""
    times: dict[str, tuple[float, float]]
    """``_TIMES`` or ``_SFT_TIMES``."""
    documents: tuple[TextDocument, ...] = ()
    """What to encode, for text."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Encoded:
    """A document as tokens."""

    kind: str
    """Where it comes from."""
    tokens: Tokens
    """Its ids."""
    mask: Mask
    """1 where the loss counts."""
    time: float
    """Where in the file it belongs, 0 to 1."""


def main(arguments: list[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Make nano's training files.")
    parser.add_argument("--data", type=Path, required=True, help="folder of the sources")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pretrain-tokens", type=int, default=30_000_000)
    parser.add_argument("--sft-tokens", type=int, default=10_000_000)
    parser.add_argument("--longest", type=int, default=4096, help="most tokens of a document")
    options = parser.parse_args(arguments)
    try:
        prepare(
            options.data,
            options.out,
            seed=options.seed,
            pretrain_tokens=options.pretrain_tokens,
            sft_tokens=options.sft_tokens,
            longest=options.longest,
        )
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def prepare(
    data: Path, out: Path, *, seed: int, pretrain_tokens: int, sft_tokens: int, longest: int
) -> None:
    """Write all files.

    Args:
        data: Folder of the sources, see ``corpus.py``.
        out: Folder to write.
        seed: Decides every choice.
        pretrain_tokens, sft_tokens: About how many tokens each stage gets.
        longest: Most tokens of a document.

    Raises:
        ConfigError: A source is missing, or a number is too small.
    """
    for name, value in (("pretrain-tokens", pretrain_tokens), ("sft-tokens", sft_tokens)):
        if value < _JOB_TOKENS:
            raise ConfigError(f"{name} is {value}; it must be at least {_JOB_TOKENS}.")
    if longest < 128:
        raise ConfigError(f"longest is {longest}; it must be at least 128.")
    out.mkdir(parents=True, exist_ok=True)
    plan = _plan(data, seed, pretrain_tokens, sft_tokens, longest)
    with get_context("spawn").Pool(2) as pool:
        for name, listed in plan.items():
            made = [document for part in pool.imap(_run, listed) for document in part]
            _write(out, name, made, seed=seed, with_mask=name != "pretrain_valid")
    _write_records(out, data, seed)
    write_cases(out)


def _plan(
    data: Path, seed: int, pretrain_tokens: int, sft_tokens: int, longest: int
) -> dict[str, list[Job]]:
    """Return the jobs of every token file."""

    def jobs(shares: dict[str, float], name: str, tokens: int) -> list[Job]:
        shared = Job(kind="", seed="", longest=longest, data=data, times=_times(name))
        return [
            replace(shared, kind=kind, seed=f"{seed}/{name}/{index}")
            for kind, share in shares.items()
            if kind != "text"
            for index in range(max(1, round(tokens * share / _JOB_TOKENS)))
        ]

    def text_jobs(documents: list[TextDocument], name: str) -> list[Job]:
        shared = Job(kind="text", seed="", longest=longest, data=data, times=_times(name))
        return [
            replace(shared, seed=f"text/{start}", documents=tuple(documents[start : start + 200]))
            for start in range(0, len(documents), 200)
        ]

    sft = _SFT if longest < _LONG_TOKENS else _SFT_LONG
    text_tokens = (pretrain_tokens * _PRETRAIN["text"], sft_tokens * sft["text"])
    documents = read_corpus(data, seed, sum(text_tokens))
    trained = [document for document in documents if not document.is_valid]
    valid = [document for document in documents if document.is_valid]
    # One document in so many is for fine-tuning, so that both stages have all sources.
    every = round(sum(text_tokens) / text_tokens[1])
    first = [document for index, document in enumerate(trained) if index % every]
    return {
        "pretrain": text_jobs(first, "pretrain") + jobs(_PRETRAIN, "pretrain", pretrain_tokens),
        "pretrain_valid": text_jobs(valid, "pretrain_valid"),
        "sft": text_jobs(trained[::every], "sft") + jobs(sft, "sft", sft_tokens),
        "sft_valid": jobs({"chat": 1.0}, "sft_valid", _SFT_VALID_TOKENS),
    }


def _write_records(out: Path, data: Path, seed: int) -> None:
    novels = _novels(data)
    rng = Random(f"{seed}/records")
    records = (make_conversation(rng, novels).record() for _ in range(_SAMPLE_RECORDS))
    write_lines(out / "sft.jsonl", records)
    write_lines(out / "dpo.jsonl", preference_pairs(f"{seed}", "train", _NUM_PAIRS, novels))
    write_lines(out / "dpo_valid.jsonl", preference_pairs(f"{seed}/valid", "train", 200, novels))


def _times(name: str) -> dict[str, tuple[float, float]]:
    return _SFT_TIMES if name.startswith("sft") else _TIMES


@cache
def _encoder() -> Encoder:
    return Encoder()


@cache
def _novels(data: Path) -> Novels:
    return Novels(novel_texts(data, _NUM_NOVELS))


def _run(job: Job) -> list[Encoded]:
    rng = Random(f"{job.seed}/{job.kind}")
    if job.kind == "text":
        return [_encode_text(rng, document, job) for document in job.documents]
    documents: list[Encoded] = []
    num_tokens = 0
    while num_tokens < _JOB_TOKENS:
        document = _draw(job, rng)
        if len(document.tokens) <= job.longest:
            documents.append(document)
            num_tokens += len(document.tokens)
    return documents


def _draw(job: Job, rng: Random) -> Encoded:
    if job.kind == "drill":
        level = rng.random()
        tokens = _encoder().document(make_drill(rng, level))
        # Squared: short drills crowd at the beginning, and the last come half-way.
        return Encoded(
            kind="drill", tokens=tokens, mask=repeated_mask(tokens), time=level * level / 2
        )
    time = rng.uniform(*job.times[job.kind])
    if job.kind == "marks":
        tokens = _encoder().document(make_marks(rng))
        return Encoded(kind="marks", tokens=tokens, mask=repeated_mask(tokens), time=time)
    if job.kind == "sums":
        tokens = _encoder().document(make_sums(rng))
        return Encoded(kind="sums", tokens=tokens, mask=results_mask(tokens), time=time)
    if job.kind in ("spelling", "novel"):
        tokens = _encoder().document(
            make_spelling(rng) if job.kind == "spelling" else _novel(rng, job)
        )[: job.longest]
        mask = np.ones(len(tokens), dtype=np.uint8)
        return Encoded(kind=job.kind, tokens=tokens, mask=mask, time=time)
    if job.kind == "skills":
        conversation = make_skills(rng)
    else:
        make = make_long if job.kind == "long" else make_conversation
        conversation = make(rng, _novels(job.data))
    tokens, mask = _encoder().conversation(conversation)
    return Encoded(kind=f"task {conversation.task}", tokens=tokens, mask=mask, time=time)


def _novel(rng: Random, job: Job) -> str:
    return _novels(job.data).piece(rng, "train", job.longest * _NOVEL_CHARACTERS).text


def _encode_text(rng: Random, document: TextDocument, job: Job) -> Encoded:
    limit = job.longest if document.is_long else min(job.longest, _SHORT_TOKENS)
    tokens = _encoder().document(document.text)[:limit]
    time = rng.uniform(*job.times["long text" if document.is_long else "text"])
    mask = np.ones(len(tokens), dtype=np.uint8)
    return Encoded(kind=document.kind, tokens=tokens, mask=mask, time=time)


def repeated_mask(tokens: Tokens) -> Mask:
    """Mark what a drill lets one know: tokens seen before in it, and its last line.

    The words of a drill are random, so its first line can only be guessed; learning it would cost
    as much as the copy and teach nothing.

    >>> repeated_mask(np.array([1, 50, 60, 781, 50, 60, 2], dtype=np.uint16)).tolist()
    [0, 0, 0, 0, 1, 1, 1]
    """
    _, first = np.unique(tokens, return_index=True)
    mask = np.ones(len(tokens), dtype=np.uint8)
    mask[first] = 0
    breaks = np.flatnonzero(tokens == _LINE_FEED)
    if len(breaks):
        mask[breaks[-1] + 1 :] = 1
    return mask


def results_mask(tokens: Tokens) -> Mask:
    """Mark what stands between an equals sign (or "is") and the end of its line or a comma.

    The numbers that are added up are random; learning them would cost more than the results.
    """
    mask = np.zeros(len(tokens), dtype=np.uint8)
    is_result = False
    for index, token in enumerate(tokens.tolist()):
        mask[index] = is_result
        if token in (_EQUALS, _SPACED_EQUALS, _IS):
            is_result = True
        elif token in (_LINE_FEED, _COMMA):
            is_result = False
    return mask


def _write(out: Path, name: str, made: list[Encoded], *, seed: int, with_mask: bool) -> None:
    # Shuffled first, so that documents of the same time do not keep the order of the sources.
    Random(f"{seed}/{name}/order").shuffle(made)
    made.sort(key=lambda document: document.time)
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
    with whole_file(path) as file:
        np.save(file, array)


if __name__ == "__main__":
    sys.exit(main())
