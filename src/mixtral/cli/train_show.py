"""``mixtral train show``: which tokens of a file of conversations a model would learn."""

import json
from collections import deque
from collections.abc import Callable
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from mixtral.cli.console import note, spinner, stdout_console
from mixtral.errors import ConfigError
from mixtral.pictures import require_matplotlib

if TYPE_CHECKING:
    from mixtral.tokenizer import Tokenizer
    from mixtral.train.chat_data import EncodedRecord

EPILOG = """Example:
  mixtral train show conversations.jsonl --model nano --limit 3 --plot learned.png
  mixtral train show conversations.jsonl --all-errors --max-seq-len 1024"""


def show(
    records: Annotated[Path, typer.Argument(metavar="FILE.jsonl", help="Conversations.")],
    model: Annotated[
        str, typer.Option(help="Model whose template and tokenizer are used.")
    ] = "nano",
    limit: Annotated[int, typer.Option(min=1, help="Records to show.")] = 3,
    max_seq_len: Annotated[
        int | None,
        typer.Option(min=1, help="Also refuse longer records, as a recipe with this value does."),
    ] = None,
    all_errors: Annotated[
        bool, typer.Option("--all-errors", help="List every record that cannot be used.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object per line.")
    ] = False,
    plot: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Draw them into this .png or .svg, too."),
    ] = None,
) -> None:
    """Show conversations as the model sees them, and mark what it learns.

    Learned tokens are green in a terminal and stand in braces elsewhere; the whole file is checked
    first, as training would.
    """
    _check_plot(plot)
    drawn: list[tuple[str, list[tuple[str, bool]]]] = []
    with spinner("reading"):
        from mixtral.model_source import find_model
        from mixtral.model_tokenizer import find_tokenizer
        from mixtral.train.chat_data import picture

        tokenizer = find_tokenizer(find_model(model))
        on_bad = partial(_print_bad, as_json=as_json) if all_errors else None
        shown = _first(records, tokenizer, limit, max_seq_len=max_seq_len, on_bad=on_bad)
    for record in shown:
        for example in record.examples:
            pieces = picture(example, tokenizer)
            counts = f"{len(example.token_ids)} tokens, {sum(example.loss_mask)} learned"
            drawn.append((f"{record.place} ({counts})", pieces))
            if as_json:
                learned = [{"text": text, "is_learned": learned} for text, learned in pieces]
                typer.echo(json.dumps({"place": record.place, "pieces": learned}))
            else:
                _print_example(*drawn[-1])
    if plot is not None:
        from mixtral.pictures import save_figure
        from mixtral.train.mask_picture import draw_learned

        save_figure(draw_learned(drawn), plot)
        note(f"wrote {plot}")


def _first(
    path: Path,
    tokenizer: "Tokenizer",
    limit: int,
    *,
    max_seq_len: int | None,
    on_bad: Callable[[str, str], None] | None,
) -> "list[EncodedRecord]":
    """Return the first conversations of a file that is all good.

    Raises:
        ConfigError: Records are bad; the message names the first of them.
    """
    from mixtral.train.chat_data import encode_conversation, encode_records
    from mixtral.train.record_files import LIST_CONVERSATIONS, RecordReader
    from mixtral.train.records import parse_conversation

    listed_by = LIST_CONVERSATIONS if on_bad is None else None
    reader = RecordReader([path], parse_conversation, on_bad=on_bad, listed_by=listed_by)
    encode = partial(encode_conversation, tokenizer=tokenizer)
    encoded = encode_records(reader, encode, max_seq_len=max_seq_len)
    first = list(islice(encoded, limit))
    deque(encoded, maxlen=0)  # Bad records are told at the end of the file.
    return first


def _print_bad(place: str, reason: str, *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps({"place": place, "reason": reason}))
    else:
        stdout_console().print(f"{place}: {reason}", markup=False, highlight=False, soft_wrap=True)


def _check_plot(plot: Path | None) -> None:
    if plot is None:
        return
    from mixtral.reports.folder import check_file

    if plot.suffix not in (".png", ".svg"):
        raise ConfigError(f"--plot is {plot}; name a file that ends with .png or .svg.")
    require_matplotlib("--plot")
    check_file("--plot", plot)


def _print_example(title: str, pieces: list[tuple[str, bool]]) -> None:
    console = stdout_console()
    text = Text(f"{title}\n", style="bold")
    for piece, is_learned in pieces:
        if is_learned:
            text.append(piece if console.is_terminal else f"{{{piece}}}", style="green not bold")
        else:
            text.append(piece, style="not bold")
    console.print(text, soft_wrap=True)
