"""``mixtral bench prefill | decode | load``: speed and memory, beside what the machine can do.

A table goes to standard error. The last line of standard output is the report as one line of JSON;
``--json FILE`` writes it to a file as well.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from mixtral.cli.console import note, stderr_console
from mixtral.cli.options import DeviceOption, DTypeOption, LayersOption, ModelOption
from mixtral.errors import ConfigError

if TYPE_CHECKING:
    from rich.table import Table

    from mixtral.bench.results import Report

app = typer.Typer(
    help="Measure speed and memory, beside what the machine can do.",
    no_args_is_help=True,
    add_completion=False,
)

BatchOption = Annotated[
    str, typer.Option("--batch", help="Sequences in a step; several with commas: 1,8.")
]
ThreadsOption = Annotated[
    int | None,
    typer.Option("--threads", min=1, help="Threads; without it, one per usable processor."),
]
RepeatsOption = Annotated[int, typer.Option("--repeats", min=1, help="Timed repeats.")]
PromptOption = Annotated[int, typer.Option("--prompt-tokens", min=1, help="Tokens of each prompt.")]
SeedOption = Annotated[
    int, typer.Option("--seed", min=0, help="Seed of random weights and of the prompts.")
]
CompareOption = Annotated[
    str | None,
    typer.Option(
        "--compare",
        metavar="ENGINE",
        help="transformers: run it in turn, on the same weights, and print the ratio.",
    ),
]
JsonOption = Annotated[
    Path | None, typer.Option("--json", metavar="FILE", help="Write the report to this file.")
]


@app.command(epilog="Example: mixtral bench prefill --model random:8x7b --layers 2")
def prefill(
    model: ModelOption = "nano",
    layers: LayersOption = None,
    dtype: DTypeOption = None,
    device: DeviceOption = "auto",
    batch: BatchOption = "1",
    prompt_tokens: PromptOption = 512,
    threads: ThreadsOption = None,
    repeats: RepeatsOption = 5,
    seed: SeedOption = 0,
    compare: CompareOption = None,
    json_file: JsonOption = None,
) -> None:
    """Time one step over whole prompts."""
    options = {"model": model, "layers": layers, "dtype": dtype, "device": device, "seed": seed}
    options |= {"prompt_tokens": prompt_tokens, "threads": threads, "repeats": repeats}
    _measure_steps("prefill", batch, compare, json_file, options)


@app.command(
    epilog="Example: mixtral bench decode --model random:8x7b --layers 2 --batch 1,8 "
    "--compare transformers"
)
def decode(
    model: ModelOption = "nano",
    layers: LayersOption = None,
    dtype: DTypeOption = None,
    device: DeviceOption = "auto",
    batch: BatchOption = "1",
    prompt_tokens: PromptOption = 32,
    new_tokens: Annotated[
        int, typer.Option("--new-tokens", min=1, help="Timed steps of each repeat.")
    ] = 32,
    threads: ThreadsOption = None,
    repeats: RepeatsOption = 5,
    seed: SeedOption = 0,
    compare: CompareOption = None,
    json_file: JsonOption = None,
) -> None:
    """Time steps of one new token per sequence, over the KV cache."""
    options = {"model": model, "layers": layers, "dtype": dtype, "device": device, "seed": seed}
    options |= {"prompt_tokens": prompt_tokens, "threads": threads, "repeats": repeats}
    _measure_steps("decode", batch, compare, json_file, options | {"new_tokens": new_tokens})


@app.command(epilog="Example: mixtral bench load --model ./Mixtral-8x7B-Instruct-v0.1")
def load(
    model: ModelOption = "nano",
    prompt_tokens: PromptOption = 16,
    threads: ThreadsOption = None,
    repeats: RepeatsOption = 5,
    is_cold: Annotated[
        bool,
        typer.Option("--cold", help="Drop the files from the page cache before each measurement."),
    ] = False,
    json_file: JsonOption = None,
) -> None:
    """Time from a checkpoint's files to the first token, and its peak memory."""
    from mixtral.bench.load import measure_load
    from mixtral.bench.other_processes import OtherProcesses
    from mixtral.bench.probes import Prober
    from mixtral.bench.results import Report
    from mixtral.bench.table import load_table
    from mixtral.loading import find_or_download

    folder = find_or_download(model).folder
    if folder is None:
        raise ConfigError(
            f"model is {model!r}, which has no files; bench load needs a checkpoint folder, "
            "nano, or a hub id."
        )
    if not is_cold:
        note("reading the files once, so that they are in the page cache")
    _set_threads(threads)
    others = OtherProcesses()
    with _bar(f"load {model}", repeats) as on_repeat:
        result = measure_load(
            folder,
            Prober(),
            name=model,
            repeats=repeats,
            threads=_threads(threads),
            prompt_tokens=prompt_tokens,
            is_cold=is_cold,
            on_repeat=on_repeat,
        )
    notes = {"repeats": repeats, "other_processes": others.share()}
    report = Report(results=[result], notes=notes)
    _publish(report, load_table(report), json_file)


def _measure_steps(
    work: Literal["prefill", "decode"],
    batch: str,
    compare: str | None,
    json_file: Path | None,
    options: dict[str, Any],
) -> None:
    from mixtral.bench.session import StepOptions, measure_steps, transformers_peer
    from mixtral.bench.table import step_table

    if compare not in (None, "transformers"):
        raise ConfigError(f"compare is {compare!r}; it must be transformers.")
    options["threads"] = _threads(options["threads"])
    wanted = StepOptions(work=work, batches=_parse_batches(batch), **options)
    total = wanted.repeats * len(wanted.batches) * (1 if compare is None else 2)
    with _bar(f"{work} {wanted.model}", total) as on_repeat:
        report = measure_steps(
            wanted,
            make_peer=None if compare is None else transformers_peer,
            on_repeat=on_repeat,
        )
    if peer := report.notes.get("peer"):
        note(
            f"gate passed: logits within {peer['logits_relative_error']:.1e} of {peer['name']}, "
            f"{peer['agreeing_tokens']} greedy tokens agree"
        )
    _publish(report, step_table(report), json_file)


def _publish(report: "Report", table: "Table", json_file: Path | None) -> None:
    from mixtral.bench.results import write_json

    console = stderr_console()
    # Wide enough for every column; a narrow terminal wraps lines rather than cells.
    console.width = max(console.width, 130)
    console.print(table, soft_wrap=True)
    if (share := report.notes.get("other_processes")) is not None:
        note(f"other processes took {share:.0%} of the processors meanwhile")
    values = report.to_json()
    if json_file is not None:
        write_json(json_file, values)
    typer.echo(json.dumps(values))


def _parse_batches(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise ConfigError(
            f"batch is {text!r}; it must be whole numbers with commas between them, such as 1,8."
        ) from None


def _threads(threads: int | None) -> int:
    from mixtral.machine import num_usable_cpus

    return threads or num_usable_cpus()


def _set_threads(threads: int | None) -> None:
    import torch

    torch.set_num_threads(_threads(threads))


@contextmanager
def _bar(text: str, total: int) -> Iterator[Callable[[], None]]:
    """Show a bar on a terminal and yield what moves it on by one."""
    from rich.progress import Progress

    console = stderr_console()
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(text, total=total)
        yield lambda: progress.advance(task)
