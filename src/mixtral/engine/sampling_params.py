"""How the next token is chosen and when to stop: the settings of one request.

Importing this file does not import torch.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from mixtral.errors import InvalidRequest

MAX_STOP_LENGTH = 1_000
"""Characters of a stop string: its tables are made before the engine goes on."""
MAX_BIASES = 1_024
"""Tokens of a logit bias, which is applied to each new token."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SamplingParams:
    """Settings of one request, checked when made.

    The order of work on the logits: logit bias, penalties, ban on the end token up to
    ``min_tokens``, temperature, top_k, min_p, top_p, draw.

    Raises:
        InvalidRequest: A field has a wrong type or is outside its range.
    """

    temperature: float = 0.7
    """0 takes the likeliest token; 1 draws from the model's own distribution; up to 5."""
    top_p: float = 1.0
    """Draw from the smallest set of tokens whose probabilities reach this sum, above 0 to 1."""
    top_k: int = 0
    """Draw from this many likeliest tokens; 0 takes all."""
    min_p: float = 0.0
    """Drop tokens less likely than this share of the likeliest, 0 to 1."""
    max_tokens: int | None = None
    """Longest answer in tokens. In Python None: as long as the context allows."""
    min_tokens: int = 0
    """Tokens before the end token or a stop string may end the answer."""
    stop: Sequence[str] = ()
    """Strings of up to 1,000 characters that end the answer; they are not part of it. In Python one
    may stand alone."""
    seed: int | None = None
    """Same seed, same tokens; left out, a fresh seed is drawn."""
    n: int = 1
    """Answers per prompt, 1 to 128; answer i uses seed + i."""
    logprobs: int | None = None
    """Report the log-probability of each token and this many alternatives, 0 to 20."""
    presence_penalty: float = 0.0
    """Subtracted from the logits of tokens already in the answer, -2 to 2."""
    frequency_penalty: float = 0.0
    """The same, once per occurrence, -2 to 2."""
    repetition_penalty: float = 1.0
    """Divides positive logits of tokens so far, multiplies negative ones; 0.01 to 100."""
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    """Added to the logits of these token ids, -100 to 100; up to 1,024 of them."""
    ignore_eos: bool = False
    """Go on past the end token, for benchmarks."""

    def __post_init__(self) -> None:
        """Check every field."""
        _check_number("temperature", self.temperature, 0, 5)
        _check_number("top_p", self.top_p, 0, 1)
        if self.top_p == 0:
            raise InvalidRequest("top_p is 0; it must be above 0 and at most 1.")
        _check_int("top_k", self.top_k, 0)
        _check_number("min_p", self.min_p, 0, 1)
        if self.max_tokens is not None:
            _check_int("max_tokens", self.max_tokens, 1)
        _check_int("min_tokens", self.min_tokens, 0)
        if self.max_tokens is not None and self.min_tokens > self.max_tokens:
            raise InvalidRequest(
                f"min_tokens is {self.min_tokens}; it must be at most max_tokens, "
                f"which is {self.max_tokens}."
            )
        if self.seed is not None:
            _check_int("seed", self.seed, 0)
        _check_int("n", self.n, 1, 128)
        if self.logprobs is not None:
            _check_int("logprobs", self.logprobs, 0, 20)
        _check_number("presence_penalty", self.presence_penalty, -2, 2)
        _check_number("frequency_penalty", self.frequency_penalty, -2, 2)
        # Below 0.01, logits divided by it could leave the range of float32.
        _check_number("repetition_penalty", self.repetition_penalty, 0.01, 100)
        object.__setattr__(self, "stop", _checked_stop(self.stop))
        if not isinstance(self.logit_bias, Mapping):
            raise InvalidRequest(
                f"logit_bias is {self.logit_bias!r}; it must map token ids to numbers."
            )
        if len(self.logit_bias) > MAX_BIASES:
            raise InvalidRequest(
                f"logit_bias has {len(self.logit_bias):,} tokens; {MAX_BIASES:,} are allowed."
            )
        for token_id, bias in self.logit_bias.items():
            _check_int("logit_bias token id", token_id, 0)
            _check_number(f"logit_bias of token {token_id}", bias, -100, 100)
        if not isinstance(self.ignore_eos, bool):
            raise InvalidRequest(f"ignore_eos is {self.ignore_eos!r}; it must be true or false.")

    @property
    def has_penalties(self) -> bool:
        """Whether tokens so far change the logits."""
        return (
            self.presence_penalty != 0
            or self.frequency_penalty != 0
            or self.repetition_penalty != 1
        )

    def replace(self, **changes: object) -> "SamplingParams":
        """Return a copy with some fields changed, checked anew."""
        return dataclasses.replace(self, **changes)  # type: ignore[arg-type]


def _check_number(name: str, value: object, low: float, high: float) -> None:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    # Compared as it is: a whole number may be too large to become a float.
    if not is_number or not low <= value <= high:  # type: ignore[operator]
        raise InvalidRequest(f"{name} is {value!r}; it must be a number from {low} to {high}.")


def _check_int(name: str, value: object, low: int, high: int | None = None) -> None:
    is_int = isinstance(value, int) and not isinstance(value, bool)
    if not is_int or value < low or (high is not None and value > high):  # type: ignore[operator]
        allowed = f"at least {low}" if high is None else f"from {low} to {high}"
        raise InvalidRequest(f"{name} is {value!r}; it must be a whole number {allowed}.")


def _checked_stop(stop: object) -> tuple[str, ...]:
    strings = (stop,) if isinstance(stop, str) else stop
    if not isinstance(strings, (list, tuple)) or not all(isinstance(s, str) for s in strings):
        raise InvalidRequest(f"stop is {stop!r}; it must be a string or a list of strings.")
    if "" in strings:
        raise InvalidRequest("stop holds an empty string; each must have a character.")
    longest = max(map(len, strings), default=0)
    if longest > MAX_STOP_LENGTH:
        raise InvalidRequest(
            f"stop holds a string of {longest:,} characters; {MAX_STOP_LENGTH:,} are allowed."
        )
    return tuple(strings)
