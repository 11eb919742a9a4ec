"""What a load test sends: prompts of exact length, texts, or the lines of a file.

Random prompts are lists of token ids, so that their length is exact on any server without its
tokenizer. ``/chat/completions`` takes no ids; there, and where text is wanted, a prompt is so many
short English words, nearly all of which are one token in the vocabularies of today, and the report
says how many tokens the server counted.

No two prompts of a run are the same beyond the shared prefix: every prompt is drawn from the seed,
the salt of its part of the run and its number, so that a prefix cache cannot answer for the model.
"""

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from mixtral.errors import ConfigError, InvalidRequest

Endpoint = Literal["completions", "chat"]
PromptForm = Literal["ids", "text"]

# Below are control tokens and single bytes in the vocabularies of Mistral.
_FIRST_ORDINARY_ID = 1000
_WORDS = (
    "time year people way day man thing woman life child world school state family student group "
    "country problem hand part place case week company system program question work number night "
    "point home water room mother area money story fact month lot right study book eye job word "
    "business issue side kind head house service friend father power hour game line end law car "
    "city name team idea body face level door health art war party result change morning reason "
    "moment air teacher force"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class PromptOptions:
    """What the prompts are like.

    Raises:
        ConfigError: A number is outside its range, or two settings do not go together.
    """

    prompt_tokens: int = 64
    """Tokens of each random prompt."""
    new_tokens: int = 64
    """Tokens of each answer."""
    shared_prefix_tokens: int = 0
    """Tokens at the start that all random prompts share."""
    form: PromptForm = "ids"
    """ids, or text: as many short words as there should be tokens."""
    vocab_size: int = 32000
    """Random ids are below this."""
    seed: int = 0
    """Same seed, same prompts."""

    def __post_init__(self) -> None:
        """Check the numbers."""
        for name in ("prompt_tokens", "new_tokens"):
            if (value := getattr(self, name)) < 1:
                raise ConfigError(f"{name} is {value}; it must be at least 1.")
        if self.form not in ("ids", "text"):
            raise ConfigError(f"prompt_form is {self.form!r}; it must be ids or text.")
        if self.vocab_size < 2:
            raise ConfigError(f"vocab_size is {self.vocab_size}; it must be at least 2.")
        if not 0 <= self.shared_prefix_tokens < self.prompt_tokens:
            raise ConfigError(
                f"shared_prefix_tokens is {self.shared_prefix_tokens}; it must be from 0 to "
                f"{self.prompt_tokens - 1}, below prompt_tokens."
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class Prompt:
    """One request, before it is written for an endpoint."""

    content: str | list[int] | list[dict[str, Any]]
    """A text, token ids, or the messages of a chat."""
    max_tokens: int


@dataclass(frozen=True, kw_only=True, slots=True)
class BodyOptions:
    """How a prompt becomes the body of a request."""

    endpoint: Endpoint = "completions"
    model: str = ""
    """Name that the server knows the model by."""
    ignore_eos: bool = True
    """Whether an answer goes on to its full length; a field that some servers refuse."""
    extra_body: Mapping[str, Any] = field(default_factory=dict)
    """Fields to add; a null takes one of ours away."""

    def write(self, prompt: Prompt) -> bytes:
        """Return the JSON of a streamed request, greedy unless ``extra_body`` says otherwise.

        Raises:
            ConfigError: The prompt does not go with the endpoint.
        """
        fields: dict[str, Any] = {
            "model": self.model,
            **self._content(prompt.content),
            "max_tokens": prompt.max_tokens,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if self.ignore_eos:
            fields["ignore_eos"] = True
        fields |= self.extra_body
        fields = {key: value for key, value in fields.items() if value is not None}
        return json.dumps(fields, separators=(",", ":")).encode("ascii")

    def _content(self, content: str | list[int] | list[dict[str, Any]]) -> dict[str, Any]:
        is_messages = bool(content) and isinstance(content[0], dict)
        if self.endpoint == "completions":
            if is_messages:
                raise ConfigError("messages need --endpoint chat.")
            return {"prompt": content}
        if isinstance(content, str):
            return {"messages": [{"role": "user", "content": content}]}
        if not is_messages:
            raise ConfigError("/chat/completions takes no token ids; use --prompt-form text.")
        return {"messages": content}


def random_prompts(options: PromptOptions, count: int, *, salt: str) -> list[Prompt]:
    """Draw prompts.

    Args:
        options: What they are like.
        count: How many.
        salt: Name of the part of the run; another name gives other prompts, but for the shared
            prefix.
    """
    shared = _draw(options, options.shared_prefix_tokens, f"{options.seed} shared")
    own_length = options.prompt_tokens - options.shared_prefix_tokens
    words = _WORDS.split()
    prompts = []
    for index in range(count):
        tokens = shared + _draw(options, own_length, f"{options.seed} {salt} {index}")
        content = tokens if options.form == "ids" else " ".join(words[i] for i in tokens)
        prompts.append(Prompt(content=content, max_tokens=options.new_tokens))
    return prompts


def read_prompts(path: Path, *, new_tokens: int) -> list[Prompt]:
    """Read a JSONL file: an object per line with ``prompt`` or ``messages``, and ``max_tokens``.

    Args:
        path: The file; empty lines are left out.
        new_tokens: Length of the answers to lines without ``max_tokens``.

    Raises:
        InvalidRequest: A line is not such an object, there is none, or the file cannot be read.
    """
    prompts = []
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"{path} is not UTF-8 text: {error.reason}.") from error
    except OSError as error:
        reason = error.strerror or error
        raise InvalidRequest(f"{path} cannot be read: {reason}; name a JSONL file.") from error
    for number, line in enumerate(lines, 1):
        if line.strip():
            prompts.append(_read_line(line, f"{path}, line {number}", new_tokens))
    if not prompts:
        raise InvalidRequest(f"{path} has no prompts; each line is an object with a prompt.")
    return prompts


def cycle_prompts(prompts: Sequence[Prompt], count: int, *, start: int) -> list[Prompt]:
    """Return ``count`` prompts in order from ``start`` on, beginning again at the end."""
    return [prompts[(start + index) % len(prompts)] for index in range(count)]


def _draw(options: PromptOptions, length: int, seed: str) -> list[int]:
    """Draw token ids, or numbers of words."""
    size = options.vocab_size
    choices = range(min(_FIRST_ORDINARY_ID, size // 2), size)
    if options.form == "text":
        choices = range(len(_WORDS.split()))
    return random.Random(seed).choices(choices, k=length)


def _read_line(line: str, where: str, new_tokens: int) -> Prompt:
    try:
        value = json.loads(line)
    except ValueError as error:
        raise InvalidRequest(f"{where} is not JSON: {error}.") from None
    if not isinstance(value, dict) or ("prompt" in value) == ("messages" in value):
        raise InvalidRequest(f"{where} must be an object with either prompt or messages.")
    if unknown := value.keys() - {"prompt", "messages", "max_tokens"}:
        raise InvalidRequest(
            f"{where} has {sorted(unknown)[0]!r}; a line has prompt or messages, and max_tokens."
        )
    max_tokens = value.get("max_tokens", new_tokens)
    if type(max_tokens) is not int or max_tokens < 1:
        raise InvalidRequest(f"{where}: max_tokens is {max_tokens!r}; it must be at least 1.")
    content = value.get("prompt", value.get("messages"))
    kind = dict if "messages" in value else int
    is_list = isinstance(content, list) and all(type(item) is kind for item in content)
    if not content or not (is_list or (kind is int and isinstance(content, str))):
        raise InvalidRequest(
            f"{where}: prompt must be a text or a list of token ids, messages a list of objects."
        )
    return Prompt(content=content, max_tokens=max_tokens)
