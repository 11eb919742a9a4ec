r"""Reads calls out of an answer while it is made.

An answer is text, or text and then a list of calls behind the marker (``markers``):

    [TOOL_CALLS] [{"name": "a", "arguments": {"x": 1}}, {"name": "b", "arguments": {}}]

Text in front of the marker passes through at once, but for an end of it that may begin a marker
spelled as text, and for white space that nothing has followed yet: an answer that only calls has
no text. Each call is given out as soon as its closing brace is there, so the first of several does
not wait for the others. White space between the parts may be anything; keys besides ``name`` and
``arguments``, such as an id that the model made up, are read over.

Nothing half is given out as a call. From the first call on that cannot be read (cut off by
``max_tokens``, arguments that are no JSON or do not satisfy the schema of their function, a
function that does not exist) the answer is text, as the model wrote it, behind a ``[TOOL_CALLS]``
that shows what it is. Calls before it stay given out.
"""

import json
import secrets
from collections.abc import Mapping
from typing import Any, Literal, NoReturn, Protocol

from mixtral.outputs import FunctionCall, ToolCall
from mixtral.tokenizer.chat import check_json_text
from mixtral.tools.history import ID_LENGTH, ID_LETTERS
from mixtral.tools.markers import CALLS_MARKER, MarkerMatcher

_SPACES = " \t\r\n"


class ArgumentsValidator(Protocol):
    """Tells whether arguments satisfy the schema of their function; jsonschema's classes do."""

    def is_valid(self, instance: Any) -> bool:
        """Return True where they do."""


class ToolCallReader:
    """Takes the tokens of one answer with their text; gives text to show and whole calls.

    Args:
        validators: What checks the arguments, by the name of the function that may be called.
        marker_id: The control token that calls follow, or None where the marker is text.
        is_open: False reads no calls at all: the answer is text, whatever it says.
    """

    def __init__(
        self,
        *,
        validators: Mapping[str, ArgumentsValidator],
        marker_id: int | None,
        is_open: bool = True,
    ) -> None:
        self._validators = validators
        self._marker_id = marker_id
        # "list" waits for [, "items" stands between calls, "rest" is text that holds no calls.
        self._state: Literal["text", "list", "items", "call", "end", "rest"]
        self._state = "text" if is_open else "rest"
        self._matcher = MarkerMatcher()
        self._held = ""
        self._has_shown = False
        self._pending: list[str] = []
        self._object = _ObjectScanner()
        self._ids: set[str] = set()
        self._is_unreadable = False

    @property
    def is_cut(self) -> bool:
        """Whether calls began that were not finished or could not be read, so far or at the end."""
        return self._is_unreadable or self._state in ("list", "items", "call")

    def push(self, token_id: int, text: str) -> tuple[str, list[ToolCall]]:
        """Take a token and the text that became certain with it.

        Returns:
            Text to show, and calls that became complete.
        """
        shown = ""
        if self._state == "text":
            if self._marker_id is None:
                shown, text = self._find_text_marker(text)
            else:
                shown, text = self._find_control_marker(token_id, text)
        more, calls = self._read(text)
        return shown + more, calls

    def flush(self) -> tuple[str, list[ToolCall]]:
        """Return what was held back, at the end of the answer; see the module for cut calls."""
        if self._state == "text":
            shown, self._held = self._held, ""
            return shown, []
        is_between = self._state == "items" and bool(self._ids)
        if self._state in ("rest", "end") or is_between:
            return "", []
        return self._give_up(), []

    def _find_control_marker(self, token_id: int, text: str) -> tuple[str, str]:
        """Split text before the marker from text behind it."""
        self._held += text
        if token_id == self._marker_id:
            return self._begin_list(self._held), ""
        return self._show(len(self._held)), ""

    def _find_text_marker(self, text: str) -> tuple[str, str]:
        for position, character in enumerate(text, start=1):
            self._held += character
            if self._matcher.step(character):
                return self._begin_list(self._held[: -len(CALLS_MARKER)]), text[position:]
        return self._show(len(self._held) - self._matcher.matched), ""

    def _begin_list(self, before: str) -> str:
        self._state = "list"
        self._held = ""
        return before if self._has_shown or before.strip() else ""

    def _show(self, num_safe: int) -> str:
        safe = self._held[:num_safe]
        if not self._has_shown and not safe.strip():
            return ""
        self._held = self._held[num_safe:]
        self._has_shown = True
        return safe

    def _read(self, text: str) -> tuple[str, list[ToolCall]]:
        shown = ""
        calls: list[ToolCall] = []
        for position, character in enumerate(text):
            if self._state == "rest":
                return shown + text[position:], calls
            self._pending.append(character)
            if self._state == "call":
                if self._object.closes(character):
                    call = self._call("".join(self._pending))
                    if call is None:
                        shown += self._give_up()
                    else:
                        calls.append(call)
            elif character not in _SPACES and not self._step(character):
                shown += self._give_up()
        return shown, calls

    def _step(self, character: str) -> bool:
        """Take a character outside calls; tell whether it may stand there."""
        if self._state == "list" and character == "[":
            self._state = "items"
        elif self._state == "items" and character == "{":
            self._state = "call"
            self._object = _ObjectScanner()
            self._object.closes(character)
        elif self._state == "items" and character == "]" and self._ids:
            self._state = "end"
            self._pending.clear()
        else:
            return self._state == "items" and character == ","
        return True

    def _call(self, pending: str) -> ToolCall | None:
        """Return the call whose last character has come, or None where it is none."""
        try:
            members = _members(pending[pending.index("{") :])
            name, _ = members["name"]
            arguments, arguments_text = members["arguments"]
            check_json_text(arguments_text, name="arguments")
            is_valid = isinstance(name, str) and self._validators[name].is_valid(arguments)
        except (KeyError, IndexError, ValueError, RecursionError):
            return None
        if not is_valid:
            return None
        self._state = "items"
        self._pending.clear()
        return ToolCall(
            id=self._new_id(), function=FunctionCall(name=name, arguments=arguments_text)
        )

    def _give_up(self) -> str:
        """Make the rest of the answer text, beginning with what was not given out as a call."""
        text = "".join(self._pending)
        if self._state != "end":
            self._is_unreadable = True
            text = text.lstrip(_SPACES + ",")
            text = f"{CALLS_MARKER} {text}" if text else CALLS_MARKER
        self._state = "rest"
        self._pending.clear()
        return text

    def _new_id(self) -> str:
        while True:
            call_id = "".join(secrets.choice(ID_LETTERS) for _ in range(ID_LENGTH))
            if call_id not in self._ids:
                self._ids.add(call_id)
                return call_id


