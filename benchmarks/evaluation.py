"""Measure the model of the package for docs/evaluation.md: four reports and their pictures.

    python benchmarks/evaluation.py --data eval-data          # nano, a quarter of an hour
    python benchmarks/evaluation.py --data eval-data --tiny   # a trial: few questions, docs as is

Passkeys, perplexity by context, benchmarks in two formats over their price, and the routers, each
by the commands that the page shows. Reports go to a folder of these weights in runs/evaluation,
where passkeys and benchmarks of a killed run go on; numbers to benchmarks/results/evaluation.json;
pictures and the page of the routers to docs/pictures/evaluation; and all of it into
docs/evaluation.md (benchmarks/measured_parts.py).
"""

import argparse
import gzip
import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from measured_parts import RESULTS, ROOT
from measured_parts import main as write_page

from mixtral.bench.other_processes import OtherProcesses
from mixtral.bench.results import Report, write_json
from mixtral.eval.lengths import doubling_lengths
from mixtral.fingerprint import fingerprint
from mixtral.machine import num_usable_cpus
from mixtral.model_source import find_model

RUNS = ROOT / "runs" / "evaluation"
PICTURES = ROOT / "docs" / "pictures" / "evaluation"
TASKS = "hellaswag,piqa,arc_easy,arc_challenge,nq_open,triviaqa"
"""One panel of the picture each; mmlu, with its 57 subjects, would take longer than the rest."""
NOVELS = "novels.jsonl"
TEXTS = {
    "books": "litbank_novels/novels.jsonl.gz",
    "encyclopedia": "wikitext2/test.txt.gz",
    "maths": "gsm8k/test.jsonl",
    "code": "mbpp/mbpp.jsonl",
}
"""Texts for the routers, by name of the domain: files of the data."""


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How much is asked."""

    cases: int
    """Passkeys of each length and depth."""
    lengths: Sequence[int]
    """Contexts of passkeys and of the curve."""
    windows: int
    """Windows of the curve."""
    limit: int
    """Questions of each benchmark."""
    tokens: int
    """Tokens of each text for the routers."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """A section of the page."""

    name: str
    """Folder of the report that the page shows."""
    title: str
    """Heading."""
    commands: Sequence[str]
    """Run in this order; each writes the folder behind --out."""
    pictures: dict[str, str]
    """Names of pictures in the report -> what they show, for those who do not see them."""
    num_tables: int | None = None
    """Tables of the report that the page has; None: all."""
    page: str | None = None
    """Words of a link to the report's own page; None: it is not kept."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, copy, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="see docs/evaluation.md")
    parser.add_argument("--model", default="nano")
    parser.add_argument("--threads", type=int, default=num_usable_cpus())
    parser.add_argument("--tiny", action="store_true", help="few questions; docs stay as they are")
    options = parser.parse_args(arguments)
    source = find_model(options.model)
    assert source.folder is not None, "a model in a folder"
    # Answers of other weights are none of these.
    folder = RUNS / (fingerprint(source.folder)[:8] + ("-tiny" if options.tiny else ""))
    folder.mkdir(parents=True, exist_ok=True)
    write_texts(options.data, folder)
    others = OtherProcesses()
    sizes = sizes_for(source.config.max_position_embeddings, is_tiny=options.tiny)
    parts = parts_for(options.model, sizes)
    pictures = folder / "pictures" if options.tiny else PICTURES
    found = [run_part(part, folder, options, pictures) for part in parts]
    notes = {"threads": options.threads, "other_processes": others.share()}
    results = (folder if options.tiny else RESULTS) / "evaluation.json"
    write_json(results, Report(results=[], notes=notes).to_json() | {"evaluation": found})
    print(f"wrote {results} and pictures into {pictures}", file=sys.stderr)
    return 0 if options.tiny else write_page()


def sizes_for(context: int, *, is_tiny: bool) -> Sizes:
    """Return how much is asked of a model with a context of so many tokens."""
    if is_tiny:
        return Sizes(cases=1, lengths=(512, 1024), windows=8, limit=4, tokens=2000)
    return Sizes(
        cases=10,
        lengths=doubling_lengths(context),
        windows=40,
        limit=200,
        tokens=50_000,
    )


