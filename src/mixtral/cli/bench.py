"""``mixtral bench``: speed and memory, beside the ceilings; ``serve`` is in ``bench_serve``.

A table goes to standard error. The last line of standard output is the report as one line of JSON;
``--json FILE`` writes it to a file as well. After Ctrl-C, or a failure, it has what was whole by
then, and the exit status is 130, or 1.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from mixtral.cli import bench_serve
from mixtral.cli.bench_output import CUT_REMARK, CUT_STATUS, check_targets, give_values
from mixtral.cli.console import note, stderr_console
from mixtral.cli.options import (
    DeviceOption,
    DTypeOption,
    LayersOption,
    ModelOption,
    QuantizationOption,
    grouped_options,
)
from mixtral.errors import ConfigError, EngineError
from mixtral.machine import num_usable_cpus

if TYPE_CHECKING:
    from rich.table import Table

    from mixtral.bench.llama_cpp import BeginBar
    from mixtral.bench.named_model import ModelOptions
    from mixtral.bench.results import Report
    from mixtral.bench.session import PeerFactory
    from mixtral.bench.steps import Workload
    from mixtral.checkpoint.gguf import GgufQuantization

app = typer.Typer(
    help="Measure speed and memory, beside what the machine can do.",
    no_args_is_help=True,
    add_completion=False,
)

_PEERS = ("llama.cpp", "transformers")
_PEER_FORMATS = ("q4_0", "q8_0", "bf16", "f16")
# Short, so that decoding is measured and not the attention over a long context.
_DECODE_PROMPT_TOKENS = 32

BatchOption = Annotated[
    str, typer.Option("--batch", help="Sequences in a step; several with commas: 1,8.")
]
PromptOption = Annotated[int, typer.Option("--prompt-tokens", help="Tokens of each prompt.")]
NewTokensOption = Annotated[
    int, typer.Option("--new-tokens", help="Timed steps of each repeat of a decode.")
]
CompareOption = Annotated[
    str | None,
    typer.Option(
        "--compare",
        metavar="ENGINES",
        help="llama.cpp, transformers, or both with a comma: run them in turn with ours, on the "
        "same weights, and print the ratios.",
    ),
]


@dataclass(frozen=True, kw_only=True, slots=True)
class CommonOptions:
    """What every measurement takes.

    Raises:
        ConfigError: A number is below 1, there are not so many processors, or the report cannot be
            written.
    """

    threads: Annotated[
        int | None,
        typer.Option("--threads", help="Threads; without it, one per usable processor."),
    ] = None
    repeats: Annotated[int, typer.Option("--repeats", help="Timed repeats.")] = 5
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write the report to this file.")
    ] = None

    def __post_init__(self) -> None:
        """Check the numbers, and the file."""
        usable = num_usable_cpus()
        if self.threads is not None and not 1 <= self.threads <= usable:
            raise ConfigError(
                f"threads is {self.threads}; it must be from 1 to {usable}, the processors that "
                "this process may use."
            )
        if self.repeats < 1:
            raise ConfigError(f"repeats is {self.repeats}; it must be at least 1.")
        check_targets(self.json_file)

    @property
    def num_threads(self) -> int:
        """Threads to use."""
        return self.threads or num_usable_cpus()


@dataclass(frozen=True, kw_only=True, slots=True)
class WeightOptions:
    """Which model, and how it is held in memory."""

    model: ModelOption = "nano"
    layers: LayersOption = None
    dtype: DTypeOption = None
    quantization: QuantizationOption = None
    seed: Annotated[
        int, typer.Option("--seed", min=0, help="Seed of random weights and of the prompts.")
    ] = 0

    def named(self, common: CommonOptions, *, device: str = "cpu") -> "ModelOptions":
        """Return the model as the measurements want it."""
        from mixtral.bench.named_model import ModelOptions

        return ModelOptions(
            name=self.model,
            layers=self.layers,
            dtype=self.dtype,
            quantization=self.quantization,
            device=device,
            threads=common.num_threads,
            seed=self.seed,
        )


@app.command(
    epilog="Example: mixtral bench prefill --model random:8x7b --layers 2 --quantization int4"
)
@grouped_options
def prefill(
    weights: WeightOptions,
    common: CommonOptions,
    device: DeviceOption = "auto",
    batch: BatchOption = "1",
    prompt_tokens: PromptOption = 512,
    compare: CompareOption = None,
) -> None:
    """Time one step over whole prompts."""
    from mixtral.bench.steps import Workload

    workloads = [
        Workload(work="prefill", batch=size, prompt_tokens=prompt_tokens)
        for size in _parse_numbers("batch", batch)
    ]
    model = weights.named(common, device=device)
    _measure_steps(model, workloads, common, peers=_parse_peers(compare, "compare"))


@app.command(
    epilog="Example: mixtral bench decode --model random:8x7b --layers 2 --batch 1,8 "
    "--compare transformers"
)
@grouped_options
def decode(
    weights: WeightOptions,
    common: CommonOptions,
    device: DeviceOption = "auto",
    batch: BatchOption = "1",
    prompt_tokens: PromptOption = _DECODE_PROMPT_TOKENS,
    new_tokens: NewTokensOption = 32,
    compare: CompareOption = None,
) -> None:
    """Time steps of one new token per sequence, over the KV cache."""
    model = weights.named(common, device=device)
    workloads = _decodes(batch, prompt_tokens, new_tokens)
    _measure_steps(model, workloads, common, peers=_parse_peers(compare, "compare"))


@app.command(
    epilog="Example: mixtral bench compare --model random:8x7b --layers 2 --quantization int4 "
    "--peers llama.cpp"
)
@grouped_options
def compare(
    weights: WeightOptions,
    common: CommonOptions,
    peers: Annotated[
        str, typer.Option("--peers", help="llama.cpp, transformers, or both with a comma.")
    ] = "llama.cpp,transformers",
    peer_format: Annotated[
        str | None,
        typer.Option(
            "--peer-format",
            help=f"How llama.cpp holds the weights: {', '.join(_PEER_FORMATS)}; without it, the "
            "format nearest to ours.",
        ),
    ] = None,
    batch: BatchOption = "1,8,32",
    prompt_tokens: Annotated[
        int, typer.Option("--prompt-tokens", help="Tokens of the prompt whose prefill is timed.")
    ] = 512,
    new_tokens: NewTokensOption = 32,
) -> None:
    """Time other engines in turn with ours, on the same weights: prefill, then decode."""
    from mixtral.bench.steps import Workload

    if peer_format is not None and peer_format not in _PEER_FORMATS:
        raise ConfigError(
            f"peer_format is {peer_format!r}; it must be one of {', '.join(_PEER_FORMATS)}."
        )
    workloads = [Workload(work="prefill", batch=1, prompt_tokens=prompt_tokens)]
    workloads += _decodes(batch, min(prompt_tokens, _DECODE_PROMPT_TOKENS), new_tokens)
    _measure_steps(
        weights.named(common),
        workloads,
        common,
        peers=_parse_peers(peers, "peers"),
        peer_format=cast("GgufQuantization | None", peer_format),
    )


@app.command(epilog="Example: mixtral bench moe --model random:8x7b --quantization int4")
@grouped_options
def moe(
    weights: WeightOptions,
    common: CommonOptions,
    tokens: Annotated[
        str, typer.Option("--tokens", help="Tokens in a step; several with commas: 1,512.")
    ] = "512",
) -> None:
    """Time the experts of one layer alone; of random weights, one layer is made."""
    from mixtral.bench.moe import MoeOptions, measure_moe
    from mixtral.bench.table import step_table

    if weights.layers is None and weights.model.startswith("random:"):
        weights = dataclasses.replace(weights, layers=1)
    options = MoeOptions(
        model=weights.named(common),
        tokens=_parse_numbers("tokens", tokens),
        repeats=common.repeats,
    )
    with _bars() as begin_bar:
        advance = begin_bar(f"moe {weights.model}", options.repeats * len(options.tokens))
        report = measure_moe(options, on_repeat=lambda: advance(1))
    _publish(report, step_table(report), common.json_file)


@app.command(epilog="Example: mixtral bench load --model ./Mixtral-8x7B-Instruct-v0.1")
@grouped_options
def load(
    common: CommonOptions,
    model: ModelOption = "nano",
    quantization: QuantizationOption = None,
    prompt_tokens: PromptOption = 16,
    is_cold: Annotated[
        bool,
        typer.Option("--cold", help="Drop the files from the page cache before each measurement."),
    ] = False,
) -> None:
    """Time from a checkpoint's files to the first token, and its peak memory."""
    import torch

    from mixtral.bench.load import LoadOptions, measure_load
    from mixtral.bench.probes import Prober
    from mixtral.bench.table import load_table
    from mixtral.loading import find_or_download

    options = LoadOptions(
        name=model,
        repeats=common.repeats,
        threads=common.num_threads,
        quantization=quantization,
        prompt_tokens=prompt_tokens,
        is_cold=is_cold,
    )
    source = find_or_download(model)
    if not is_cold:
        note("reading the files once, so that they are in the page cache")
    torch.set_num_threads(options.threads)
    with _bars() as begin_bar:
        advance = begin_bar(f"load {model}", options.repeats)
        report = measure_load(source, Prober(), options, on_repeat=lambda: advance(1))
    _publish(report, load_table(report), common.json_file)


