"""Calls and results of earlier turns: every result gets the call that it answers.

Clients disagree on how the two are linked. Mistral's API and template want ids of 9 letters and
digits; OpenAI's are longer ("call_abc123..."); Mistral's first clients send results, and some
servers send calls, without any. ``link_messages`` brings all of them to one form:

* an id of 9 letters and digits stays; any other becomes one, by a hash, so that the same
  conversation has the same tokens in its next turn (the prefix cache lives off that);
* a result without an id answers the first open call before it, and so does one of two results
  whose calls have the same id;
* a call has its arguments as JSON text: objects are written out, an empty text is ``{}``;
* text beside calls in one assistant message goes into a turn of its own in v3, whose template has
  no place for both.
"""

import hashlib
import json
import re
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mixtral.errors import InvalidRequest
from mixtral.tokenizer.chat import normalize_messages

ID_LETTERS = string.ascii_letters + string.digits
"""What an id of a call is made of."""
ID_LENGTH = 9
"""How many of them."""

_ID = re.compile(r"[a-zA-Z0-9]{9}")


@dataclass(frozen=True, kw_only=True, slots=True)
class _OpenCall:
    """A call whose result has not come yet."""

    sent_id: object
    call_id: str


def has_tool_messages(messages: object) -> bool:
    """Tell whether any message is a result or holds calls; of any input, right or wrong."""
    if not isinstance(messages, Sequence) or isinstance(messages, str | bytes):
        return False
    return any(
        isinstance(message, Mapping)
        and (message.get("role") == "tool" or bool(message.get("tool_calls")))
        for message in messages
    )


def link_messages(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return normalised messages in which calls have ids of 9 characters and results have theirs.

    Raises:
        InvalidRequest: A message is not one that a template can write, a call has no result, or a
            result no call.
    """
    linked = normalize_messages(messages)
    open_calls: list[_OpenCall] = []
    for index, message in enumerate(linked):
        if message["role"] == "tool":
            sent_id = messages[index].get("tool_call_id")
            message["tool_call_id"] = _answered(open_calls, sent_id, index).call_id
            continue
        _check_answered(open_calls, index)
        if message.get("tool_calls"):
            open_calls = _link_calls(message["tool_calls"], index)
    _check_answered(open_calls, len(linked))
    return linked


def split_text_from_calls(messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return messages of which none has both text and calls, for the v3 template.

    The text becomes an assistant message before the calls, with an empty user message between,
    because the template joins two assistant messages to one.
    """
    split: list[dict[str, Any]] = []
    for message in messages:
        if not message.get("tool_calls"):
            split.append(message)
            continue
        if text_of(message):
            split.append({"role": "assistant", "content": message["content"]})
            split.append({"role": "user", "content": ""})
        split.append({key: value for key, value in message.items() if key != "content"})
    return split


def text_of(message: Mapping[str, Any]) -> str:
    """Return the text of a normalised message, its pieces joined as the template joins them."""
    content = message.get("content") or ""
    if isinstance(content, str):
        return content
    return "\n\n".join(chunk["text"] for chunk in content if chunk["text"])


def parsed_or_text(text: str) -> Any:
    """Read JSON, or return the text where it is none, as the v3 template does.

    Raises:
        InvalidRequest: It is nested too deeply to be read.
    """
    try:
        return json.loads(text)
    except ValueError:
        return text
    except RecursionError:
        raise InvalidRequest("a tool message is JSON that is nested too deeply") from None


def _link_calls(calls: list[dict[str, Any]], index: int) -> list[_OpenCall]:
    """Give every call of a message its id and its arguments as text, in place."""
    open_calls: list[_OpenCall] = []
    taken: set[str] = set()
    for position, call in enumerate(calls):
        where = f"messages[{index}].tool_calls[{position}]"
        sent_id = call.get("id")
        if sent_id is not None and not isinstance(sent_id, str):
            raise InvalidRequest(f"{where}.id is {sent_id!r}; it must be a string")
        call_id = _call_id(sent_id, salt=f"{index}.{position}")
        if call_id in taken:
            call_id = _call_id(None, salt=f"{index}.{position}")
        taken.add(call_id)
        open_calls.append(_OpenCall(sent_id=sent_id, call_id=call_id))
        call["id"] = call_id
        call["function"]["arguments"] = _arguments_text(call["function"]["arguments"], where)
    return open_calls


def _call_id(sent_id: str | None, *, salt: str) -> str:
    """Keep an id that fits; otherwise make one that is the same every time."""
    if sent_id is not None and _ID.fullmatch(sent_id):
        return sent_id
    source = f"no id: {salt}" if sent_id is None else f"id: {sent_id}"
    number = int.from_bytes(hashlib.sha256(source.encode()).digest(), "big")
    letters = []
    for _ in range(ID_LENGTH):
        number, letter = divmod(number, len(ID_LETTERS))
        letters.append(ID_LETTERS[letter])
    return "".join(letters)


def _arguments_text(arguments: object, where: str) -> str:
    if isinstance(arguments, Mapping):
        try:
            return json.dumps(arguments, ensure_ascii=False)
        except (TypeError, ValueError, RecursionError) as error:
            raise InvalidRequest(
                f"{where}.function.arguments cannot be written as JSON: {error}"
            ) from None
    if not isinstance(arguments, str):
        raise InvalidRequest(
            f"{where}.function.arguments has type {type(arguments).__name__}; it must be an object "
            "or its JSON text"
        )
    return arguments if arguments.strip() else "{}"


def _answered(open_calls: list[_OpenCall], sent_id: object, index: int) -> _OpenCall:
    """Take the call that a result answers out of the open ones."""
    for position, call in enumerate(open_calls):
        if sent_id is None or sent_id == call.sent_id:
            return open_calls.pop(position)
    if not open_calls:
        raise InvalidRequest(
            f"messages[{index}] is a tool message, but no tool call before it is without a result"
        )
    open_ids = ", ".join(str(call.sent_id) for call in open_calls)
    raise InvalidRequest(
        f"messages[{index}].tool_call_id is {sent_id!r}; the calls without a result have the "
        f"ids: {open_ids}"
    )


def _check_answered(open_calls: Sequence[_OpenCall], index: int) -> None:
    if open_calls:
        raise InvalidRequest(
            f"{len(open_calls)} tool calls have no result before messages[{index}]; each call "
            "needs one message of role tool"
        )
