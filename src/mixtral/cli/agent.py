"""``mixtral agent``: a question, answered with the functions of a file and the tools of servers.

The answer goes to standard output, or the whole run as one JSON object with ``--json``. Everything
else, what the functions and the programs that they start print included, goes to standard error:
the steps as they come, and the questions of ``--confirm``.
"""

import json
import math
import os
import re
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mixtral.cli.console import (
    note,
    print_json,
    require_text,
    spinner,
    write_text,
)
from mixtral.cli.options import (
    AdapterOption,
    ModelOptions,
    SamplingOptions,
    grouped_options,
    named_adapter,
)
from mixtral.errors import ConfigError, EngineError, InvalidRequest
from mixtral.whole_file import write_whole

if TYPE_CHECKING:
    from mixtral.agent import AgentRun, ChatModel, PlannedCall, Step, Tool

_EXAMPLES = """Examples:
  mixtral agent --tools weather.py "Is it warmer in Paris or in Rome?"
  mixtral agent --tools files.py --confirm --trace run.json "Tidy up the folder notes."
  mixtral agent --mcp "python time_server.py" --server http://127.0.0.1:8000 "What time is it?" """

_SHOWN_CHARS = 300

app = typer.Typer(add_completion=False)


def _tool_option(*names: str, help: str, metavar: str | None = None) -> Any:
    return typer.Option(*names, help=help, metavar=metavar, rich_help_panel="Tools")


@dataclass(frozen=True, kw_only=True, slots=True)
class ToolOptions:
    """Where tools come from, and how they are called."""

    tools: Annotated[
        list[Path] | None,
        _tool_option(
            "--tools", metavar="FILE", help="Python file with functions; it is run. May come again."
        ),
    ] = None
    mcp: Annotated[
        list[str] | None,
        _tool_option(
            "--mcp",
            metavar="COMMAND|URL",
            help="MCP server, started or reached; NAME=COMMAND puts NAME_ before its tools. May "
            "come again.",
        ),
    ] = None
    confirm: Annotated[bool, _tool_option("--confirm", help="Ask before each call.")] = False
    dry_run: Annotated[
        bool, _tool_option("--dry-run", help="Show the first calls, and make none.")
    ] = False
    max_steps: Annotated[
        int, _tool_option("--max-steps", help="Rounds of calls; then the model must answer.")
    ] = 8
    timeout: Annotated[
        float, _tool_option("--timeout", help="Seconds for all, without those of --confirm.")
    ] = 600.0
    call_timeout: Annotated[float, _tool_option("--call-timeout", help="Seconds for one call.")] = (
        60.0
    )
    tool_choice: Annotated[
        str, _tool_option("--tool-choice", help="First answer: auto, any, or none.")
    ] = "auto"


@app.command(epilog=_EXAMPLES)
@grouped_options
def agent(
    model: ModelOptions,
    sampling: SamplingOptions,
    tools: ToolOptions,
    question: Annotated[str, typer.Argument(help="What the model is to find out or do.")],
    adapter: AdapterOption = None,
    system: Annotated[
        str | None, typer.Option("--system", help="Instructions that go before the question.")
    ] = None,
    server: Annotated[
        str | None,
        typer.Option(
            "--server", metavar="URL", help="Ask --model of a server of OpenAI's API instead."
        ),
    ] = None,
    api_key: Annotated[
        str | None, typer.Option("--api-key", envvar="MIXTRAL_API_KEY", help="Key of that server.")
    ] = None,
    trace: Annotated[
        Path | None, typer.Option("--trace", metavar="FILE", help="Write all that happened here.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the run as one object.")] = False,
) -> None:
    """Answer a question with Python functions and MCP servers as tools."""
    _check(model, tools, question, system, server=server, adapter=adapter, trace=trace)
    with spinner("starting"):
        from mixtral.agent import Agent
    params = sampling.params()
    with ExitStack() as stack:
        stack.enter_context(_stdout_to_stderr())
        found = _load_tools(tools, stack)
        asked = _load_model(model, server=server, api_key=api_key, adapter=adapter)
        runner = Agent(
            asked,
            found,
            system=system,
            max_steps=tools.max_steps,
            timeout_s=tools.timeout,
            call_timeout_s=tools.call_timeout,
            confirm=_confirm if tools.confirm else None,
            dry_run=tools.dry_run,
            tool_choice=tools.tool_choice,
            params=params,
        )
        run = _run(runner.run, question, trace)
        unwritten = _write_trace(trace, run.as_dict())
    if as_json:
        print_json(run.as_dict())
    else:
        _print_answer(run)
    if unwritten is not None:
        # Only now: the answer has cost more than its trace.
        sys.stdout.flush()
        raise EngineError(_unwritten_line(trace, unwritten))


@contextmanager
def _stdout_to_stderr() -> Iterator[None]:
    """Say on standard error what functions print: it is no result of this command."""
    try:
        has_own_files = (sys.stdout.fileno(), sys.stderr.fileno()) == (1, 2)
    except (OSError, ValueError):
        has_own_files = False  # Inside another program, as in a test.
    with ExitStack() as stack:
        if has_own_files:
            # A program that a function starts inherits the file, not the stream.
            sys.stdout.flush()
            kept = os.dup(1)
            stack.callback(os.close, kept)
            os.dup2(2, 1)
            stack.callback(os.dup2, kept, 1)
        stack.enter_context(redirect_stdout(sys.stderr))
        yield