app.command(epilog=bench_serve.EPILOG)(bench_serve.serve)


def _decodes(batch: str, prompt_tokens: int, new_tokens: int) -> "list[Workload]":
    from mixtral.bench.steps import Workload

    return [
        Workload(work="decode", batch=size, prompt_tokens=prompt_tokens, new_tokens=new_tokens)
        for size in _parse_numbers("batch", batch)
    ]


def _measure_steps(
    model: "ModelOptions",
    workloads: "Sequence[Workload]",
    common: CommonOptions,
    *,
    peers: Sequence[str],
    peer_format: "GgufQuantization | None" = None,
) -> None:
    from mixtral.bench.session import StepOptions, measure_steps
    from mixtral.bench.table import step_table

    options = StepOptions(model=model, workloads=workloads, repeats=common.repeats)
    total = options.repeats * len(workloads) * (1 + len(peers))
    with _bars() as begin_bar:
        factories = [_peer_factory(name, peer_format, begin_bar) for name in peers]
        advance = begin_bar(f"measuring {model.name}", total)
        report = measure_steps(options, peers=factories, on_repeat=lambda: advance(1))
    for peer in report.notes.get("peers", []):
        note(
            f"gate passed: logits within {peer['logits_relative_error']:.1e} of {peer['name']} in "
            f"{peer['format']}, {peer['agreeing_tokens']} greedy tokens agree"
        )
    _publish(report, step_table(report), common.json_file)


