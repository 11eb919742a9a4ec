"""Records to learn from: what one line of a data file may hold, checked.

Three kinds are read, in the spellings that Mistral's and OpenAI's fine-tuning services, and TRL,
have for them (here with line breaks, in the file without):

    conversation   {"messages": [{"role": "user", "content": "2 + 2?"},
                                 {"role": "assistant", "content": "4", "weight": 1}],
                    "tools": [...]}
    preference     {"messages": [{"role": "user", "content": "2 + 2?"}],
                    "chosen": {"role": "assistant", "content": "4"}, "rejected": "5"}
                   {"prompt": "2 + 2?", "chosen": "4", "rejected": "5"}
                   {"chosen": [<prompt and answer>], "rejected": [<the same prompt and answer>]}
    document       {"text": "Call me Ishmael. ..."}

``weight`` 0 keeps an answer as context that is not learned. ``prompt`` is another name for the
messages of a preference; as a string it is one user message. Keys in ``NO_TEXT_KEYS`` may stand in
a record and mean nothing here; any other key is refused by name, because what it holds would be
lost. Formats: https://platform.openai.com/docs/guides/supervised-fine-tuning,
https://docs.mistral.ai/capabilities/finetuning, https://huggingface.co/docs/trl/dataset_formats.

What only a template can tell, ``chat_data`` checks; ``record_files`` reads the lines.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, Protocol

from mixtral.errors import InvalidRequest
from mixtral.tokenizer.chat import check_unicode
from mixtral.tools.definitions import ToolDefinition, read_tools
from mixtral.tools.history import link_messages, text_of

NO_TEXT_KEYS = frozenset({"id", "metadata", "parallel_tool_calls", "source", "split", "task"})
"""Keys that data sets carry beside a record and that no template has a place for."""

Message = dict[str, Any]
"""One message in mistral-common's shape, see ``tokenizer.chat.normalize_messages``."""


