r"""Messages to token ids, exactly as mistral-common writes them.

The templates, in pieces (``sp`` is SentencePiece with its leading space):

    v1  <s> sp("[INST] u [/INST]") sp(a) </s> sp("[INST] ...")
    v3  <s> [INST] sp(u) [/INST] sp(a) </s> [INST] ...
        [AVAILABLE_TOOLS] sp(json) [/AVAILABLE_TOOLS] before the last [INST]
        [TOOL_CALLS] sp(json) </s> and [TOOL_RESULTS] sp(json) [/TOOL_RESULTS] after it

System text goes before the first user message in v1 and before the last one in v3, with an empty
line between; consecutive messages of one role are joined the same way. All of that, and the rules
for who may speak after whom, is mistral-common's; this module only brings the messages that real
clients send into the shape that it accepts:

* ``developer`` is OpenAI's newer name for ``system``;
* a tool result without an id answers the next open call of the assistant message before it;
* keys that carry nothing for the template are left out: those in ``NO_TEXT_KEYS``, and any key
  whose value is null. Every other key that is not known is refused by name.

The v1 template is the one of the model card, written there as pseudo-code:

>>> from mixtral.tokenizer import load_tokenizer
>>> tokenizer = load_tokenizer("v1")
>>> BOS_ID, EOS_ID = tokenizer.bos_id, tokenizer.eos_id
>>> def tokenize(text):
...     return tokenizer.encode(text, bos=False)
>>> USER_MESSAGE_1 = "What is your favourite condiment?"
>>> BOT_MESSAGE_1 = "Well, I'm quite partial to a good squeeze of fresh lemon juice."
>>> USER_MESSAGE_2 = "Do you have mayonnaise recipes?"
>>> card = (
...     [BOS_ID]
...     + tokenize("[INST]") + tokenize(USER_MESSAGE_1) + tokenize("[/INST]")
...     + tokenize(BOT_MESSAGE_1) + [EOS_ID]
...     + tokenize("[INST]") + tokenize(USER_MESSAGE_2) + tokenize("[/INST]")
... )
>>> card == tokenizer.encode_chat([
...     {"role": "user", "content": USER_MESSAGE_1},
...     {"role": "assistant", "content": BOT_MESSAGE_1},
...     {"role": "user", "content": USER_MESSAGE_2},
... ])
True

(They differ for one text only, the empty user message: there the template has one space more.)

Images, audio and thinking are not here; Mixtral has no tokens for them. Reading tool calls out of
generated text is the server's work.

mistral-common is imported when the first conversation is encoded, because that takes longer than
reading the tokenizer itself.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from mixtral.errors import InvalidRequest

SAFE_PROMPT = (
    "Always assist with care, respect, and truth. Respond with utmost utility yet securely. "
    "Avoid harmful, unethical, prejudiced, or negative content. "
    "Ensure replies promote fairness and positivity."
)
"""The system text that Mistral's API puts first when a request sets ``safe_prompt``."""

MESSAGE_KEYS = {
    "system": {"role", "content"},
    "user": {"role", "content"},
    "assistant": {"role", "content", "tool_calls", "prefix"},
    "tool": {"role", "content", "tool_call_id", "name"},
}
"""The keys that the template reads, by role."""

NO_TEXT_KEYS = frozenset({"annotations", "cache_control", "id", "index", "name", "type", "weight"})
"""Keys that clients send back with a message and that no template of Mixtral has a place for."""


class ChatTemplate:
    """mistral-common's template of one version, with one kind of error."""

    def __init__(self, model_path: Path, *, version: Literal["v1", "v3"]) -> None:
        """Import mistral-common and read the SentencePiece file at ``model_path``."""
        from mistral_common.protocol.instruct.normalize import get_normalizer
        from mistral_common.protocol.instruct.validator import ValidationMode, get_validator
        from mistral_common.tokens.tokenizers.base import TokenizerVersion
        from mistral_common.tokens.tokenizers.instruct import (
            InstructTokenizerV1,
            InstructTokenizerV3,
        )
        from mistral_common.tokens.tokenizers.mistral import MistralTokenizer
        from mistral_common.tokens.tokenizers.sentencepiece import SentencePieceTokenizer

        instruct_class = {"v1": InstructTokenizerV1, "v3": InstructTokenizerV3}[version]
        common_version = TokenizerVersion(version)
        # MistralTokenizer.from_file would take the version from the name of the file.
        self._tokenizer: Any = MistralTokenizer(
            instruct_class(SentencePieceTokenizer(str(model_path), common_version)),
            validator=get_validator(common_version, mode=ValidationMode.serving),
            request_normalizer=get_normalizer(common_version, None),
        )

    def encode(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        continue_final_message: bool = False,
    ) -> list[int]:
        """Return the ids of a conversation; see ``Tokenizer.encode_chat``."""
        from mistral_common.protocol.instruct.request import ChatCompletionRequest

        request: dict[str, Any] = {
            "model": "mixtral",
            "messages": normalize_messages(messages, continue_final_message=continue_final_message),
        }
        if tools:
            request["tools"] = _to_tools(tools)
        try:
            tokenized = self._tokenizer.encode_chat_completion(
                ChatCompletionRequest.model_validate(request)
            )
        except _errors_of_mistral_common() as error:
            raise InvalidRequest(_one_line(error)) from error
        return self._ids(tokenized)

    def encode_fim(self, prompt: str, suffix: str | None) -> list[int]:
        """Return ``<s>[SUFFIX]suffix[PREFIX]prompt``."""
        from mistral_common.protocol.fim.request import FIMRequest

        return self._ids(self._tokenizer.encode_fim(FIMRequest(prompt=prompt, suffix=suffix)))

    @staticmethod
    def _ids(tokenized: Any) -> list[int]:
        return [int(i) for i in tokenized.tokens]


