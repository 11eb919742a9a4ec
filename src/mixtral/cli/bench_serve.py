"""``mixtral bench serve``: what users of a server see, under loads that are known.

Without ``--url`` it starts a ``mixtral serve`` of its own and stops it afterwards; with it, any
OpenAI-compatible server is measured. Ctrl-C ends the run and reports what was measured until then.
"""

import dataclasses
import json
import os
import shlex
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from mixtral.cli.bench_output import CUT_REMARK, CUT_STATUS, check_targets, give_values
from mixtral.cli.bench_serve_options import (
    KEY_VARIABLE,
    LoadOptions,
    PromptOptions,
    ServerOptions,
)
from mixtral.cli.console import note, spinner, stderr_console
from mixtral.cli.options import ModelOptions, grouped_options
from mixtral.errors import ConfigError, EngineError
from mixtral.pictures import require_matplotlib

if TYPE_CHECKING:
    from mixtral.bench.serve_load import Load
    from mixtral.bench.serve_measure import ServedModel
    from mixtral.bench.serve_prompts import Endpoint, PromptForm
    from mixtral.bench.serve_report import ServeReport
    from mixtral.bench.serve_server import OwnServer
    from mixtral.bench.serve_session import ServeOptions

EPILOG = (
    "Example: mixtral bench serve --model random:8x7b --layers 2 -q int4 --concurrency 1,8,32\n\n"
    "Example: mixtral bench serve --url http://127.0.0.1:8080/v1 --request-rate 1,2,4 --plot plots"
)
# Where nobody says how many tokens there are: as many as in the smallest vocabulary of Mistral.
_SMALLEST_VOCAB_SIZE = 32000
_ENDPOINTS = ("completions", "chat")


@grouped_options
def serve(
    model: ModelOptions,
    server: ServerOptions,
    load: LoadOptions,
    prompts: PromptOptions,
    plot: Annotated[
        Path | None,
        typer.Option("--plot", metavar="FOLDER", help="Draw the results into this folder."),
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write the report to this file.")
    ] = None,
) -> None:
    """Time the answers of a server: first token, each token, all of it, under given loads."""
    if plot is not None:
        require_matplotlib("--plot")
    check_targets(json_file, plot)
    _refuse_unused(model, server)
    options = _measurement(server, load, prompts, vocab_size=_vocab_size(model, server, prompts))
    if server.url is None:
        report = _measure_own(model, server, options, has_probes=load.probes)
    else:
        report = _measure(server.url, server, options, has_probes=load.probes)
    _publish(report, plot, json_file)


def _measure_own(
    model: ModelOptions, server: ServerOptions, options: "ServeOptions", *, has_probes: bool
) -> "ServeReport":
    from mixtral.bench.serve_server import own_server

    arguments = [*_model_arguments(model), *_split_options(server.server_options)]
    known = _describe(model)
    with ExitStack() as stack:
        with spinner(f"starting mixtral serve with {model.model}"):
            process = stack.enter_context(own_server(arguments))
        note(f"mixtral serve was ready after {process.start_s:.1f} s")
        return _measure(
            process.url, server, options, has_probes=has_probes, known=known, process=process
        )


def _split_options(text: str) -> list[str]:
    """Return the words of --server-options, as a shell has them."""
    try:
        return shlex.split(text)
    except ValueError as error:
        reason = str(error).lower()
        raise ConfigError(
            f"server_options is {text!r}, which a shell cannot read: {reason}; write them as on a "
            "command line, such as '--max-num-seqs 32'."
        ) from None


def _measure(
    url: str,
    server: ServerOptions,
    options: "ServeOptions",
    *,
    has_probes: bool,
    known: "ServedModel | None" = None,
    process: "OwnServer | None" = None,
) -> "ServeReport":
    from mixtral.bench.serve_http import Target
    from mixtral.bench.serve_measure import (
        ServedModel,
        is_on_this_machine,
        measure_serve,
        quick_prober,
    )
    from mixtral.bench.serve_session import ServeSession

    # A server of our own has no key, and the variable may be meant for another.
    target = Target.parse(url, api_key=server.api_key if process is None else None)
    with (
        _bar(f"measuring {url}", options.num_requests) as advance,
        ServeSession(
            target, server=process, timeout_s=options.timeout_s, on_outcome=advance
        ) as session,
    ):
        name, owner = server.served_model, "server"
        if name is None:
            name, owner = session.find_model()
        body = dataclasses.replace(options.body, model=name)
        return measure_serve(
            session,
            dataclasses.replace(options, body=body),
            known or ServedModel(name=name, engine=owner),
            prober=quick_prober() if has_probes and is_on_this_machine(target) else None,
        )