class Record(Protocol):
    """What a line becomes."""

    def key(self) -> int:
        """Return a number of 64 bits that depends on what is asked, not on the answer."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Conversation:
    """Messages that end with an answer."""

    messages: list[Message]
    """Normalised, with every call linked to its result."""
    tools: list[ToolDefinition]
    """Functions that the assistant may call."""
    is_learned: list[bool]
    """Per message: whether it is an answer to learn."""

    def key(self) -> int:
        """Return the hash of all but the last message."""
        return _hash(self.messages[:-1])


@dataclass(frozen=True, kw_only=True, slots=True)
class PreferencePair:
    """Two answers to one conversation, of which one is better."""

    messages: list[Message]
    """The conversation up to the answer, normalised."""
    tools: list[ToolDefinition]
    """Functions that the assistant may call."""
    chosen: Message
    """The better answer, an assistant message."""
    rejected: Message
    """The worse one."""

    def key(self) -> int:
        """Return the hash of the conversation, which all pairs of one question share."""
        return _hash(self.messages)


@dataclass(frozen=True, kw_only=True, slots=True)
class Document:
    """Plain text for pre-training."""

    text: str
    """Not empty."""

    def key(self) -> int:
        """Return the hash of the text."""
        return _hash(self.text)


def parse_conversation(value: Mapping[str, Any]) -> Conversation:
    """Return the conversation of a record.

    Raises:
        InvalidRequest: A key, role, weight, tool or call is wrong, messages do not belong together,
            an answer is empty, or the record does not end with an answer to learn.
    """
    _check_keys(value, needed=("messages",), optional=("tools",))
    tools = read_tools(value.get("tools"))
    messages = _link(value["messages"], name="messages")
    is_learned = [_is_learned(raw, i) for i, raw in enumerate(value["messages"])]
    for index, message in enumerate(messages):
        _check_message(message, tools, f"messages[{index}]")
    _check_begin(messages)
    if messages[-1]["role"] != "assistant":
        _refuse(f"the last message is {messages[-1]['role']}; a record ends with an answer")
    if not any(is_learned):
        _refuse("no assistant message has weight 1, so there is nothing to learn")
    for index in range(1, len(messages)):
        before, after = messages[index - 1 : index + 1]
        is_one_turn = before["role"] == after["role"] == "assistant"
        if is_one_turn and is_learned[index - 1] != is_learned[index]:
            _refuse(
                f"messages[{index}] has another weight than the answer right before it; the "
                "template joins the two"
            )
    return Conversation(messages=messages, tools=tools, is_learned=is_learned)


def parse_preference(value: Mapping[str, Any]) -> PreferencePair:
    """Return the preference pair of a record.

    Raises:
        InvalidRequest: As for ``parse_conversation``, or the two answers are the same, or one of
            them is not a single message.
    """
    _check_keys(value, needed=("chosen", "rejected"), optional=("messages", "prompt", "tools"))
    prompt, chosen, rejected = _split_preference(value)
    tools = read_tools(value.get("tools"))
    messages: list[Message] = []
    answers: list[Message] = []
    for name, answer in (("chosen", chosen), ("rejected", rejected)):
        *messages, last = _link([*prompt, answer], name="messages")
        if last["role"] != "assistant":
            _refuse(f"{name} is a {last['role']} message; it must be an answer of the assistant")
        _check_message(last, tools, name)
        answers.append(last)
    for index, message in enumerate(messages):
        _check_message(message, tools, f"messages[{index}]")
    _check_begin(messages)
    if messages[-1]["role"] == "assistant":
        _refuse("the messages before chosen and rejected end with an answer")
    if answers[0] == answers[1]:
        _refuse("chosen and rejected are the same")
    return PreferencePair(messages=messages, tools=tools, chosen=answers[0], rejected=answers[1])


def parse_document(value: Mapping[str, Any]) -> Document:
    """Return the document of a record.

    Raises:
        InvalidRequest: A key is wrong, or the text is missing, empty or not valid Unicode.
    """
    _check_keys(value, needed=("text",), optional=())
    text = value["text"]
    if not isinstance(text, str) or not text.strip():
        _refuse(f"text is {text!r}; it must be a string with something in it")
    check_unicode(text, name="text")
    return Document(text=text)


def _check_keys(
    value: Mapping[str, Any], *, needed: tuple[str, ...], optional: tuple[str, ...]
) -> None:
    for key in needed:
        if value.get(key) is None:
            found = ", ".join(sorted(value)) or "none"
            _refuse(f"the record has no {key!r}; its keys are: {found}")
    allowed = {*needed, *optional, *NO_TEXT_KEYS}
    for key, content in value.items():
        if content is not None and key not in allowed:
            _refuse(
                f"the record has the unknown key {key!r}; known are {', '.join(sorted(allowed))}"
            )


def _link(messages: object, *, name: str) -> list[Message]:
    """Link calls and results; calls of the last message need no results in a record."""
    if not isinstance(messages, list) or not messages:
        _refuse(f"{name} is {str(messages)[:40]!r}; it must be a list of at least one message")
    last = messages[-1]
    calls = last.get("tool_calls") if isinstance(last, dict) else None
    results = [{"role": "tool", "content": ""}] * (len(calls) if isinstance(calls, list) else 0)
    return link_messages([*messages, *results])[: len(messages)]


def _is_learned(raw: Mapping[str, Any], index: int) -> bool:
    weight = raw.get("weight")
    if raw["role"] != "assistant":
        if weight not in (None, 0):
            _refuse(
                f"messages[{index}] is {raw['role']} with weight {weight!r}; answers have weights"
            )
        return False
    if isinstance(weight, bool) or weight not in (None, 0, 1):
        _refuse(f"messages[{index}].weight is {weight!r}; it must be 0 or 1")
    return weight != 0


def _check_begin(messages: Sequence[Message]) -> None:
    if not messages or messages[0]["role"] not in ("system", "user"):
        role = messages[0]["role"] if messages else "missing"
        _refuse(f"the first message is {role}; a conversation begins with system or user")


def _check_message(message: Message, tools: Sequence[ToolDefinition], where: str) -> None:
    """Check what normalising does not: answers with nothing in them, and calls."""
    if message["role"] != "assistant":
        return
    if message.get("prefix"):
        _refuse(f"{where} has prefix true; answers to learn are whole")
    calls = message.get("tool_calls") or []
    if not calls and not text_of(message).strip():
        _refuse(f"{where} is an empty answer")
    names = {tool.name for tool in tools}
    for position, call in enumerate(calls):
        function = call["function"]
        if function.get("name") not in names:
            known = ", ".join(sorted(names)) or "none"
            _refuse(
                f"{where}.tool_calls[{position}] calls {function.get('name')!r}; the tools of the "
                f"record are: {known}"
            )
        try:
            arguments = json.loads(function["arguments"])
        except (ValueError, RecursionError):
            arguments = None
        if not isinstance(arguments, dict):
            text = function["arguments"][:40]
            _refuse(
                f"{where}.tool_calls[{position}] has arguments {text!r}; they must be a JSON object"
            )


def _split_preference(value: Mapping[str, Any]) -> tuple[list[Any], Any, Any]:
    """Return the prompt as messages and each answer as one message."""
    if value.get("messages") is not None and value.get("prompt") is not None:
        _refuse("the record has both 'messages' and 'prompt'; they are two names of one thing")
    prompt = value.get("prompt") if value.get("messages") is None else value["messages"]
    if prompt is None:
        return _split_implicit(value["chosen"], value["rejected"])
    if isinstance(prompt, str):
        prompt = [{"role": "user", "content": prompt}]
    if not isinstance(prompt, list) or not prompt:
        _refuse(f"the prompt is {str(prompt)[:40]!r}; it must be a text or a list of messages")
    answers = (_one_answer(value[name], name) for name in ("chosen", "rejected"))
    return prompt, *answers


def _split_implicit(chosen: object, rejected: object) -> tuple[list[Any], Any, Any]:
    """Part two whole conversations where they begin to differ."""
    if not isinstance(chosen, list) or not isinstance(rejected, list):
        _refuse("the record has no 'messages' or 'prompt'; without, chosen and rejected are lists")
    num_same = 0
    while num_same < min(len(chosen), len(rejected)) and chosen[num_same] == rejected[num_same]:
        num_same += 1
    if len(chosen) == len(rejected) == num_same:
        _refuse("chosen and rejected are the same")
    answers = (
        _one_answer(whole[num_same:], name)
        for whole, name in ((chosen, "chosen"), (rejected, "rejected"))
    )
    return chosen[:num_same], *answers


def _one_answer(value: object, name: str) -> Any:
    if isinstance(value, str):
        return {"role": "assistant", "content": value}
    if isinstance(value, list):
        if len(value) != 1:
            _refuse(f"{name} has {len(value)} messages after the prompt; it must be one answer")
        return value[0]
    return value


def _hash(value: object) -> int:
    digest = hashlib.blake2b(json.dumps(value, sort_keys=True).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big")


def _refuse(reason: str) -> NoReturn:
    raise InvalidRequest(reason)
