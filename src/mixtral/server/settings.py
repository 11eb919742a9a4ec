"""Every option of ``mixtral serve`` that is not about loading the model, checked when made.

The string under a field is its help on the command line and its row in docs/deploy.md. A setting
has one name everywhere: ``max_body_mb`` in a TOML file is ``--max-body-mb`` and
``MIXTRAL_MAX_BODY_MB``; ``sources`` says which of them wins. Importing this file imports no server.
"""

import dataclasses
import re
import sys
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args, get_origin, get_type_hints

from mixtral.errors import ConfigError

DEFAULT_ALIASES = (
    "mistral-tiny",
    "mistral-small",
    "mistral-small-latest",
    "mistral-medium",
    "mistral-large-latest",
    "open-mistral-7b",
    "open-mixtral-8x7b",
    "open-mixtral-8x22b",
    "open-mixtral-8x22b-2404",
    "mixtral-8x7b-instruct",
    "mixtral-8x22b-instruct",
    "Mixtral-8x7B-Instruct-v0.1",
    "Mixtral-8x22B-Instruct-v0.1",
    "mistralai/Mixtral-8x7B-Instruct-v0.1",
    "mistralai/Mixtral-8x22B-Instruct-v0.1",
)
"""Names that guides and clients ask for; the served model answers to all of them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerSettings:
    """What ``mixtral serve`` was told.

    Raises:
        ConfigError: A field has a wrong type or is outside its allowed values.
    """

    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 is every IPv4 address, :: every IPv6 address."""
    port: int = 8000
    """Port to listen on; 0 takes a free one and says which."""
    api_keys_file: str | None = None
    """TOML file of API keys with their limits; read again when it changes."""
    api_key: tuple[str, ...] = field(default=(), repr=False)
    """API key that clients must send, or sha256: and its digest; may be given several times."""
    allow_no_key: bool = False
    """Serve other machines without any API key."""
    metrics_without_key: bool = False
    """Answer /metrics and /v1/status without an API key."""
    served_model_name: str | None = None
    """Name of the model in the API; without it, the last part of what --model says."""
    aliases: Mapping[str, str] = field(default_factory=dict)
    """More names of the model, as NAME=SERVED_NAME; may be given several times."""
    adapters: Mapping[str, str] = field(default_factory=dict)
    """LoRA adapter served under a name of its own, as NAME=FOLDER; may be given several times."""
    default_aliases: bool = True
    """Answer to the model names of Mistral's guides, such as mistral-small."""
    embedding_model: str | None = None
    """Folder or hub id of a sentence-transformers model; without it all-MiniLM-L6-v2; or none."""
    rag: str | None = None
    """Folder of the documents of /v1/rag, as mixtral rag add makes it; made if it is not there."""
    max_num_seqs: int = 64
    """Answers made at the same time."""
    max_waiting: int = 256
    """Requests that may wait for their turn; more are refused with 429."""
    max_num_batched_tokens: int | None = None
    """Tokens per step; fewer let streams flow beside long prompts; without it, the fastest."""
    enable_prefix_cache: bool = True
    """Keep the cache of prompts whose beginning may come again."""
    speculative: int = 0
    """Tokens guessed per step by prompt lookup; 0 guesses none. Answers stay the same."""
    max_body_mb: float = 4.0
    """Largest body of a request, in units of 1,000,000 bytes; larger ones get 413."""
    max_upload_mb: float = 50.0
    """Largest upload to /v1/rag/documents, in units of 1,000,000 bytes; larger ones get 413."""
    max_messages: int = 2048
    """Most messages of one conversation."""
    max_json_depth: int = 64
    """Levels of nesting allowed in a body; a schema of tools counts, too."""
    header_timeout_s: float = 10.0
    """Seconds in which the headers of a request must have arrived; then 408."""
    body_timeout_s: float = 30.0
    """Seconds in which its body must have arrived; then 408."""
    request_timeout_s: float = 600.0
    """Seconds after which an answer is ended; 0 lets it take as long as it takes."""
    write_timeout_s: float = 30.0
    """Seconds for which a client may stop reading a stream before its answer is dropped."""
    keepalive_s: float = 15.0
    """Seconds without a token after which a stream gets a comment line; 0 sends none."""
    idle_timeout_s: float = 75.0
    """Seconds for which a connection stays open between two requests."""
    drain_timeout_s: float = 30.0
    """Seconds that running requests get to finish when the server is told to stop."""
    cors_origins: tuple[str, ...] = ()
    """Origin of web pages that may call the API, or *; may be given several times."""
    tls_cert: str | None = None
    """File of the TLS certificate and its chain, PEM; read again on SIGHUP."""
    tls_key: str | None = None
    """File of the private key of the certificate, PEM, without a password."""
    log_format: Literal["text", "json"] = "text"
    """text: lines for people; json: one object per line."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Least that is logged: debug, info (one line per request), warning, error."""
    log_prompts: bool = False
    """Put the body of every request into the log."""

    def __post_init__(self) -> None:
        """Check every field, and those that go together."""
        for name in SETTING_TYPES:
            object.__setattr__(self, name, check_setting(name, getattr(self, name)))
        if (self.tls_cert is None) != (self.tls_key is None):
            given, missing = ("tls_key", "tls_cert") if self.tls_key else ("tls_cert", "tls_key")
            raise ConfigError(f"{missing} is missing; {given} needs it: give both, or neither.")

    @property
    def max_body_bytes(self) -> int:
        """Largest body of a request in bytes."""
        return int(self.max_body_mb * 1_000_000)

    @property
    def max_upload_bytes(self) -> int:
        """Largest upload of documents in bytes."""
        return int(self.max_upload_mb * 1_000_000)

    def aliases_for(self, model_name: str) -> dict[str, str]:
        """Return all other names of the served model, each with that model's name.

        Args:
            model_name: Name of the model in the API.

        Raises:
            ConfigError: An alias stands for another model than the served one.
        """
        for alias, target in self.aliases.items():
            if target != model_name:
                raise ConfigError(
                    f"aliases has {alias}={target}, but the served model is {model_name}: "
                    f"write {alias}={model_name}."
                )
        names = (*(DEFAULT_ALIASES if self.default_aliases else ()), *self.aliases)
        return {name: model_name for name in names if name != model_name}

    def check_adapter_names(self, model_name: str) -> None:
        """Refuse an adapter whose name the model itself answers to.

        Args:
            model_name: Name of the model in the API.

        Raises:
            ConfigError: Says which, and how to free the name.
        """
        for name, folder in self.adapters.items():
            if name == model_name or name in self.aliases_for(model_name):
                raise ConfigError(
                    f"adapters has {name}={folder}, but {name} is a name of the model "
                    "itself; choose another name, or change --served-model-name, --alias or "
                    "--no-default-aliases."
                )


