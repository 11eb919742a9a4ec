"""``mixtral routing``: what the routers of a model do on a text, or in a running server.

Tables go to standard output (``--json`` prints one JSON object instead); ``--out`` writes a folder,
``--export`` a file for other commands.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from mixtral.cli.console import note, print_json, spinner, stderr_console
from mixtral.cli.measuring import say_written
from mixtral.cli.options import grouped_options
from mixtral.cli.routing_options import HowOptions, OutputOptions, SecondOptions, TextOptions
from mixtral.errors import ConfigError
from mixtral.whole_file import write_whole

if TYPE_CHECKING:
    from mixtral.model_source import ModelSource
    from mixtral.routing import ExpertsPerToken, RoutedModel, RoutingComparison, RoutingReport
    from mixtral.routing.texts import Domain, DomainSequences
    from mixtral.tokenizer import Tokenizer

_EXAMPLES = """Examples:
  mixtral routing nano --text book.txt code/ --out report
  mixtral routing nano --text book.txt --compare-quantization int4
  mixtral routing nano --text book.txt --experts-per-token 1 --experts-per-token 3
  mixtral routing --metrics http://127.0.0.1:8000"""

app = typer.Typer(add_completion=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Loaded:
    """A model in memory, and where it came from."""

    source: "ModelSource"
    routed: "RoutedModel"


@app.command(epilog=_EXAMPLES)
@grouped_options
def routing(
    how: HowOptions,
    texts: TextOptions,
    second: SecondOptions,
    output: OutputOptions,
    model: Annotated[str | None, typer.Argument(help="nano, a folder, random:8x7b, ...")] = None,
    more_texts: Annotated[
        list[str] | None, typer.Argument(metavar="[--text FILES...]", hidden=True)
    ] = None,
    experts_per_token: Annotated[
        list[str] | None,
        typer.Option(
            "--experts-per-token",
            metavar="COUNT",
            help="Measure with so many experts: 3, or one number per layer: 2,2,1. May come again.",
        ),
    ] = None,
    metrics: Annotated[
        str | None, typer.Option("--metrics", metavar="URL", help="Read a running server instead.")
    ] = None,
    api_key: Annotated[
        str | None, typer.Option("--api-key", envvar="MIXTRAL_API_KEY", help="Key of that server.")
    ] = None,
) -> None:
    """Show what the routers of a model do: load, repetitions, preferences of experts."""
    _check_output(output)
    named = [*(texts.text or []), *(more_texts or [])]
    if metrics is not None:
        is_alone = (how, texts, second) == (HowOptions(), TextOptions(), SecondOptions())
        if model is not None or named or experts_per_token or not is_alone:
            raise ConfigError("--metrics reads a server; leave MODEL and everything for it out.")
        _show_live(metrics, api_key, output)
        return
    if model is None:
        raise ConfigError("no MODEL is named; nano is in the package: mixtral routing nano ...")
    if more_texts and not texts.text:
        raise ConfigError(f"{more_texts[0]!r} follows MODEL; name texts behind --text.")
    with spinner("starting"):
        from mixtral.routing.texts import find_domains
    domains = find_domains(named)
    loaded, tokenizer = _load_first(model, how)
    sequences = _sequences(domains, loaded.routed, tokenizer, texts)
    settings = _checked_counts(experts_per_token or [], loaded.routed)
    other = _load_second(model, how, second)
    _show(loaded, tokenizer, domains, sequences, other, settings, output)


def _show(
    loaded: _Loaded,
    tokenizer: "Tokenizer",
    domains: "Sequence[Domain]",
    sequences: "Mapping[str, DomainSequences]",
    other: _Loaded | None,
    settings: Sequence[Sequence[int]],
    output: OutputOptions,
) -> None:
    from mixtral.routing import compare_routing, measure_experts_per_token, measure_routing
    from mixtral.routing.comparison import require_same_geometry
    from mixtral.routing.texts import Joined

    routed = loaded.routed
    if other is not None:
        require_same_geometry(routed, other.routed)
    with _progress("routing") as show:
        report = measure_routing(routed, sequences, tokenizer, progress=show)
    comparison, experts = None, []
    if other is not None:
        with spinner(f"comparing with {other.routed.name}"):
            comparison = compare_routing(routed, other.routed, Joined(sequences.values()))
    if settings:
        with spinner("changing the number of experts"):
            experts = measure_experts_per_token(routed, Joined(sequences.values()), settings)
    _write(loaded, other, domains, report, comparison, experts, output)


def _write(
    loaded: _Loaded,
    other: _Loaded | None,
    domains: "Sequence[Domain]",
    report: "RoutingReport",
    comparison: "RoutingComparison | None",
    experts: "Sequence[ExpertsPerToken]",
    output: OutputOptions,
) -> None:
    from mixtral.routing.folder import write_report
    from mixtral.routing.page import report_page
    from mixtral.routing.plots import report_pictures
    from mixtral.routing.tables import report_markdown

    results: dict[str, Any] = {"routing": report.as_dict()}
    results["comparison"] = None if comparison is None else comparison.as_dict()
    results["experts_per_token"] = [each.as_dict() for each in experts]
    markdown = report_markdown(report, comparison, experts)
    with _printed(results, markdown, output):
        if output.export is not None:
            _export(output.export, report.model, report.visits)
        if output.out is not None:
            head = _head(loaded, other, domains)
            is_drawn = write_report(
                output.out,
                results=head | results,
                text=markdown,
                page=report_page(report, comparison, experts, head=head),
                pictures=report_pictures(report, comparison, experts),
            )
            say_written(output.out, is_drawn=is_drawn)


@contextmanager
def _printed(results: dict[str, Any], markdown: str, output: OutputOptions) -> Iterator[None]:
    """Print the results after the body has written them, or failed to: a full disk loses none."""
    try:
        yield
    finally:
        if output.as_json:
            print_json(results)
        else:
            typer.echo(markdown, nl=False)


def _head(loaded: _Loaded, other: _Loaded | None, domains: "Sequence[Domain]") -> dict[str, Any]:
    from mixtral.reports.provenance import hash_files
    from mixtral.reports.report import new_head
    from mixtral.routing.folder import describe_source

    files = [file for domain in domains for file in domain.files]
    with spinner("hashing files"):
        settings = {
            "model": describe_source(loaded.source, loaded.routed.name),
            "second_model": other and describe_source(other.source, other.routed.name),
            "texts_sha256": hash_files(files),
        }
    return new_head("routing", settings)


def _export(path: Path, model: str, visits: Sequence[Sequence[int]]) -> None:
    from mixtral.calibrate.settings import CalibrationSettings
    from mixtral.routing import coverage_report

    values = coverage_report(
        model=model,
        visits=visits,
        min_tokens_per_expert=CalibrationSettings().min_tokens_per_expert,
    )
    write_whole(path, json.dumps(values, indent=1) + "\n")
    note(f"wrote {path}")


def _show_live(url: str, api_key: str | None, output: OutputOptions) -> None:
    from mixtral.reports.report import new_head
    from mixtral.routing import live_layers, parse_expert_tokens, read_metrics
    from mixtral.routing.folder import write_report
    from mixtral.routing.page import live_page
    from mixtral.routing.plots import load_picture
    from mixtral.routing.tables import live_table, load_table

    visits = parse_expert_tokens(read_metrics(url, api_key=api_key))
    layers = live_layers(visits)
    loads = [layer.load for layer in layers]
    results: dict[str, Any] = {"source": url, "layers": [layer.as_dict() for layer in layers]}
    markdown = f"# Experts of {url}\n\n{live_table(layers)}\n{load_table(loads)}"
    with _printed(results, markdown, output):
        if output.export is not None:
            _export(output.export, url, visits)
        if output.out is not None:
            is_drawn = write_report(
                output.out,
                results=new_head("routing-live", {"source": url}) | results,
                text=markdown,
                page=live_page(url, layers),
                pictures=[load_picture(loads)],
            )
            say_written(output.out, is_drawn=is_drawn)


def _check_output(output: OutputOptions) -> None:
    """Refuse what cannot be written before the minutes of work, not after them."""
    from mixtral.reports.folder import check_file, check_writable

    if output.out is not None:
        from mixtral.routing.folder import require_free_folder

        require_free_folder(output.out)
        check_writable(output.out.absolute().parent)  # The folder appears there when it is whole.
    if output.export is not None:
        check_file("--export", output.export)


def _load_first(model: str, how: HowOptions) -> "tuple[_Loaded, Tokenizer]":
    from mixtral.errors import TokenizerError
    from mixtral.loading import find_or_download
    from mixtral.model_tokenizer import find_tokenizer_or_why

    source = find_or_download(model, layers=how.layers)
    tokenizer = find_tokenizer_or_why(source, how.tokenizer)
    if isinstance(tokenizer, TokenizerError):
        raise tokenizer
    loaded = _load(
        source,
        dtype=how.dtype,
        quantization=how.quantization,
        device=how.device,
        adapter=how.adapter,
    )
    return loaded, tokenizer


def _load_second(model: str, how: HowOptions, second: SecondOptions) -> _Loaded | None:
    if not second.is_wanted:
        return None
    from mixtral.loading import find_or_download

    name = second.compare or model
    # Random weights of fewer layers are the same model only with the same layers.
    layers = how.layers if name.startswith("random:") else None
    return _load(
        find_or_download(name, layers=layers),
        dtype=second.compare_dtype,
        quantization=second.compare_quantization,
        device=how.device,
        adapter=second.compare_adapter,
    )


def _load(
    source: "ModelSource",
    *,
    dtype: str | None,
    quantization: str | None,
    device: str,
    adapter: str | None,
) -> _Loaded:
    from mixtral.adapters import load_adapters
    from mixtral.loading import load_model
    from mixtral.routing import RoutedModel

    adapters = load_adapters({} if adapter is None else {"adapter": adapter}, source)
    with spinner(f"loading {source.name}"):
        model = load_model(source, dtype=dtype, quantization=quantization, device=device)
    parts = (source.name, dtype, quantization, adapter)
    name = " ".join(part for part in parts if part is not None)
    routed = RoutedModel(model, name, adapter=adapters.get("adapter"))
    return _Loaded(source=source, routed=routed)


def _sequences(
    domains: "Sequence[Domain]", routed: "RoutedModel", tokenizer: "Tokenizer", texts: TextOptions
) -> "dict[str, DomainSequences]":
    from mixtral.calibrate.text import read_sequences
    from mixtral.routing.texts import sequences_of
    from mixtral.validation import require_int

    context = routed.config.max_position_embeddings
    wanted = min(2048, context) if texts.sequence_tokens is None else texts.sequence_tokens
    require_int("sequence_tokens", wanted, low=2, high=context)
    if texts.max_tokens is not None:
        require_int("max_tokens", texts.max_tokens, low=2)

    def read(path: Path) -> Iterator[list[int]]:
        return read_sequences(path, tokenizer, sequence_tokens=wanted)

    return sequences_of(domains, read, max_tokens=texts.max_tokens)


def _checked_counts(given: Sequence[str], routed: "RoutedModel") -> list[tuple[int, ...]]:
    from mixtral.routing.experts_per_token import parse_experts_per_token

    return [parse_experts_per_token(text, routed.config) for text in given]


@contextmanager
def _progress(text: str) -> Iterator[Any]:
    console = stderr_console()
    if not console.is_terminal:
        yield None
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description} {task.completed:,.0f} tokens"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(text, total=None)
        yield lambda done: progress.update(task, completed=done)
