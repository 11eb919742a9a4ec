"""Fields of a request to ``SamplingParams``."""

from typing import Any

from mixtral.engine import SamplingParams
from mixtral.errors import InvalidRequest
from mixtral.server.schemas import SamplingFields

SAME_NAME_FIELDS = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "min_tokens",
    "stop",
    "n",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
    "ignore_eos",
)
"""Fields that ``SamplingParams`` has under the same name; null takes its default."""


def to_sampling_params(
    fields: SamplingFields, *, max_tokens: int | None, logprobs: int | None
) -> SamplingParams:
    """Return the settings of a request.

    Args:
        fields: The request.
        max_tokens: As ``merged`` made it; 0 becomes 1, because an engine that runs a prompt has
            a token: the routes answer 0 without it.
        logprobs: Alternatives to report per token; None reports nothing.

    Raises:
        InvalidRequest: Two fields contradict each other, or a value is outside its range.
    """
    values: dict[str, Any] = {
        name: value for name in SAME_NAME_FIELDS if (value := getattr(fields, name)) is not None
    }
    values["seed"] = merged("seed", fields.seed, "random_seed", fields.random_seed)
    values["logprobs"] = logprobs
    values["max_tokens"] = max_tokens
    if max_tokens == 0:
        values["max_tokens"] = 1
        if fields.min_tokens:
            raise InvalidRequest(
                f"min_tokens is {fields.min_tokens}; it must be at most max_tokens, which is 0."
            )
    if fields.logit_bias:
        values["logit_bias"] = {int(name): bias for name, bias in fields.logit_bias.items()}
    if fields.stream_options is not None and not fields.stream:
        raise InvalidRequest("stream_options is set, but stream is not true. Leave one out.")
    return SamplingParams(**values)


def merged(first_name: str, first: int | None, second_name: str, second: int | None) -> int | None:
    """Return the value of a field that has two names.

    Raises:
        InvalidRequest: Both are there and differ.
    """
    if first is not None and second is not None and first != second:
        raise InvalidRequest(
            f"{first_name} is {first} and {second_name} is {second}; they are two names of one "
            "setting. Leave one out."
        )
    return second if first is None else first


def to_num_top_logprobs(logprobs: bool | None, top_logprobs: int | None) -> int | None:
    """Return how many alternatives a chat wants reported; None for no report at all.

    Raises:
        InvalidRequest: Alternatives without ``logprobs``.
    """
    if top_logprobs and not logprobs:
        raise InvalidRequest(
            f"top_logprobs is {top_logprobs}, but logprobs is not true. Set logprobs to true."
        )
    return (top_logprobs or 0) if logprobs else None
