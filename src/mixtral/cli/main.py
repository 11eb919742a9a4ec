"""The app: which commands there are, and how every failure ends as one line.

A command's module is imported when that command runs, so ``mixtral --help`` reads none of them.

Exit status: 0 fine; 1 something failed while running (the engine stopped, the output is gone);
2 the input is wrong (an option, a recipe, a model that is not there, a disk too small for it);
130 stopped with Ctrl-C, 143 with SIGTERM.
"""

import copy
import errno
import io
import logging
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from types import FrameType
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

import mixtral
from mixtral.cli.console import error_line
from mixtral.errors import EngineError, Error

COMMANDS: Mapping[str, str] = {
    "info": "Show the size of a model, and whether it fits into this machine.",
    "generate": "Answer one prompt, or continue a text.",
    "chat": "Talk with a model.",
    "serve": "Serve a model over HTTP, for the clients of Mistral and OpenAI.",
    "rag": "Answer questions from documents, and say where the answers stand.",
    "convert": "Write a checkpoint in another layout, another precision or a low-bit format.",
    "train": "Train a model as a recipe says.",
    "adapter": "Look at a LoRA adapter, or merge it into its model.",
    "eval": "Measure what a model can do, on held-out cases.",
    "passkey": "Hide a number at several depths of texts of several lengths, and ask for it.",
    "perplexity": "Measure how well a model predicts texts; with --by-context, what more context "
    "is worth.",
    "agent": "Answer a question with Python functions and MCP servers as tools.",
    "paraphrase": "Find the lines of a file that say the same: pairs and clusters.",
    "routing": "Show what the routers of a model do: load, repetitions, preferences of experts.",
    "bench": "Measure speed and memory, beside what the machine can do.",
}
"""Name -> first line of the help. The code of each is in the module of that name."""

logger = logging.getLogger(__name__)


class LazyGroup(TyperGroup):
    """Commands that are imported when they run, and errors that end as one line."""

    def __init__(self, **attributes: Any) -> None:
        """Register a stand-in for each command, enough for the list in ``--help``."""
        super().__init__(**attributes)
        for name, summary in COMMANDS.items():
            self.add_command(TyperCommand(name, help=summary))

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the command that the arguments name, and import it."""
        name, _, rest = super().resolve_command(ctx, args)
        command = typer.main.get_command(import_module(f"mixtral.cli.{name}").app)
        command.name = name
        return name, command, rest

    def main(self, *args: Any, **extra: Any) -> Any:
        """Run, and leave with an exit status; see the module for its meaning."""
        # A command's own result is None; typer gives the status of typer.Exit back as a number.
        extra["standalone_mode"] = False
        try:
            status = super().main(*args, **extra)
            sys.stdout.flush()
        except typer.TyperException as error:
            status = _fail(_usage_line(error), error.exit_code)
        except Error as error:
            status = _fail(str(error), 1 if isinstance(error, EngineError) else 2)
        except typer.Abort:
            status = _fail("the input ended.", 1)
        except OSError as error:
            _silence_stdout()
            status = 1 if error.errno == errno.EPIPE else _fail(_os_error_line(error), 1)
        except MemoryError:
            status = _fail("there is not enough memory for this.", 1)
        except Exception as error:  # The last place where a traceback could reach the user.
            logger.info("an unexpected error", exc_info=True)
            hint = "This is a bug; mixtral --verbose shows where."
            status = _fail(f"{type(error).__name__}: {error}. {hint}", 1)
        sys.exit(status or 0)


app = typer.Typer(
    name="mixtral",
    cls=LazyGroup,
    help="Run, fine-tune and explain Mixtral on the machine at hand.",
    epilog='Example:\n  mixtral generate --model nano "What is a mixture of experts?"',
    invoke_without_command=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["--help", "-h"]},
)


@app.callback()
def _root(
    ctx: typer.Context,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Say on standard error what is going on.")
    ] = False,
    version: Annotated[bool, typer.Option("--version", help="Show the version and leave.")] = False,
) -> None:
    _log_to_stderr(logging.INFO if verbose else logging.WARNING)
    if version:
        typer.echo(f"mixtral {mixtral.__version__}")
        raise typer.Exit
    if ctx.invoked_subcommand is None:
        typer.echo(ctx.get_help())
        raise typer.Exit(2)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; the console script ``mixtral`` is this function.

    Args:
        arguments: What follows the program's name; None takes those of the process.
    """
    _prepare_streams()
    for name in ("SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), _leave)
    app(args=arguments, prog_name="mixtral")


def _prepare_streams() -> None:
    """Put something in the place of closed streams; Python leaves None there."""
    if sys.stderr is None:
        sys.stderr = io.TextIOWrapper(io.BytesIO())
    if sys.stdin is None:
        sys.stdin = io.TextIOWrapper(io.BytesIO())
    if sys.stdout is None:
        sys.exit(_fail("standard output is closed; results need a place to go.", 1))
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A character that the terminal cannot show is no reason to stop.
        sys.stdout.reconfigure(errors="backslashreplace")


def _leave(number: int, frame: FrameType | None) -> None:
    # Not the default, which ends the process at once and leaves files half-written.
    raise SystemExit(128 + number)


class _StderrHandler(logging.Handler):
    """Writes to whatever standard error is at that moment, so that live displays stay whole."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record."""
        print(self.format(record), file=sys.stderr)


class _ShortFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        shown = copy.copy(record)  # other handlers see the record, too
        shown.levelname = record.levelname.lower()
        return super().format(shown)


def _log_to_stderr(level: int) -> None:
    # Ours alone: the other packages print their warnings themselves.
    ours = logging.getLogger("mixtral")
    for handler in [h for h in ours.handlers if isinstance(h, _StderrHandler)]:
        ours.removeHandler(handler)
    handler = _StderrHandler()
    handler.setFormatter(_ShortFormatter("%(levelname)s: %(message)s"))
    ours.addHandler(handler)
    ours.setLevel(level)


def _fail(message: str, status: int) -> int:
    if message:
        print(error_line(message), file=sys.stderr)
    return status


def _usage_line(error: typer.TyperException) -> str:
    context = getattr(error, "ctx", None)
    message = error.format_message()
    if not message:  # A group without a command has shown its help instead.
        return ""
    end = "" if message.endswith((".", "?")) else "."
    hint = "" if context is None else f" Try '{context.command_path} --help'."
    return message + end + hint


def _os_error_line(error: OSError) -> str:
    where = f"{error.filename}: " if error.filename else ""
    return f"{where}{error.strerror or error}."


def _silence_stdout() -> None:
    """Send what is still buffered nowhere; Python would complain of it when it exits."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError):
        return
