"""``mixtral serve``: the HTTP API of Mistral and OpenAI, over one model.

Its options are the fields of ``ServerSettings`` and those of the model; each can also stand in the
environment and in a TOML file (``mixtral.server.sources``).
"""

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, get_origin, get_type_hints

import typer

from mixtral.cli.console import spinner
from mixtral.cli.fields import read_fields
from mixtral.cli.options import ModelOptions, grouped_options
from mixtral.errors import ConfigError
from mixtral.server.listen import open_door
from mixtral.server.logs import configure_logging
from mixtral.server.settings import SETTING_TYPES, ServerSettings, check_type, without_none
from mixtral.server.sources import Sources, flag_of, variable_of

app = typer.Typer(add_completion=False)

_EXAMPLES = """Examples:
  mixtral serve --model nano
  mixtral serve --model /models/8x7b -q int4 --host 0.0.0.0 --api-keys-file keys.toml
  mixtral serve --model nano --adapter poems=adapters/poems
  MIXTRAL_PORT=8080 mixtral serve --config /etc/mixtral.toml """

_VALUE_NAMES: Mapping[Any, str] = {int: "int", float: "float"}


def _server_options() -> type:
    """Return a dataclass of options, one per field of ``ServerSettings``; None: not given."""
    docs = read_fields("server/settings.py", "ServerSettings")
    fields = []
    for field in dataclasses.fields(ServerSettings):
        kind, _ = without_none(SETTING_TYPES[field.name])
        name = flag_of(field.name)
        flag = f"{name}/--no-{name[2:]}" if field.default is True else name
        info = typer.Option(
            flag,
            help=docs[field.name].doc + _shown_default(field),
            metavar=None if kind is bool else f"<{_VALUE_NAMES.get(kind, 'str')}>",
            show_default=False,
            rich_help_panel="Server",
        )
        fields.append((field.name, Annotated[_option_type(kind) | None, info], None))
    return dataclasses.make_dataclass("ServerOptions", fields, frozen=True, kw_only=True)


def _option_type(kind: Any) -> Any:
    """Return the type of an option; numbers stay texts here and are read by ``sources``."""
    if kind is bool:
        return bool
    return list[str] if get_origin(kind) in (tuple, Mapping) else str


def _shown_default(field: "dataclasses.Field[Any]") -> str:
    default = field.default
    if default in (None, (), dataclasses.MISSING) or isinstance(default, bool):
        return ""
    # The backslash is for rich, which would take the brackets for markup.
    return (
        f" \\[default: {default:g}]" if isinstance(default, float) else f" \\[default: {default}]"
    )


ServerOptions: Any = _server_options()


@app.command(epilog=_EXAMPLES)
@grouped_options
def serve(
    ctx: typer.Context,
    model: ModelOptions,
    server: ServerOptions,
    config: Annotated[
        Path | None,
        typer.Option(
            "--config",
            envvar=variable_of("config"),
            help="TOML file with any of these settings; see docs/deploy.md.",
            rich_help_panel="Server",
        ),
    ] = None,
) -> None:
    """Serve a model over HTTP, for the clients of Mistral and OpenAI."""
    sources = Sources(
        given=_given(ctx, model, server),
        environ=os.environ,
        file=config,
        model_types=_MODEL_TYPES,
    )
    settings = sources.settings()
    model = _with_sources(model, sources)
    configure_logging(settings.log_format, settings.log_level)
    door = open_door(settings)
    with spinner("starting"):
        from mixtral.server.run import serve as run
    run(
        lambda: model.load(
            max_num_seqs=settings.max_num_seqs,
            max_num_batched_tokens=settings.max_num_batched_tokens,
            enable_prefix_cache=settings.enable_prefix_cache,
            num_speculative_tokens=settings.speculative,
            count_experts=True,
            adapters=settings.adapters,
        ),
        settings,
        door,
        model=model.model,
        on_ready=lambda name, url: typer.echo(f"Serving {name} on {url} (docs: {url}/docs)"),
    )


_MODEL_TYPES: Mapping[str, Any] = get_type_hints(ModelOptions)


def _given(ctx: typer.Context, model: ModelOptions, server: Any) -> dict[str, Any]:
    """Return what the command line itself said."""
    given = {name: getattr(server, name) for name in SETTING_TYPES}
    for name in _MODEL_TYPES:
        source = ctx.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            given[name] = getattr(model, name)
    return given


def _with_sources(model: ModelOptions, sources: Sources) -> ModelOptions:
    """Return the options of the model with what the environment and the file say."""
    values = {}
    for name, kind in _MODEL_TYPES.items():
        found = sources.find(name)
        if found is None:
            continue
        value, where = found
        try:
            values[name] = check_type(name, value, kind)
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}") from error
    return dataclasses.replace(model, **values)