SETTING_TYPES: Mapping[str, Any] = types.MappingProxyType(get_type_hints(ServerSettings))
"""Name of every setting -> its type, without a value of its own."""

_MODEL_NAME = re.compile(r"[\w./:@+-]{1,200}", re.ASCII)
_ORIGIN = re.compile(r"https?://[^/\s,*]+")
_RANGES: Mapping[str, tuple[float, float]] = {
    "port": (0, 65535),
    "max_num_seqs": (1, 4096),
    "max_waiting": (1, 1_000_000),
    "max_num_batched_tokens": (16, 65536),
    "speculative": (0, 16),
    "max_body_mb": (0.001, 1000),
    "max_upload_mb": (0.001, 1000),
    "max_messages": (1, 1_000_000),
    "max_json_depth": (8, 1000),
    "header_timeout_s": (0.1, 3600),
    "body_timeout_s": (0.1, 3600),
    "request_timeout_s": (0, 86400),
    "write_timeout_s": (0.1, 3600),
    "keepalive_s": (0, 3600),
    "idle_timeout_s": (1, 3600),
    "drain_timeout_s": (0, 86400),
}


def check_setting(name: str, value: Any) -> Any:
    """Return a value as the setting holds it: lists as tuples, whole numbers as floats.

    Args:
        name: A field of ``ServerSettings``.
        value: What was given for it.

    Raises:
        ConfigError: The type is wrong, or the value is not allowed.
    """
    kind = SETTING_TYPES[name]
    value = check_type(name, value, kind)
    if name in _RANGES:
        low, high = _RANGES[name]
        if value is not None and not low <= value <= high:
            raise ConfigError(f"{name} is {value}; it must be from {low} to {high}.")
    if isinstance(value, str) and not value.strip():
        raise ConfigError(f"{name} is an empty text; leave it out instead.")
    if name == "cors_origins":
        _check_origins(value)
    if name == "aliases":
        _check_model_names(name, [*value, *value.values()])
    if name == "adapters":
        _check_model_names(name, [*value])
    if name == "served_model_name" and value is not None:
        _check_model_names(name, [value])
    return value


