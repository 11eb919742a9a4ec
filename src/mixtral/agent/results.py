"""What a tool returned, as the text that a model reads.

A text stays as it is; everything else is JSON, as pydantic writes it: dataclasses and models by
their fields, dates in ISO 8601, paths as text, what JSON has no form for as ``str`` of it. An error
is ``{"error": "..."}``, one short line: a traceback costs tokens and tells a model nothing.
"""

import json
from contextlib import suppress
from typing import Any

from pydantic_core import to_json

from mixtral.tokenizer.chat import check_json_text, check_unicode

_MAX_ERROR = 500


def result_text(value: Any) -> str:
    """Return the text of a result.

    Raises:
        ValueError: It has no text, such as half of a surrogate pair, or an object that holds
            itself.

    >>> result_text({"celsius": 21}), result_text("sunny"), result_text(None)
    ('{"celsius":21}', 'sunny', 'null')
    """
    try:
        text = value if isinstance(value, str) else to_json(value, fallback=str).decode()
        # What a chat template refuses would end the run instead of the call.
        check_unicode(text, name="it")
        check_json_text(text, name="it")
        _check_depth(text)
    except (RecursionError, ValueError) as error:
        raise ValueError(f"the result cannot be written as text: {error}") from None
    return text


def error_text(message: str) -> str:
    r"""Return an error as a model reads it: one line, cut where it is very long.

    >>> error_text("ValueError: no such city:\n  Atlantis")
    '{"error": "ValueError: no such city: Atlantis"}'
    """
    line = " ".join(message.encode(errors="replace").decode().split())
    if len(line) > _MAX_ERROR:
        line = line[:_MAX_ERROR] + " [...]"
    return json.dumps({"error": line}, ensure_ascii=False)


def exception_text(error: BaseException) -> str:
    """Return kind and message of an exception; the kind alone where its own ``str`` fails.

    >>> exception_text(ValueError("no such city"))
    'ValueError: no such city'
    """
    kind = type(error).__name__
    try:
        return f"{kind}: {error}"
    except Exception:  # It was written by others, and what it raises says nothing here.
        return kind


def cut_text(text: str, max_chars: int) -> str:
    """Return the beginning of a long text, and say at its end that there is more.

    >>> cut_text("abcdef", 3)
    'abc [cut: 3 of 6 characters]'
    """
    if len(text) <= max_chars:
        return text
    return f"{text[:max_chars]} [cut: {max_chars} of {len(text)} characters]"


def _check_depth(text: str) -> None:
    """Raise RecursionError for JSON that is nested too deeply to be read."""
    with suppress(ValueError):  # A text need not be JSON.
        json.loads(text)