def parts_for(model: str, sizes: Sizes) -> list[Part]:
    """Return the sections of the page, with commands that a reader can repeat."""
    lengths = ",".join(map(str, sizes.lengths))
    passkey = f"mixtral passkey --model {model} --lengths {lengths} --cases {sizes.cases}"
    asked = f"--limit {sizes.limit} --data eval-data"
    texts = " ".join(f"{name}.txt" for name in TEXTS)
    return [
        Part(
            name="passkey",
            title="Passkeys in the paper's sentences",
            commands=[f"{passkey} --out passkey"],
            pictures={"passkey": "Right answers by length of the text and depth of the key"},
        ),
        Part(
            name="passkey-novels",
            title="Passkeys in novels",
            commands=[f"{passkey} --filler books.txt --out passkey-novels"],
            pictures={"passkey": "Right answers in novels by length and depth of the key"},
        ),
        Part(
            name="perplexity",
            title="Perplexity by length of context",
            commands=[
                f"mixtral perplexity --model {model} --text {NOVELS} --by-context {lengths} "
                f"--windows {sizes.windows} --out perplexity"
            ],
            pictures={"perplexity": "Perplexity of the same tokens of novels by context"},
        ),
        Part(
            name="comparison",
            title="Quality for its price",
            commands=[
                f"mixtral eval {TASKS} --model {model} {asked} --out {model}",
                f"mixtral eval {TASKS} --model {model} -q int4 {asked} --out {model}-int4",
                f"mixtral eval compare {model} {model}-int4 --out comparison",
            ],
            pictures={"quality": "Right answers over active parameters, beside the guides' table"},
            num_tables=2,
        ),
        Part(
            name="routing",
            title="Routers",
            commands=[
                f"mixtral routing {model} --text {texts} --max-tokens {sizes.tokens} --out routing"
            ],
            pictures={
                "load": "Load of each expert by layer",
                "repetition": "Share of tokens with the expert of the token before, by layer",
                "domains": "Load of each expert by text",
            },
            num_tables=1,
            page="The whole page, as a file that opens without a network",
        ),
    ]


def run_part(
    part: Part, folder: Path, options: argparse.Namespace, pictures: Path
) -> dict[str, Any]:
    """Run the commands of a section, keep its pictures, and return what the page says."""
    for command in part.commands:
        _run(command, folder, data=options.data.resolve(), threads=options.threads)
    pictures.mkdir(parents=True, exist_ok=True)
    report = folder / part.name
    shown = []
    for name, alt in part.pictures.items():
        file = f"{part.name}.png" if len(part.pictures) == 1 else f"{part.name}-{name}.png"
        shutil.copyfile(report / f"{name}.png", pictures / file)
        shown.append({"file": f"pictures/{pictures.name}/{file}", "alt": alt})
    if part.page is not None:
        shutil.copyfile(report / "index.html", pictures / f"{part.name}.html")
    page = {"file": f"pictures/{pictures.name}/{part.name}.html", "text": part.page}
    return {
        "title": part.title,
        "commands": part.commands,
        "pictures": shown,
        "links": [page] if part.page else [],
        "tables": first_tables((report / "report.md").read_text(encoding="utf-8"), part.num_tables),
    }


def first_tables(report: str, count: int | None) -> str:
    """Return a report without its headings, up to the end of its first tables.

    >>> first_tables("# A\\n\\nb\\n\\n| c |\\n|---|\\n\\nd\\n\\n| e |\\n", 1)
    'b\\n\\n| c |\\n|---|'
    """
    kept = []
    for block in report.split("\n\n"):
        lines = [line for line in block.strip().splitlines() if not line.startswith("#")]
        if not lines:
            continue
        kept.append("\n".join(lines))
        if count is not None and sum(each.startswith("|") for each in kept) == count:
            break
    return "\n\n".join(kept)


def write_texts(data: Path, folder: Path) -> None:
    """Write the texts that the commands name into the folder where they run."""
    for name, file in TEXTS.items():
        text = "\n\n".join(_texts_of(data / file))
        (folder / f"{name}.txt").write_text(text, encoding="utf-8")
    with _open(data / TEXTS["books"]) as file, (folder / NOVELS).open("w", encoding="utf-8") as to:
        shutil.copyfileobj(file, to)


def _texts_of(path: Path) -> Iterator[str]:
    """Yield what is text in a file: all of it, or some fields of its rows."""
    with _open(path) as file:
        if ".jsonl" not in path.name:
            yield file.read()
            return
        for line in file:
            row = json.loads(line)
            yield "\n".join(
                row[name] for name in ("text", "question", "answer", "code") if name in row
            )


def _open(path: Path) -> Any:
    open_ = gzip.open if path.suffix == ".gz" else open
    return open_(path, "rt", encoding="utf-8")


def _run(command: str, folder: Path, *, data: Path, threads: int) -> None:
    """Run one command of the page; a report of an earlier run that cannot go on is replaced."""
    words = [str(data) if word == "eval-data" else word for word in shlex.split(command)]
    out = folder / words[-1]
    if words[1] == "routing" and out.exists():
        shutil.rmtree(out)
    print(f"$ {command}", file=sys.stderr, flush=True)
    subprocess.run(
        [sys.executable, "-m", "mixtral.cli", *words[1:]],
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": str(threads)},
        stdout=subprocess.DEVNULL,
        check=True,
    )


if __name__ == "__main__":
    sys.exit(main())