def _measurement(
    server: ServerOptions, load: LoadOptions, prompts: PromptOptions, *, vocab_size: int
) -> "ServeOptions":
    from mixtral.bench import serve_prompts, serve_session

    if server.endpoint not in _ENDPOINTS:
        raise ConfigError(
            f"endpoint is {server.endpoint!r}; it must be one of {', '.join(_ENDPOINTS)}."
        )
    form = prompts.prompt_form or ("ids" if server.endpoint == "completions" else "text")
    if (form, server.endpoint) == ("ids", "chat"):
        raise ConfigError("prompt_form is 'ids', which --endpoint chat cannot send; use text.")
    random_options = serve_prompts.PromptOptions(
        prompt_tokens=prompts.prompt_tokens,
        new_tokens=prompts.new_tokens,
        shared_prefix_tokens=prompts.shared_prefix_tokens,
        form=cast("PromptForm", form),
        vocab_size=vocab_size,
        seed=prompts.seed,
    )
    listed = []
    if prompts.prompts is not None:
        _refuse_random(prompts)
        listed = serve_prompts.read_prompts(prompts.prompts, new_tokens=prompts.new_tokens)
    body = serve_prompts.BodyOptions(
        endpoint=cast("Endpoint", server.endpoint),
        ignore_eos=prompts.ignore_eos,
        extra_body=_parse_object("extra_body", prompts.extra_body),
    )
    for prompt in listed:
        body.write(prompt)
    return serve_session.ServeOptions(
        loads=_loads(load),
        prompts=random_options,
        listed_prompts=listed,
        body=body,
        requests=load.requests,
        warmup=load.warmup,
        repeats=load.repeats,
        timeout_s=load.timeout,
    )


def _refuse_random(prompts: PromptOptions) -> None:
    """Refuse what says how random prompts are made."""
    unused = PromptOptions()
    for name in ("prompt_tokens", "shared_prefix_tokens", "prompt_form", "vocab_size"):
        if getattr(prompts, name) != getattr(unused, name):
            option = "--" + name.replace("_", "-")
            raise ConfigError(f"{option} is for random prompts; leave it or --prompts out.")


def _loads(options: LoadOptions) -> "list[Load]":
    from mixtral.bench.serve_load import Load

    if options.request_rate is not None:
        if options.concurrency is not None:
            raise ConfigError("give --request-rate or --concurrency, not both.")
        rates = _parse_numbers("request_rate", options.request_rate, float)
        return [Load(request_rate=rate) for rate in rates]
    sizes = _parse_numbers("concurrency", options.concurrency or "1", int)
    return [Load(concurrency=int(size)) for size in sizes]


def _parse_numbers(name: str, text: str, kind: type[int] | type[float]) -> list[float]:
    try:
        return [kind(part) for part in text.split(",")]
    except ValueError:
        raise ConfigError(
            f"{name} is {text!r}; it must be numbers with commas between them, such as 1,8."
        ) from None


