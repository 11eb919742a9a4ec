"""Text and conversations to token ids in the official v3 template, fast, with the loss mask.

A document is <s>, its text, </s>. A conversation is the v3 template of all but the last answer,
then that answer and </s>: ``<s>[INST] question[/INST] answer</s>[INST] ...``. The loss counts
answers and calls with their </s>. The server's own encoder (``mixtral.tokenizer.chat``) checks
every message, which costs a millisecond; millions of tokens are written here instead, and the tests
compare the two.
"""

import json
from dataclasses import replace
from typing import Any

import numpy as np
from conversation import Conversation, answer_text, guarded
from numpy.typing import NDArray

from mixtral.eval.cases import fill
from mixtral.tokenizer import load_tokenizer

BOS_ID, EOS_ID = 1, 2
BEGIN_INSTRUCTION_ID, END_INSTRUCTION_ID = 3, 4
CALLS_ID, BEGIN_TOOLS_ID, END_TOOLS_ID, BEGIN_RESULT_ID, END_RESULT_ID = 5, 6, 7, 8, 9


class Encoder:
    """The v3 tokenizer, for documents and conversations."""

    def __init__(self) -> None:
        self._tokenizer = load_tokenizer("v3")

    def document(self, text: str) -> NDArray[np.uint16]:
        """Encode a text with <s> and </s>."""
        return np.array([*self._tokenizer.encode(text), EOS_ID], dtype=np.uint16)

    def conversation(
        self, conversation: Conversation
    ) -> tuple[NDArray[np.uint16], NDArray[np.uint8]]:
        """Encode a conversation; the second array is 1 where the loss counts."""
        ids, mask = [BOS_ID], [0]
        messages = list(conversation.messages)
        if conversation.safe_prompt:
            messages = guarded(messages)
        system = "\n\n".join(m["content"] for m in messages if m["role"] == "system")
        turns = [message for message in messages if message["role"] != "system"]
        last_user = max(i for i, message in enumerate(turns) if message["role"] == "user")
        for index, message in enumerate(turns):
            is_answer = message["role"] == "assistant"
            is_learned = is_answer and (not conversation.learn_last_only or index == len(turns) - 1)
            if index == last_user and conversation.tools:
                ids += self._wrapped(BEGIN_TOOLS_ID, json_text(conversation.tools), END_TOOLS_ID)
            if index == last_user and system:
                message = message | {"content": f"{system}\n\n{message['content']}"}
            mask += [0] * (len(ids) - len(mask))
            ids += self._message(message)
            mask += [int(is_learned)] * (len(ids) - len(mask))
        return np.array(ids, dtype=np.uint16), np.array(mask, dtype=np.uint8)

    def length_of(self, conversation: Conversation) -> int:
        """Count the tokens of a conversation, its filler filled in."""
        messages = list(conversation.messages)
        if conversation.filler:
            at = max(i for i, message in enumerate(messages) if message["role"] == "user")
            text = fill(messages[at]["content"], conversation.filler)
            messages[at] = messages[at] | {"content": text}
        return len(self.conversation(replace(conversation, messages=tuple(messages)))[0])

    def decode(self, token_ids: list[int]) -> str:
        """Return the text of ids, without control tokens."""
        return self._tokenizer.decode(token_ids)

    def _message(self, message: dict[str, Any]) -> list[int]:
        if message["role"] == "user":
            return self._wrapped(BEGIN_INSTRUCTION_ID, message["content"], END_INSTRUCTION_ID)
        if message["role"] == "tool":
            result = {
                "content": _parsed_or_text(message["content"]),
                "call_id": message["tool_call_id"],
            }
            return self._wrapped(BEGIN_RESULT_ID, json_text(result), END_RESULT_ID)
        ids = [*self._text(answer_text(message)), EOS_ID]
        return [CALLS_ID, *ids] if "tool_calls" in message else ids

    def _wrapped(self, begin: int, text: str, end: int) -> list[int]:
        return [begin, *self._text(text), end]

    def _text(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, bos=False)


def json_text(value: Any) -> str:
    """Write JSON as the template does."""
    return json.dumps(value, ensure_ascii=False)


def _parsed_or_text(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
