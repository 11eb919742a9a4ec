"""``mixtral train show``: which tokens of a file of conversations a model would learn."""

import json
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from mixtral.cli.console import note, spinner, stdout_console
from mixtral.errors import ConfigError, InvalidRequest, UnsupportedError

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
    with spinner("reading"):
        from mixtral.model_source import find_model
        from mixtral.model_tokenizer import find_tokenizer
        from mixtral.train.chat_data import Example, encode_conversation, picture
        from mixtral.train.record_files import RecordReader, reason_of
        from mixtral.train.records import parse_conversation

        tokenizer = find_tokenizer(find_model(model))
        on_bad = partial(_print_bad, as_json=as_json) if all_errors else None
        reader = RecordReader([records], parse_conversation, on_bad=on_bad)
        shown: list[tuple[str, list[Example]]] = []
        for line in reader:
            try:
                examples = encode_conversation(line.record, tokenizer)
            except (InvalidRequest, RecursionError) as error:
                reader.refuse(line, reason_of(error))
                continue
            longest = max(example.num_inputs for example in examples)
            if max_seq_len is not None and longest > max_seq_len:
                reason = f"the record has {longest} tokens and max_seq_len is {max_seq_len}"
                reader.refuse(line, reason)
                continue
            if len(shown) < limit:
                shown.append((line.place, examples))
        reader.check()
    drawn: list[tuple[str, list[tuple[str, bool]]]] = []
    for place, examples in shown:
        for example in examples:
            pieces = picture(example, tokenizer)
            counts = f"{len(example.token_ids)} tokens, {sum(example.loss_mask)} learned"
            drawn.append((f"{place} ({counts})", pieces))
            if as_json:
                learned = [{"text": text, "is_learned": learned} for text, learned in pieces]
                _print_json_line({"place": place, "pieces": learned})
            else:
                _print_example(*drawn[-1])
    if plot is not None:
        from mixtral.pictures import save_figure
        from mixtral.train.mask_picture import draw_learned

        save_figure(draw_learned(drawn), plot)
        note(f"wrote {plot}")


def _print_json_line(value: dict[str, Any]) -> None:
    typer.echo(json.dumps(value))


def _print_bad(place: str, reason: str, *, as_json: bool) -> None:
    if as_json:
        _print_json_line({"place": place, "reason": reason})
    else:
        stdout_console().print(f"{place}: {reason}", markup=False, highlight=False, soft_wrap=True)


def _check_plot(plot: Path | None) -> None:
    if plot is None:
        return
    from mixtral.reports.folder import check_file

    if plot.suffix not in (".png", ".svg"):
        raise ConfigError(f"--plot is {plot}; name a file that ends with .png or .svg.")
    if find_spec("matplotlib") is None:
        raise UnsupportedError("--plot needs matplotlib; run pip install 'mixtral[train]'.")
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