def _parse_object(name: str, text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise ConfigError(f"{name} is {text!r}, which is not JSON: {error}.") from None
    if not isinstance(value, dict):
        raise ConfigError(f'{name} is {text!r}; it must be a JSON object, such as {{"top_p": 1}}.')
    return value


def _refuse_unused(model: ModelOptions, server: ServerOptions) -> None:
    """Refuse options that go with the other kind of server."""
    if server.url is None:
        if server.api_key not in (None, os.environ.get(KEY_VARIABLE)):
            raise ConfigError("--api-key goes with --url; a server of our own needs none.")
        return
    given = _model_arguments(model)[2:]
    if model.model != "nano" or given or server.server_options:
        what = "--server-options" if server.server_options else (given or ["--model"])[0]
        raise ConfigError(f"{what} is for a server that is started here; leave it or --url out.")


def _model_arguments(model: ModelOptions) -> list[str]:
    """Return the options of the model as words of a command line, the model itself first."""
    words = ["--model", model.model]
    for field in dataclasses.fields(model):
        value = getattr(model, field.name)
        if field.name == "model" or value == field.default:
            continue
        words.append("--" + field.name.replace("_", "-"))
        if not isinstance(value, bool):
            words.append(str(value))
    return words


def _vocab_size(model: ModelOptions, server: ServerOptions, prompts: PromptOptions) -> int:
    from mixtral.model_source import find_model, is_hub_id

    if prompts.vocab_size is not None:
        return prompts.vocab_size
    if server.url is not None or is_hub_id(model.model):
        return _SMALLEST_VOCAB_SIZE
    config = find_model(model.model, layers=model.layers).config
    return min(_SMALLEST_VOCAB_SIZE, config.vocab_size)


def _describe(model: ModelOptions) -> "ServedModel":
    """Return what the report says about the model of our own server; a hub id is downloaded."""
    import torch

    from mixtral.bench.serve_measure import ServedModel
    from mixtral.checkpoint import open_checkpoint
    from mixtral.loading import find_or_download

    source = find_or_download(model.model, layers=model.layers)
    recipe = None if source.folder is None else open_checkpoint(source.folder).recipe
    stored = source.config.dtype if recipe is None else recipe.name
    return ServedModel(
        name=model.model,
        engine="mixtral",
        layers=source.config.num_hidden_layers,
        format=model.quantization or model.dtype or stored,
        threads=torch.get_num_threads(),
    )


def _publish(report: "ServeReport", plot: Path | None, json_file: Path | None) -> None:
    from mixtral.bench.serve_report import serve_table

    console = stderr_console()
    console.width = max(console.width, 180)
    console.print(serve_table(report), soft_wrap=True)
    for line in _remarks(report):
        note(line)
    give_values(report.to_json(), json_file, draw=lambda: _draw(report, plot))
    if report.is_cut:
        raise typer.Exit(CUT_STATUS)
    if not report.has_success:
        raise EngineError("no request succeeded.")


def _draw(report: "ServeReport", plot: Path | None) -> None:
    if plot is not None:
        from mixtral.bench.serve_plot import plot_report

        for path in plot_report(report, plot):
            note(f"wrote {path}")


def _remarks(report: "ServeReport") -> Iterator[str]:
    """Yield what a reader of the table must know beside it."""
    if report.is_cut:
        yield CUT_REMARK
    for result in report.results:
        serve = result.serve
        load = serve.concurrency if serve.request_rate is None else f"{serve.request_rate:g}/s"
        for failure in serve.failures:
            yield f"load {load}: {failure['count']} failed: {failure['reason']}"
        if serve.counted_by == "events":
            yield f"load {load}: the server counts no tokens; an event with text is taken for one"
        late = serve.lateness_ms
        if late is not None and late.p99 > 50:
            yield f"load {load}: the load generator was {late.p99:.0f} ms late (p99)"
    lines, sent = report.notes["listed_prompts"], _count_sent(report)
    if lines is not None and sent > lines:
        yield (
            f"{sent} requests were made of {lines} prompts; a prefix cache may know those that "
            "come again"
        )
    if (share := report.notes.get("other_processes")) is not None:
        yield f"other processes took {share:.0%} of the processors meanwhile"


def _count_sent(report: "ServeReport") -> int:
    finished = (result.serve.succeeded + result.serve.failed for result in report.results)
    return int(report.notes["warmup"]) + sum(finished)


@contextmanager
def _bar(text: str, total: int) -> "Iterator[Any]":
    """Show a bar on a terminal; yield what moves it on by one request."""
    from rich.progress import Progress

    console = stderr_console()
    if not console.is_terminal:
        yield lambda: None
        return
    # A bar that is drawn often costs processor time that the server should have.
    with Progress(console=console, transient=True, refresh_per_second=1) as progress:
        task = progress.add_task(text, total=total)
        yield lambda: progress.advance(task)