def check_type(name: str, value: Any, kind: Any) -> Any:
    """Return a value, changed to the type of an option where nothing is lost by that.

    Args:
        name: How the option is called in messages.
        value: What was given.
        kind: str, int, float, bool, a Literal, one of these or None, tuple[str, ...] or
            Mapping[str, str].

    Raises:
        ConfigError: It has another type.
    """
    kind, is_optional = without_none(kind)
    if value is None and is_optional:
        return None
    if get_origin(kind) is Literal:
        if value not in get_args(kind):
            raise ConfigError(f"{name} is {value!r}; it must be {' or '.join(get_args(kind))}.")
        return value
    origin = get_origin(kind) or kind
    what, accept, convert = _KINDS[origin]
    if not accept(value):
        shown = "not usable" if name == "api_key" else repr(value)
        raise ConfigError(f"{name} is {shown}; it must be {what}.")
    return convert(value)


def without_none(kind: Any) -> tuple[Any, bool]:
    """Return a type without ``| None``, and whether it had that."""
    if get_origin(kind) is types.UnionType:
        (rest,) = (part for part in get_args(kind) if part is not types.NoneType)
        return rest, True
    return kind, False


def _check_origins(origins: tuple[str, ...]) -> None:
    for origin in origins:
        if origin != "*" and not _ORIGIN.fullmatch(origin):
            raise ConfigError(
                f"cors_origins has {origin!r}; an origin is a scheme, a host and perhaps a port, "
                "such as https://app.example.com, or * for all."
            )


def _check_model_names(name: str, models: list[str]) -> None:
    for model in models:
        if not _MODEL_NAME.fullmatch(model):
            raise ConfigError(
                f"{name} has {model!r}; a model name has letters, digits and . / : @ + - _."
            )


def _is_texts(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(v, str) and v for v in value)


def _is_table(value: Any) -> bool:
    return isinstance(value, Mapping) and all(
        isinstance(text, str) and text for pair in value.items() for text in pair
    )


def _is_number(value: Any) -> bool:
    # The comparison is false for NaN, too.
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and abs(value) <= sys.float_info.max


_Kind = tuple[str, Callable[[Any], bool], Callable[[Any], Any]]
_KINDS: Mapping[Any, _Kind] = {
    str: ("a text", lambda value: isinstance(value, str), str),
    bool: ("true or false", lambda value: isinstance(value, bool), bool),
    int: (
        "a whole number",
        lambda value: isinstance(value, int) and not isinstance(value, bool),
        int,
    ),
    float: ("a number", _is_number, float),
    tuple: ("a list of texts", _is_texts, tuple),
    Mapping: ("a table of texts", _is_table, dict),
}


def setting_names() -> tuple[str, ...]:
    """Return the names of all settings, in the order in which they are shown."""
    return tuple(f.name for f in dataclasses.fields(ServerSettings))