def with_safe_prompt(messages: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the messages with ``SAFE_PROMPT`` as the first system text, if there are any."""
    _check_list(messages, name="messages")
    if not messages:
        return []
    return [{"role": "system", "content": SAFE_PROMPT}, *messages]


def normalize_messages(
    messages: Sequence[Mapping[str, Any]], *, continue_final_message: bool = False
) -> list[dict[str, Any]]:
    """Bring messages as clients send them into mistral-common's shape; the input stays as it is.

    Raises:
        InvalidRequest: A message has an unknown role or key, no content where it needs some,
            content that is not text, or half of a surrogate pair.
    """
    _check_list(messages, name="messages")
    normalized: list[dict[str, Any]] = []
    open_call_ids: list[str] = []
    for index, message in enumerate(messages):
        where = f"messages[{index}]"
        check_strings(message, name=where)
        result = _normalize_message(message, where)
        if result["role"] == "assistant":
            open_call_ids = [str(call.get("id")) for call in result.get("tool_calls") or []]
        elif result["role"] == "tool":
            call_id = result.get("tool_call_id")
            if call_id is None and open_call_ids:
                call_id = result["tool_call_id"] = open_call_ids[0]
            if call_id in open_call_ids:
                open_call_ids.remove(call_id)
        normalized.append(result)
    if continue_final_message:
        if not normalized or normalized[-1]["role"] != "assistant":
            last = normalized[-1]["role"] if normalized else "missing"
            raise InvalidRequest(
                f"the last message is {last}; to be continued it must be an assistant message"
            )
        normalized[-1]["prefix"] = True
    return normalized


def check_tools(tools: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the tools as dictionaries that hold a function and valid text.

    Raises:
        InvalidRequest: A tool is not of the form {"type": "function", "function": {...}}.
    """
    _check_list(tools, name="tools")
    for index, tool in enumerate(tools):
        if not isinstance(tool, Mapping) or not isinstance(tool.get("function"), Mapping):
            raise InvalidRequest(
                f'tools[{index}] must be of the form {{"type": "function", "function": '
                f'{{"name": ..., "description": ..., "parameters": {{...}}}}}}'
            )
        check_strings(tool, name=f"tools[{index}]")
    return [dict(tool) for tool in tools]


def check_strings(value: Any, *, name: str) -> None:
    """Check every string inside dictionaries and lists with ``check_unicode``."""
    for text in _strings(value):
        check_unicode(text, name=name)


def check_json_text(text: str, *, name: str) -> None:
    """Refuse a lone surrogate that a text would have once it is read as JSON.

    The template parses tool arguments and tool results where they are JSON, and writes them anew.
    """
    if "\\ud" not in text.lower():
        return
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return
    check_strings(value, name=name)


def check_unicode(text: str, *, name: str) -> None:
    """Refuse half of a surrogate pair, which JSON can spell and UTF-8 cannot.

    Raises:
        InvalidRequest: With the position and the code of the character.
    """
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InvalidRequest(
            f"{name} holds the lone surrogate U+{ord(text[error.start]):04X} at character "
            f"{error.start}; surrogates must come in pairs"
        ) from None


def _to_tools(tools: Sequence[Mapping[str, Any]]) -> list[Any]:
    """Convert OpenAI's tools to mistral-common's; an error names the tool."""
    from mistral_common.protocol.instruct.tool_calls import Tool

    converted = []
    for index, tool in enumerate(check_tools(tools)):
        try:
            converted.append(Tool.from_openai(tool))
        except _errors_of_mistral_common() as error:
            raise InvalidRequest(f"tools[{index}].{_one_line(error)}") from error
    return converted


def _normalize_message(message: Mapping[str, Any], where: str) -> dict[str, Any]:
    if not isinstance(message, Mapping):
        raise InvalidRequest(f"{where} has type {type(message).__name__}; it must be an object")
    role = message.get("role")
    role = "system" if role == "developer" else role
    if not isinstance(role, str) or role not in MESSAGE_KEYS:
        raise InvalidRequest(
            f"{where} has role {role!r}; the roles are system (or developer), user, assistant, tool"
        )
    result = _known_keys(message, MESSAGE_KEYS[role], where)
    result["role"] = role
    if isinstance(result.get("content"), list | tuple):
        result["content"] = [
            _normalize_chunk(chunk, f"{where}.content[{i}]")
            for i, chunk in enumerate(result["content"])
        ]
    elif not isinstance(result.get("content", ""), str):
        kind = type(result["content"]).__name__
        raise InvalidRequest(
            f"{where}.content has type {kind}; it must be a string or a list of texts"
        )
    elif "content" not in result and role != "assistant":
        raise InvalidRequest(f"{where} has no content; a {role} message needs some")
    if role == "tool":
        content = result["content"]
        text = content if isinstance(content, str) else "\n\n".join(c["text"] for c in content)
        check_json_text(text, name=f"{where}.content")
    if "tool_calls" in result:
        calls = result.pop("tool_calls")
        _check_list(calls, name=f"{where}.tool_calls")
        if calls:
            result["tool_calls"] = [
                _normalize_call(call, f"{where}.tool_calls[{i}]") for i, call in enumerate(calls)
            ]
    return result


def _normalize_chunk(chunk: Any, where: str) -> dict[str, Any]:
    if not isinstance(chunk, Mapping):
        raise InvalidRequest(f"{where} has type {type(chunk).__name__}; it must be an object")
    if chunk.get("type") != "text" or not isinstance(chunk.get("text"), str):
        raise InvalidRequest(
            f"{where} has type {chunk.get('type')!r}; Mixtral reads text only: "
            f'{{"type": "text", "text": "..."}}'
        )
    return {"type": "text", **_known_keys(chunk, {"text"}, where)}


def _normalize_call(call: Any, where: str) -> dict[str, Any]:
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping):
        raise InvalidRequest(f'{where} must hold "function": {{"name": ..., "arguments": ...}}')
    if call.get("type") not in (None, "function"):
        raise InvalidRequest(f"{where} has type {call['type']!r}; the only type is 'function'")
    result = _known_keys(call, {"id", "function"}, where)
    result["function"] = _known_keys(function, {"name", "arguments"}, f"{where}.function")
    arguments = result["function"].setdefault("arguments", "{}")
    if isinstance(arguments, str):
        check_json_text(arguments, name=f"{where}.function.arguments")
    return result


