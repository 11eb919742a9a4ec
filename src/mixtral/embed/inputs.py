"""What may be embedded: a list of texts, of lists of token ids, or of both."""

from collections.abc import Sequence

from mixtral.errors import InvalidRequest
from mixtral.tokenizer.chat import check_unicode

MAX_INPUTS = 2048
"""Inputs of one request, the number that OpenAI's interface allows."""


def check_inputs(inputs: object) -> Sequence[str | Sequence[int]]:
    """Return the inputs once their number and types are right.

    Whether an id belongs to the model is for ``Reader`` to say, which knows its vocabulary.

    Raises:
        InvalidRequest: Something is empty, too long or of a wrong type; the message has its index.

    >>> check_inputs(["a text", [101, 102]])
    ['a text', [101, 102]]
    """
    if not isinstance(inputs, (list, tuple)):
        raise InvalidRequest(
            f"inputs is {_kind(inputs)}; it must be a list of texts or of lists of token ids."
        )
    if not 1 <= len(inputs) <= MAX_INPUTS:
        raise InvalidRequest(
            f"inputs has {len(inputs)} entries; it must have 1 to {MAX_INPUTS}. "
            "Split it into several requests."
        )
    for index, value in enumerate(inputs):
        if isinstance(value, str):
            _check_text(index, value)
        else:
            _check_ids(index, value)
    return inputs


def check_dimension(dimension: object, full: int) -> int:
    """Return the number of components to keep.

    Args:
        dimension: What the request says; None keeps all.
        full: The model's own number.

    Raises:
        InvalidRequest: It is not a whole number from 1 to ``full``.
    """
    if dimension is None:
        return full
    is_int = isinstance(dimension, int) and not isinstance(dimension, bool)
    if not is_int or not 1 <= dimension <= full:  # type: ignore[operator]
        raise InvalidRequest(
            f"output_dimension is {dimension!r}; this model gives {full} components, "
            f"so it must be a whole number from 1 to {full}."
        )
    return int(dimension)  # type: ignore[call-overload, no-any-return]


def _check_text(index: int, text: str) -> None:
    if not text:
        raise InvalidRequest(
            f"inputs[{index}] is an empty text; leave it out or send at least one character."
        )
    check_unicode(text, name=f"inputs[{index}]")


def _check_ids(index: int, ids: object) -> None:
    if not isinstance(ids, (list, tuple)):
        raise InvalidRequest(
            f"inputs[{index}] is {_kind(ids)}; each input must be a text or a list of token ids."
        )
    if not ids:
        raise InvalidRequest(f"inputs[{index}] is an empty list; leave it out or send an id.")
    for place, token_id in enumerate(ids):
        if not isinstance(token_id, int) or isinstance(token_id, bool):
            raise InvalidRequest(
                f"inputs[{index}][{place}] is {_kind(token_id)}; a token id is a whole number."
            )


def _kind(value: object) -> str:
    if value is None or isinstance(value, (bool, int, float)):
        return repr(value)[:40]
    return f"a {type(value).__name__}"
