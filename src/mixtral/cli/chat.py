"""``mixtral chat``: a conversation in the terminal, or line by line through a pipe."""

import logging
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mixtral.cli.console import format_count, note, require_text
from mixtral.cli.options import (
    AdapterOption,
    ModelOptions,
    SamplingOptions,
    grouped_options,
    named_adapter,
)

if TYPE_CHECKING:
    from prompt_toolkit.history import History
    from prompt_toolkit.key_binding import KeyBindings

    from mixtral.cli.chat_session import ChatSession

app = typer.Typer(add_completion=False)

logger = logging.getLogger(__name__)

_EXAMPLES = """Examples:
  mixtral chat
  mixtral chat --model random:8x7b --layers 2 --system "Answer in French."
  printf 'Hello\\n/tokens\\n' | mixtral chat"""


@app.command(epilog=_EXAMPLES)
@grouped_options
def chat(
    model: ModelOptions,
    sampling: SamplingOptions,
    adapter: AdapterOption = None,
    system: Annotated[
        str, typer.Option("--system", help="Instructions that go before the conversation.")
    ] = "",
    safe_prompt: Annotated[
        bool, typer.Option("--safe-prompt", help="Put Mistral's guard-rail text first.")
    ] = False,
) -> None:
    """Talk with a model.

    Enter sends; Alt-Enter, Ctrl-J or a backslash at the end of a line begins a new line.
    Ctrl-C stops an answer. /help lists commands. Through a pipe, each line is one message.
    """
    require_text("the system text", system)
    params = sampling.params()
    llm = model.load(adapters=named_adapter(adapter))
    # A model without a tokenizer cannot talk; better said now than after the first message.
    _ = llm.tokenizer
    from mixtral.cli.chat_session import ChatSession

    session = ChatSession(llm, params, system=system, safe_prompt=safe_prompt)
    is_terminal = sys.stdin.isatty() and sys.stdout.isatty()
    if is_terminal:
        size = format_count(llm.config.num_parameters)
        note(
            f"{model.model}: {size} parameters, a context of {llm.max_model_len} tokens. "
            "/help lists commands, Ctrl-D leaves."
        )
    read = _terminal_reader() if is_terminal else _read_line
    handle = partial(_handle_at_terminal, session) if is_terminal else session.handle
    while (line := read()) is not None and handle(line):
        pass


def _handle_at_terminal(session: "ChatSession", line: str) -> bool:
    """Do what a line says; Ctrl-C beside an answer ends that alone, not the conversation."""
    try:
        return session.handle(line)
    except KeyboardInterrupt:
        note("[stopped; the conversation stays]")
        return True


def _read_line() -> str | None:
    # Bytes: whether text may hold wrong ones depends on the locale.
    line = sys.stdin.buffer.readline().decode("utf-8", "surrogateescape")
    return line.rstrip("\r\n") if line else None


def _terminal_reader() -> Callable[[], str | None]:
    """Return a function that reads a message of one or more lines; None is the end."""
    from prompt_toolkit import PromptSession

    session: PromptSession[str] = PromptSession(
        history=_history(),
        key_bindings=_key_bindings(),
        multiline=True,
        prompt_continuation=". ",
    )

    def read() -> str | None:
        while True:
            try:
                return session.prompt("> ")
            except EOFError:
                return None
            except KeyboardInterrupt:
                if not session.default_buffer.text:
                    note("[/exit or Ctrl-D leaves]")

    return read


def _key_bindings() -> "KeyBindings":
    from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent

    bindings = KeyBindings()

    @bindings.add("enter")
    def send(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        if buffer.document.text_before_cursor.endswith("\\"):
            buffer.delete_before_cursor()
            buffer.newline(copy_margin=False)
        else:
            buffer.validate_and_handle()

    @bindings.add("escape", "enter")
    @bindings.add("c-j")
    def begin_line(event: KeyPressEvent) -> None:
        event.current_buffer.newline(copy_margin=False)

    return bindings


def _history() -> "History":
    """Return the file of earlier messages, readable by its owner alone."""
    from prompt_toolkit.history import FileHistory, InMemoryHistory

    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    path = Path(state) / "mixtral" / "chat_history"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(path, os.O_APPEND | os.O_CREAT | os.O_WRONLY, 0o600))
    except OSError as error:
        logger.warning("%s cannot be written (%s); messages are not kept", path, error.strerror)
        return InMemoryHistory()
    return FileHistory(str(path))
