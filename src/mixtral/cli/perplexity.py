"""``mixtral perplexity``: how well a model predicts texts, and what a longer context is worth.

The table goes to standard output; ``--out`` writes a folder, in which a killed run goes on.
"""

from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mixtral.cli.console import note, spinner
from mixtral.cli.measuring import (
    JsonOption,
    OutOption,
    check_out,
    describe,
    give_report,
    lock_out,
    model_title,
    progress_bar,
    record_cost,
)
from mixtral.cli.options import AdapterOption, ModelOptions, grouped_options, named_adapter
from mixtral.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mixtral.eval.context_curve import ContextCurve
    from mixtral.eval.documents import Document
    from mixtral.eval.perplexity import Perplexity, Window
    from mixtral.eval.token_scores import LogProbs
    from mixtral.llm import LLM
    from mixtral.reports.report import Report
    from mixtral.tokenizer import Tokenizer

app = typer.Typer(add_completion=False)

_EXAMPLES = """Examples:
  mixtral perplexity --model nano --text wiki.test.raw
  mixtral perplexity --text novels/ --by-context 512,1k,2k --out curve
  mixtral perplexity --model mixtral-int4 --text wiki.test.raw --context 2k --stride 1k"""
_DEFAULT_CONTEXT = 512  # llama.cpp's
_SCORES_FILE = "scores.ndjson"  # not .jsonl: that would be a text where --out is below --text
_DEFAULT_WINDOWS = 40
_DEFAULT_SCORED = 256


@dataclass(frozen=True, kw_only=True, slots=True)
class WindowOptions:
    """How texts are cut, for one number."""

    context: Annotated[
        str | None,
        typer.Option(
            "--context",
            metavar="TOKENS",
            help="Tokens of a window, k for 1024.",
            show_default=str(_DEFAULT_CONTEXT),
        ),
    ] = None
    stride: Annotated[
        str | None,
        typer.Option(
            "--stride",
            metavar="TOKENS",
            help="Let windows begin every so many tokens, and score each token once; without it, "
            "the second half of windows that do not overlap, as llama.cpp does.",
        ),
    ] = None
    whole: Annotated[
        bool, typer.Option("--whole", help="Read each document in one pass, and score all of it.")
    ] = False

    def sizes(self) -> tuple[int | None, int | None]:
        """Return tokens of a window, None for whole documents, and its stride, None for halves.

        Raises:
            ConfigError: One of them is no length, or they do not fit together.
        """
        size = _one_length("context", self.context or str(_DEFAULT_CONTEXT))
        step = None if self.stride is None else _one_length("stride", self.stride)
        if step is not None and step >= size:
            raise ConfigError(f"stride is {step}; it must be less than the context, {size}.")
        return None if self.whole else size, step


@dataclass(frozen=True, kw_only=True, slots=True)
class CurveOptions:
    """How texts are cut, for a curve."""

    by_context: Annotated[
        str | None,
        typer.Option(
            "--by-context",
            metavar="LIST",
            help="Score the same tokens after so many others: 512,1k,2k.",
        ),
    ] = None
    windows: Annotated[
        int | None,
        typer.Option(
            "--windows",
            help="With --by-context: windows of each length.",
            show_default=str(_DEFAULT_WINDOWS),
        ),
    ] = None
    scored: Annotated[
        int | None,
        typer.Option(
            "--scored",
            help="With --by-context: scored tokens of each window.",
            show_default=str(_DEFAULT_SCORED),
        ),
    ] = None
    seed: Annotated[
        int | None,
        typer.Option(
            "--seed", help="With --by-context: same seed, same intervals.", show_default="0"
        ),
    ] = None