def _known_keys(source: Mapping[str, Any], known: set[str], where: str) -> dict[str, Any]:
    """Copy the keys that the template reads; refuse those that would be lost with their value."""
    result = {}
    for key, value in source.items():
        if value is None:
            continue
        if key in known:
            result[key] = value
        elif key not in NO_TEXT_KEYS and not (key in ("prefix", "tool_calls") and not value):
            allowed = ", ".join(sorted(known))
            raise InvalidRequest(f"{where} has the unknown key {key!r}; the keys are {allowed}")
    return result


def _strings(value: Any) -> Iterator[str]:
    """Yield every string in nested dictionaries and lists; a stack, so that depth is no limit."""
    stack = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, str):
            yield item
        elif isinstance(item, Mapping):
            stack.extend(item.keys())
            stack.extend(item.values())
        elif isinstance(item, list | tuple):
            stack.extend(item)


def _check_list(value: object, *, name: str) -> None:
    if not isinstance(value, Sequence) or isinstance(value, str | bytes):
        raise InvalidRequest(f"{name} has type {type(value).__name__}; it must be a list")


def _errors_of_mistral_common() -> tuple[type[Exception], ...]:
    """List what mistral-common raises on wrong requests; some are bare built-in exceptions.

    ValueError covers pydantic's errors; TypeError comes from json, on values that are not JSON.
    """
    from mistral_common.exceptions import MistralCommonException

    return (MistralCommonException, ValueError, AssertionError, TypeError, RecursionError)


def _one_line(error: Exception) -> str:
    """Say in one line what mistral-common found wrong."""
    if isinstance(error, RecursionError):
        return "the request is nested too deeply"
    text = str(getattr(error, "message", "") or error)
    errors_of_pydantic = getattr(error, "errors", None)
    if callable(errors_of_pydantic):
        first = errors_of_pydantic()[0]
        text = f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}"
    return " ".join(text.split()) or f"mistral-common refused it ({type(error).__name__})"