def _peer_factory(
    name: str, peer_format: "GgufQuantization | None", begin_bar: "BeginBar"
) -> "PeerFactory":
    from mixtral.bench.llama_cpp import llama_cpp_peer
    from mixtral.bench.peer import transformers_peer

    if name == "transformers":
        return transformers_peer
    return functools.partial(llama_cpp_peer, quantization=peer_format, begin_bar=begin_bar)


def _publish(report: "Report", table: "Table", json_file: Path | None) -> None:
    console = stderr_console()
    # Wide enough for every column; a narrow terminal wraps lines rather than cells.
    console.width = max(console.width, 150)
    console.print(table, soft_wrap=True)
    if report.is_cut:
        note(CUT_REMARK)
    if (share := report.notes.get("other_processes")) is not None:
        note(f"other processes took {share:.0%} of the processors meanwhile")
    give_values(report.to_json(), json_file)
    if report.is_cut:
        raise typer.Exit(CUT_STATUS)
    if report.failure is not None:
        raise EngineError(f"the report is not whole, since a measurement failed: {report.failure}")


def _parse_numbers(name: str, text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise ConfigError(
            f"{name} is {text!r}; it must be whole numbers with commas between them, such as 1,8."
        ) from None


def _parse_peers(text: str | None, option: str) -> tuple[str, ...]:
    names = () if text is None else tuple(dict.fromkeys(text.split(",")))
    for name in names:
        if name not in _PEERS:
            raise ConfigError(f"{option} has {name!r}; it must be one of {', '.join(_PEERS)}.")
    return names


@contextmanager
def _bars() -> "Iterator[BeginBar]":
    """Show bars on a terminal; yield what begins one and returns what moves it on."""
    from rich.progress import Progress

    console = stderr_console()
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:

        def begin(text: str, total: int) -> Callable[[int], None]:
            return functools.partial(progress.advance, progress.add_task(text, total=total))

        yield begin
