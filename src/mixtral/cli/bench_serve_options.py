"""The options of ``mixtral bench serve``, in the groups of its help."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

KEY_VARIABLE = "MIXTRAL_API_KEY"
"""Where the key of a server may stand as well, as for the other commands that ask one."""


def _option(
    *names: str, panel: str, help: str, metavar: str | None = None, envvar: str | None = None
) -> Any:
    return typer.Option(*names, help=help, rich_help_panel=panel, metavar=metavar, envvar=envvar)


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerOptions:
    """Which server is measured."""

    url: Annotated[
        str | None,
        _option(
            "--url",
            panel="Server",
            help="Address of an OpenAI-compatible server, such as http://127.0.0.1:8000/v1; "
            "without it, mixtral serve is started with the options of the model.",
        ),
    ] = None
    api_key: Annotated[
        str | None,
        _option(
            "--api-key",
            panel="Server",
            envvar=KEY_VARIABLE,
            help="Key of the server at --url.",
        ),
    ] = None
    served_model: Annotated[
        str | None,
        _option(
            "--served-model",
            panel="Server",
            help="Name of the model in the requests; without it, the first that the server lists.",
        ),
    ] = None
    endpoint: Annotated[
        str, _option("--endpoint", panel="Server", help="completions or chat, always streamed.")
    ] = "completions"
    server_options: Annotated[
        str,
        _option(
            "--server-options",
            panel="Server",
            metavar="OPTIONS",
            help="More options for the server that is started, such as '--max-num-seqs 32'.",
        ),
    ] = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadOptions:
    """How requests arrive."""

    request_rate: Annotated[
        str | None,
        _option(
            "--request-rate",
            panel="Load",
            help="Requests per second, arriving at random times; several with commas: 1,2,4.",
        ),
    ] = None
    concurrency: Annotated[
        str | None,
        _option(
            "--concurrency",
            panel="Load",
            help="Requests under way at any time; several with commas: 1,8,32. Without a rate or a "
            "concurrency, 1.",
        ),
    ] = None
    requests: Annotated[
        int, _option("--requests", panel="Load", help="Requests of each load and repeat.")
    ] = 100
    warmup: Annotated[
        int, _option("--warmup", panel="Load", help="Requests before, which are not counted.")
    ] = 4
    repeats: Annotated[
        int, _option("--repeats", panel="Load", help="How often the loads are run, in turn.")
    ] = 1
    probes: Annotated[
        bool,
        _option(
            "--probes/--no-probes",
            panel="Load",
            help="Measure what the machine can do before and after each load, where the server "
            "runs on this machine.",
        ),
    ] = True
    timeout: Annotated[
        float, _option("--timeout", panel="Load", help="Longest time of a request in seconds.")
    ] = 600.0


@dataclass(frozen=True, kw_only=True, slots=True)
class PromptOptions:
    """What is sent."""

    prompt_tokens: Annotated[
        int, _option("--prompt-tokens", panel="Prompts", help="Tokens of each random prompt.")
    ] = 64
    new_tokens: Annotated[
        int, _option("--new-tokens", panel="Prompts", help="Tokens of each answer.")
    ] = 64
    shared_prefix_tokens: Annotated[
        int,
        _option(
            "--shared-prefix-tokens",
            panel="Prompts",
            help="How many tokens at their start all random prompts share.",
        ),
    ] = 0
    prompt_form: Annotated[
        str | None,
        _option(
            "--prompt-form",
            panel="Prompts",
            help="ids: lists of token ids, of exact length; text: as many short words. Without it, "
            "ids for completions and text for chat.",
        ),
    ] = None
    prompts: Annotated[
        Path | None,
        _option(
            "--prompts",
            panel="Prompts",
            metavar="FILE",
            help="JSONL file to take prompts from: prompt or messages, and max_tokens if wanted.",
        ),
    ] = None
    vocab_size: Annotated[
        int | None,
        _option(
            "--vocab-size",
            panel="Prompts",
            help="Random ids are below this; without it, 32000, or less for a small --model.",
        ),
    ] = None
    ignore_eos: Annotated[
        bool,
        _option(
            "--ignore-eos/--no-ignore-eos",
            panel="Prompts",
            help="Send ignore_eos, so that every answer has its full length; a server that does "
            "not know the field may refuse it.",
        ),
    ] = True
    extra_body: Annotated[
        str,
        _option(
            "--extra-body",
            panel="Prompts",
            metavar="JSON",
            help="Fields to add to every request; null takes one away.",
        ),
    ] = "{}"
    seed: Annotated[
        int, _option("--seed", panel="Prompts", help="Seed of the prompts and the arrival times.")
    ] = 0