class _ObjectScanner:
    """Finds the brace that closes a JSON object."""

    def __init__(self) -> None:
        self._depth = 0
        self._in_string = False
        self._is_escaped = False

    def closes(self, character: str) -> bool:
        """Take the next character and tell whether the object ends with it."""
        if self._in_string:
            if self._is_escaped:
                self._is_escaped = False
            elif character == "\\":
                self._is_escaped = True
            elif character == '"':
                self._in_string = False
        elif character == '"':
            self._in_string = True
        elif character in "{[":
            self._depth += 1
        elif character in "}]":
            self._depth -= 1
        return self._depth == 0


def _members(text: str) -> dict[str, tuple[Any, str]]:
    """Return the members of a JSON object, each with the text of its value.

    The text is kept because reading and writing would change numbers such as 1e400.

    Raises:
        ValueError: It is not a JSON object.
    """
    members: dict[str, tuple[Any, str]] = {}
    position = _skip_spaces(text, 1)
    while text[position] != "}":
        key, position = _DECODER.raw_decode(text, position)
        position = _skip_spaces(text, position)
        if not isinstance(key, str) or text[position] != ":":
            raise ValueError("no key of a JSON object")
        start = _skip_spaces(text, position + 1)
        value, end = _DECODER.raw_decode(text, start)
        members[key] = (value, text[start:end])
        position = _skip_spaces(text, end)
        if text[position] == ",":
            position = _skip_spaces(text, position + 1)
        elif text[position] != "}":
            raise ValueError("no comma between members of a JSON object")
    return members


def _skip_spaces(text: str, position: int) -> int:
    while text[position] in _SPACES:
        position += 1
    return position


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)
