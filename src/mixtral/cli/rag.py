"""``mixtral rag``: add documents, find passages in them, answer questions with citations.

Everything is in one folder, the store. Results go to standard output (``--json`` prints one JSON
object instead), progress and everything else to standard error.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from mixtral.cli.console import note, print_json, require_text, spinner, stderr_console, write_text
from mixtral.cli.options import ModelOptions, grouped_options, sampling_option
from mixtral.cli.rag_options import ChunkOptions, StoreOptions
from mixtral.cli.rag_show import (
    counted,
    note_limits,
    note_refused,
    plural,
    print_documents,
    print_passages,
    print_sources,
    printable,
)

if TYPE_CHECKING:
    from mixtral.llm import LLM
    from mixtral.rag import AddedDocument, Passage, RagAnswer
    from mixtral.rag.ask import Ask

_EXAMPLES = """Examples:
  mixtral rag add manual.pdf docs/
  mixtral rag ask "How is int4 packed?"
  mixtral rag search "packing of weights" --limit 8
  mixtral rag list"""

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    help="Answer questions from documents, and say where the answers stand.",
    epilog=_EXAMPLES,
)

_Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
_Limit = Annotated[int, typer.Option("--limit", min=1, max=100, help="Most passages.")]


# ---- Documents ---------------------------------------------------------------------------------


@app.command(epilog=_EXAMPLES)
@grouped_options
def add(
    store: StoreOptions,
    chunks: ChunkOptions,
    paths: Annotated[
        list[str], typer.Argument(help="Files, folders and globs; URLs with --allow-urls.")
    ],
    allow_urls: Annotated[
        bool, typer.Option("--allow-urls", help="Download what is named by a URL.")
    ] = False,
    as_json: _Json = False,
) -> None:
    """Add documents, or new versions of them; what has not changed is left as it is.

    Text, Markdown, HTML, PDF, docx and source code. Ctrl-C leaves whole documents, and the same
    command goes on from there. The exit status is 1 where nothing could be added.
    """
    done: list[AddedDocument] = []
    with store.open(create=True, allow_urls=allow_urls, **chunks.given()) as collection:
        try:
            with _progress("adding") as show:

                def watch(document: "AddedDocument") -> None:
                    done.append(document)
                    show(len(done), document.title)

                added = collection.add(paths, on_document=watch)
        except KeyboardInterrupt:
            note(f"stopped; what was done before stays: {counted(done) or 'nothing'}.")
            raise
    if as_json:
        print_json({"store": store.location, "documents": [asdict(one) for one in added]})
    else:
        typer.echo(f"{counted(added) or 'nothing was found'}, in {store.location}")
        note_refused(added)
    if not any(one.status != "refused" for one in added):
        raise typer.Exit(1)


@app.command("list", epilog="Example:\n  mixtral rag list --json")
@grouped_options
def list_documents(store: StoreOptions, as_json: _Json = False) -> None:
    """List the documents."""
    with store.open_without_model() as collection:
        documents = collection.documents()
    if as_json:
        print_json({"store": store.location, "documents": [asdict(one) for one in documents]})
        return
    print_documents(documents)


@app.command(epilog="Example:\n  mixtral rag remove manual.pdf")
@grouped_options
def remove(
    store: StoreOptions,
    documents: Annotated[
        list[str], typer.Argument(help="Ids, or the files or URLs they were added as.")
    ],
    as_json: _Json = False,
) -> None:
    """Remove documents; their files stay where they are."""
    with store.open_without_model() as collection:
        num_removed = collection.remove(documents)
    if as_json:
        print_json({"store": store.location, "removed": num_removed})
    else:
        typer.echo(f"{plural(num_removed, 'document')} removed from {store.location}")


@app.command(epilog="Example:\n  mixtral rag reindex --embedding-model BAAI/bge-m3")
@grouped_options
def reindex(store: StoreOptions, chunks: ChunkOptions, as_json: _Json = False) -> None:
    """Cut and embed all documents anew, for another embedding model or other passages.

    Their files are not read again: mixtral rag add does that for those that have changed.
    """
    with store.open() as collection, spinner("embedding"):
        num_chunks = collection.reindex(collection.settings.cut_anew(**chunks.given()))
    if as_json:
        print_json({"store": store.location, "passages": num_chunks})
    else:
        typer.echo(f"{plural(num_chunks, 'passage')} embedded, in {store.location}")


# ---- Questions ---------------------------------------------------------------------------------


@app.command(epilog='Example:\n  mixtral rag search "packing of weights" --limit 8')
@grouped_options
def search(
    store: StoreOptions,
    question: Annotated[str, typer.Argument(help="A question, or any text.")],
    limit: _Limit = 4,
    as_json: _Json = False,
) -> None:
    """Find passages, best first, without asking a model."""
    _check_question(question)
    with store.open() as collection, spinner("searching"):
        passages = collection.search(question, limit=limit)
    if as_json:
        print_json({"question": question, "passages": [asdict(one) for one in passages]})
    else:
        print_passages(passages)


@app.command(epilog='Example:\n  mixtral rag ask "How is int4 packed?" --show-passages')
@grouped_options
def ask(
    store: StoreOptions,
    model: ModelOptions,
    question: Annotated[str, typer.Argument(help="What to answer.")],
    limit: _Limit = 4,
    max_tokens: Annotated[
        int | None,
        sampling_option("max_tokens", show_default="256, or a quarter of a short context"),
    ] = None,
    temperature: Annotated[float, sampling_option("temperature")] = 0.0,
    seed: Annotated[int | None, sampling_option("seed")] = None,
    min_similarity: Annotated[
        float | None,
        typer.Option(
            "--min-similarity",
            help="Passages less similar are not shown to the model; -1 shows all that were found.",
        ),
    ] = None,
    show_passages: Annotated[
        bool, typer.Option("--show-passages", help="Print what the model was shown.")
    ] = False,
    as_json: _Json = False,
) -> None:
    """Answer a question from the documents, with citations.

    Where no passage has to do with the question, the answer is "Not in the documents." and no model
    is loaded.
    """
    _check_question(question)
    from mixtral.rag.ask import Ask, not_found

    settings = Ask()
    if min_similarity is not None:
        settings = Ask(min_similarity=min_similarity, sure_similarity=min_similarity)
    with store.open() as collection, spinner("searching"):
        found = collection.search(question, limit=limit)
    passages = settings.relevant(question, found)
    if passages:
        how = {"temperature": temperature, "max_tokens": max_tokens, "seed": seed}
        on_text = None if as_json else write_text
        answer = _answer(model.load(), question, passages, settings, how, on_text)
    else:
        answer = not_found()
    if as_json:
        print_json({"question": question, **answer.as_dict()})
        return
    write_text("\n" if passages else f"{answer.text}\n")
    print_sources(answer)
    if show_passages:
        write_text("\n")
        print_passages(answer.passages)
    note_limits(answer, found)


def _answer(
    llm: "LLM",
    question: str,
    passages: "Sequence[Passage]",
    settings: "Ask",
    how: Mapping[str, Any],
    on_text: Callable[[str], None] | None,
) -> "RagAnswer":
    from mixtral.engine import SamplingParams
    from mixtral.rag.ask import answer_from

    return answer_from(
        llm,
        question,
        passages,
        params=SamplingParams(**how),
        on_text=on_text,
        settings=settings,
    )


@contextmanager
def _progress(text: str) -> Iterator[Callable[[int, str], None]]:
    """Yield a function that is told how many documents are done, and the last one's title."""
    console = stderr_console()
    if not console.is_terminal:
        yield lambda done, title: None
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(text, total=None)

        def show(done: int, title: str) -> None:
            shown = printable(title[:60])
            progress.update(task, description=f"{text}: {plural(done, 'document')}, {shown}")

        yield show


# ---- Input -------------------------------------------------------------------------------------


def _check_question(question: str) -> None:
    from mixtral.rag.prompt import check_question

    require_text("the question", question)
    check_question(question)