@app.command(epilog=_EXAMPLES)
@grouped_options
def perplexity(
    model: ModelOptions,
    text: Annotated[
        list[Path],
        typer.Option(
            "--text",
            metavar="PATH",
            help="A text, JSON lines with a field text, or a folder of them, .gz or not; again for "
            "more.",
        ),
    ],
    window: WindowOptions,
    curve: CurveOptions,
    adapter: AdapterOption = None,
    out: OutOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure how well a model predicts texts; with --by-context, what more context is worth."""
    _check_together(window, curve)
    with spinner("reading"):
        from mixtral.eval.documents import hash_documents, read_documents
        from mixtral.eval.lengths import parse_lengths

    contexts = () if curve.by_context is None else parse_lengths("by-context", curve.by_context)
    size, step = window.sizes()
    documents = read_documents(text)
    check_out(out, kind="perplexity")
    lock = lock_out(out)
    llm = model.load(adapters=named_adapter(adapter))
    settings: dict[str, Any] = {
        "model": describe(model, adapter=adapter),
        "texts": [str(path) for path in text],
        "texts_sha256": hash_documents(documents),
    }
    measured: Perplexity | ContextCurve
    with _scorer(llm, out, settings["model"]) as score:
        if contexts:
            settings |= {"by_context": list(contexts), "seed": curve.seed or 0}
            measured = _curve(score, llm, documents, contexts, curve)
        else:
            settings |= {"context": size, "stride": step}
            measured = _measure(score, llm, documents, context=size, stride=step)
    cost = record_cost(llm, is_kept=as_json or out is not None)
    report = _report(measured, settings, cost, title=model_title(model, adapter=adapter))
    give_report(report, out=out, as_json=as_json)
    del lock  # Held until everything is written.


@contextmanager
def _scorer(llm: "LLM", out: Path | None, model: dict[str, Any]) -> "Iterator[LogProbs]":
    """Give what scores tokens; with a folder it goes on where a killed run stopped."""
    from mixtral.eval.answer_cache import AnswerCache
    from mixtral.eval.token_scores import KeptScores, TokenScorer

    score = TokenScorer.of(llm, adapter=next(iter(llm.requests.adapters), None))
    if out is None:
        yield score
        return
    with AnswerCache(out / _SCORES_FILE, {"model": model}) as cache:
        if len(cache):
            note(f"{len(cache)} windows were scored by an earlier run, see {out / _SCORES_FILE}.")
        yield KeptScores(score, cache)


def _check_together(window: WindowOptions, curve: CurveOptions) -> None:
    has_window = window.context is not None or window.stride is not None
    given = [
        name
        for name, is_given in (
            ("--by-context", curve.by_context is not None),
            ("--whole", window.whole),
            ("--context or --stride", has_window),
        )
        if is_given
    ]
    if len(given) > 1:
        raise ConfigError(f"{' and '.join(given)} exclude each other; choose one.")
    of_curve = {"--windows": curve.windows, "--scored": curve.scored, "--seed": curve.seed}
    for name, value in of_curve.items():
        if value is not None and curve.by_context is None:
            raise ConfigError(f"{name} is {value}; it needs --by-context. Leave it out, or add it.")


def _one_length(name: str, text: str) -> int:
    from mixtral.eval.lengths import parse_lengths

    lengths = parse_lengths(name, text)
    if len(lengths) != 1 or (name == "context" and lengths[0] < 4):
        least = ", at least 4" if name == "context" else ""
        raise ConfigError(f"{name} is {text!r}; it must be one number of tokens{least}.")
    return lengths[0]


def _curve(
    score: "LogProbs",
    llm: "LLM",
    documents: "Sequence[Document]",
    contexts: tuple[int, ...],
    options: CurveOptions,
) -> "ContextCurve":
    from mixtral.eval.context_curve import measure_curve
    from mixtral.eval.lengths import check_lengths

    check_lengths("contexts", contexts, context=llm.max_model_len)
    tokenizer = llm.tokenizer
    with progress_bar("reading tokens") as show:
        return measure_curve(
            score,
            [tokenizer.encode(document.text, bos=False) for document in documents],
            bos_id=tokenizer.bos_id,
            contexts=contexts,
            num_windows=_DEFAULT_WINDOWS if options.windows is None else options.windows,
            num_scored=_DEFAULT_SCORED if options.scored is None else options.scored,
            seed=options.seed or 0,
            progress=show,
        )


def _measure(
    score: "LogProbs",
    llm: "LLM",
    documents: "Sequence[Document]",
    *,
    context: int | None,
    stride: int | None,
) -> "Perplexity":
    from mixtral.eval.lengths import check_lengths
    from mixtral.eval.perplexity import measure_perplexity

    if context is not None:
        check_lengths("contexts", (context,), context=llm.max_model_len)
    cut = [
        (d.name, _windows(llm.tokenizer, d, context, stride, longest=llm.max_model_len))
        for d in documents
    ]
    if short := sum(not windows for _, windows in cut):
        note(f"documents that are shorter than a window and left out: {short} of {len(cut)}.")
    with progress_bar("reading tokens") as show:
        return measure_perplexity(
            score,
            cut,
            definition="whole" if context is None else "strided" if stride else "windows",
            progress=show,
        )


def _windows(
    tokenizer: "Tokenizer",
    document: "Document",
    context: int | None,
    stride: int | None,
    *,
    longest: int,
) -> "list[Window]":
    from mixtral.eval.perplexity import Window, half_windows, strided_windows

    # llama.cpp drops one line end at the end of a file, so that the tokens are the same.
    ids = tokenizer.encode(document.text.removesuffix("\n"))
    if context is not None and stride is not None:
        return strided_windows(ids, context=context, stride=stride)
    if context is not None:
        return half_windows(ids, context=context, bos_id=tokenizer.bos_id)
    if len(ids) > longest:
        raise ConfigError(
            f"{document.name} has {len(ids)} tokens, and the context of this model is {longest}; "
            "use --context with --stride instead of --whole."
        )
    return [Window(token_ids=ids, first=1)]


def _report(
    measured: "Perplexity | ContextCurve",
    settings: dict[str, Any],
    cost: dict[str, Any],
    *,
    title: str,
) -> "Report":
    from mixtral.eval.context_curve import ContextCurve
    from mixtral.eval.perplexity_report import curve_blocks, curve_picture, perplexity_blocks
    from mixtral.reports.report import Report, new_head

    head, results = new_head("perplexity", settings), {**cost, **measured.as_dict()}
    if isinstance(measured, ContextCurve):
        return Report(
            head=head,
            title=f"Perplexity by length of context: {title}",
            results=results,
            blocks=curve_blocks(measured),
            pictures=[curve_picture(measured, title=title)],
        )
    context, stride = settings["context"], settings["stride"]
    return Report(
        head=head,
        title=f"Perplexity: {title}",
        results=results,
        blocks=perplexity_blocks(measured, context=context, stride=stride),
    )
