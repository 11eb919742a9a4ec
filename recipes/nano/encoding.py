"""Text and conversations to token ids, with mistral-common's v3 tokenizer.

A document is <s>, its text, </s>. A conversation is the official v3 template of all but the last
answer, then that answer and </s>: ``<s>[INST] question[/INST] answer</s>[INST] ...``. The loss
counts the answers and their </s>. Control tokens cannot come from text, so the answers are found
between [/INST] and </s>.
"""

import numpy as np
from conversation import Conversation
from mistral_common.protocol.instruct.messages import (
    AssistantMessage,
    ChatMessage,
    SystemMessage,
    UserMessage,
)
from mistral_common.protocol.instruct.request import ChatCompletionRequest
from mistral_common.tokens.tokenizers.mistral import MistralTokenizer
from numpy.typing import NDArray

BOS_ID, EOS_ID, END_INSTRUCTION_ID = 1, 2, 4
FIRST_WORD_ID = 1027
"""Ids below are control tokens and single bytes."""

_MESSAGES = {"system": SystemMessage, "user": UserMessage, "assistant": AssistantMessage}


class Encoder:
    """The v3 tokenizer, for documents and conversations."""

    def __init__(self) -> None:
        self._chat = MistralTokenizer.v3()
        self._text = self._chat.instruct_tokenizer.tokenizer

    def document(self, text: str) -> NDArray[np.uint16]:
        """Encode a text with <s> and </s>."""
        return np.array(self._text.encode(text, bos=True, eos=True), dtype=np.uint16)

    def conversation(
        self, conversation: Conversation
    ) -> tuple[NDArray[np.uint16], NDArray[np.uint8]]:
        """Encode a conversation; the second array is 1 where the loss counts."""
        messages: list[ChatMessage] = [
            _MESSAGES[message.role](content=message.content)
            for message in conversation.messages[:-1]
        ]
        request: ChatCompletionRequest[ChatMessage] = ChatCompletionRequest(messages=messages)
        prompt = self._chat.encode_chat_completion(request).tokens
        ids = prompt + self._text.encode(conversation.answer, bos=False, eos=True)
        mask = np.zeros(len(ids), dtype=np.uint8)
        is_answer = False
        for index, token_id in enumerate(ids):
            mask[index] = is_answer
            is_answer = token_id == END_INSTRUCTION_ID or (is_answer and token_id != EOS_ID)
        if conversation.learn_last_only:
            mask[: len(prompt)] = 0
        return np.array(ids, dtype=np.uint16), mask

    def decode(self, token_ids: list[int]) -> str:
        """Return the text of ids, without control tokens."""
        return self._text.decode(token_ids)

    def vocabulary(self) -> list[str]:
        """Return the text of every id from ``FIRST_WORD_ID`` on."""
        return [self._text.id_to_piece(i) for i in range(FIRST_WORD_ID, self._text.n_words)]
