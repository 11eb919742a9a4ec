"""Read a text file for calibration or comparison as sequences of token ids.

A ``.jsonl`` file has an object per line: ``{"text": ...}``, or ``{"messages": [...]}`` with a
conversation in OpenAI's spelling, which gets the model's chat template. Any other file is plain
text in UTF-8. Long texts are cut into pieces, each of which begins with ``<s>``, because the model
was trained so. Lines are read as they are needed, so a file may be larger than memory.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mixtral.errors import ConfigError, InvalidRequest
from mixtral.tokenizer import Tokenizer
from mixtral.validation import require_int

# Plain text is tokenized in stretches; a cut between them costs one word.
_STRETCH_CHARACTERS = 1 << 16


def read_sequences(
    path: Path, tokenizer: Tokenizer, *, sequence_tokens: int = 512
) -> Iterator[list[int]]:
    """Yield the sequences of a file, in its order.

    Args:
        path: A ``.jsonl`` file or plain text.
        tokenizer: That of the model.
        sequence_tokens: Length of a piece, ``<s>`` included; at most the model's context.

    Raises:
        ConfigError: The file cannot be read, or a line is not as described.
    """
    require_int("sequence_tokens", sequence_tokens, low=2)
    is_jsonl = path.suffix == ".jsonl"
    try:
        with path.open(encoding="utf-8") as file:
            for number, text in enumerate(file if is_jsonl else _stretches(file), start=1):
                if not text.strip():
                    continue
                token_ids = _encode_line(text, path, number, tokenizer) if is_jsonl else None
                if token_ids is None:
                    token_ids = tokenizer.encode(text)
                yield from _pieces(token_ids, sequence_tokens)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{path} cannot be read as UTF-8 text ({error}); give a text or .jsonl file."
        ) from error


def _stretches(lines: Iterator[str]) -> Iterator[str]:
    """Join lines to stretches of some length."""
    stretch: list[str] = []
    size = 0
    for line in lines:
        stretch.append(line)
        size += len(line)
        if size >= _STRETCH_CHARACTERS:
            yield "".join(stretch)
            stretch, size = [], 0
    yield "".join(stretch)


def _encode_line(line: str, path: Path, number: int, tokenizer: Tokenizer) -> list[int]:
    try:
        values: Any = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}, line {number} is not JSON: {error}.") from error
    try:
        if isinstance(values, dict) and "messages" in values:
            return _encode_messages(values["messages"], tokenizer)
        if isinstance(values, dict) and isinstance(values.get("text"), str):
            return tokenizer.encode(values["text"])
    except (InvalidRequest, TypeError, AttributeError) as error:
        raise ConfigError(f"{path}, line {number}: {error}.") from error
    raise ConfigError(f'{path}, line {number} must be an object with "text" or "messages".')


def _encode_messages(messages: Any, tokenizer: Tokenizer) -> list[int]:
    last = messages[-1] if isinstance(messages, list) and messages else None
    if isinstance(last, dict) and last.get("role") == "assistant":
        answered = tokenizer.encode_chat(messages, continue_final_message=True)
        return [*answered, tokenizer.eos_id]
    return tokenizer.encode_chat(messages)


def _pieces(token_ids: list[int], sequence_tokens: int) -> Iterator[list[int]]:
    """Cut ids that begin with <s> into pieces that all do."""
    bos, rest = token_ids[:1], token_ids[1:]
    for start in range(0, len(rest), sequence_tokens - 1):
        yield bos + rest[start : start + sequence_tokens - 1]