def _check(
    model: ModelOptions,
    tools: ToolOptions,
    question: str,
    system: str | None,
    *,
    server: str | None,
    adapter: str | None,
    trace: Path | None,
) -> None:
    """Refuse what cannot work before a model is loaded."""
    require_text("the question", question)
    require_text("the system text", system or "")
    if not question.strip():
        raise InvalidRequest("the question is empty; give some text.")
    if tools.tool_choice not in ("auto", "any", "none"):
        raise InvalidRequest(f"tool_choice is {tools.tool_choice!r}; it must be auto, any or none.")
    numbers = {
        "--max-steps": tools.max_steps, "--timeout": tools.timeout,
        "--call-timeout": tools.call_timeout,
    }  # fmt: skip
    for name, value in numbers.items():
        if not 0 < value < math.inf:
            raise InvalidRequest(f"{name} is {value:g}; it must be above 0, and finite.")
    if server is not None and (model != ModelOptions(model=model.model) or adapter is not None):
        raise ConfigError("--server has its model loaded; leave out all model options but --model.")
    if trace is not None:
        from mixtral.reports.folder import check_file

        check_file("--trace", trace)


def _load_tools(options: ToolOptions, stack: ExitStack) -> "list[Tool]":
    from mixtral.agent import McpTools, load_functions

    found: list[Tool] = []
    for path in options.tools or []:
        file = load_functions(path)
        found += file.tools
        note(f"tools of {path}: {', '.join(tool.name for tool in file.tools)}")
        if file.left_out:
            note(f"left out, because they have no docstring: {', '.join(file.left_out)}")
    for given in options.mcp or []:
        prefix, server = _named_server(given)
        with spinner(f"starting {server}"):
            connection = McpTools(server, prefix=prefix, call_timeout_s=options.call_timeout)
            opened = stack.enter_context(connection)
        found += opened.tools
        note(f"tools of {server}: {', '.join(tool.name for tool in opened.tools) or 'none'}")
    if not found:
        note("there are no tools; --tools names a Python file, --mcp a server")
    return found


def _named_server(given: str) -> tuple[str, str]:
    """Return prefix and server of ``NAME=COMMAND``; an empty prefix where there is no name."""
    named = re.fullmatch(r"([a-zA-Z][\w-]*)=(.+)", given, flags=re.DOTALL)
    return (named[1], named[2]) if named else ("", given)


def _load_model(
    model: ModelOptions, *, server: str | None, api_key: str | None, adapter: str | None
) -> "ChatModel":
    from mixtral.agent import HttpModel, LocalModel

    if server is not None:
        return HttpModel(server, model=model.model, api_key=api_key)
    adapters = named_adapter(adapter)
    return LocalModel(model.load(adapters=adapters), adapter=next(iter(adapters), None))


def _run(run: Any, question: str, trace: Path | None) -> "AgentRun":
    steps: list[Step] = []

    def on_step(step: "Step") -> None:
        steps.append(step)
        _show(step)

    try:
        finished: AgentRun = run(question, on_step=on_step)
    except BaseException:
        # After a failure or Ctrl-C, too: what was called is known then of all times.
        values = {"finish_reason": "error", "steps": [asdict(step) for step in steps]}
        unwritten = _write_trace(trace, values)
        if unwritten is not None:
            note(_unwritten_line(trace, unwritten))
        raise
    return finished


def _write_trace(trace: Path | None, values: dict[str, Any]) -> OSError | None:
    """Write the trace where one is wanted; return why it could not be written."""
    if trace is None:
        return None
    try:
        write_whole(trace, json.dumps(values, indent=1, ensure_ascii=False) + "\n")
    except OSError as error:
        return error
    note(f"wrote {trace}")
    return None


def _unwritten_line(trace: Path | None, error: OSError) -> str:
    return f"the trace could not be written to {trace}: {error.strerror or error}."


def _show(step: "Step") -> None:
    for call in step.calls:
        arguments = call.arguments
        if call.edited_arguments is not None:
            arguments = json.dumps(call.edited_arguments, ensure_ascii=False)
        note(f"{step.index + 1}. {_short(f'{call.name}({arguments})')}")
        note(f"   {call.status}, {call.duration_s:.1f} s: {_short(call.result)}")


def _short(text: str) -> str:
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line if len(line) <= _SHOWN_CHARS else f"{line[:_SHOWN_CHARS]} [...]"


def _confirm(call: "PlannedCall") -> "bool | dict[str, Any]":
    """Ask on standard error; e edits the arguments until they suit the tool."""
    from mixtral.agent.results import exception_text
    from mixtral.agent.tool import ArgumentsError, parse_arguments

    arguments = call.arguments
    while True:
        shown = json.dumps(arguments, ensure_ascii=False)
        note(f"the model wants {_visible(f'{call.tool.name}({shown})')}")
        answer = _ask("call it? [y]es, [n]o, [e]dit").strip().lower()
        if answer in ("y", "yes"):
            return True if arguments == call.arguments else arguments
        if answer in ("n", "no"):
            return False
        if answer not in ("e", "edit"):
            continue
        try:
            edited = parse_arguments(_ask("arguments as JSON"))
            call.tool.checked(edited)
            arguments = edited
        except ArgumentsError as error:
            note(f"{error}")
        # The check of a user's type may raise anything; what it was given may be typed again.
        except Exception as error:
            note(f"these arguments cannot be checked: {exception_text(error)}")


def _visible(text: str) -> str:
    """Return all of a text on one line: who confirms a call must see every character of it."""
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)


def _ask(prompt: str) -> str:
    answer: str = typer.prompt(prompt, err=True)
    return answer


def _print_answer(run: "AgentRun") -> None:
    if run.text:
        write_text(run.text + "\n")
    whys = {
        "length": "the answer was cut at --max-tokens, or the context is full",
        "max_steps": "--max-steps was reached; the model had to answer",
        "timeout": "--timeout was reached",
        "context": "the conversation no longer fits into the context of the model",
        "dry_run": "a dry run: nothing was called",
    }
    if run.finish_reason in whys:
        note(f"[{whys[run.finish_reason]}]")
