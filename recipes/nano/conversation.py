"""What a task makes: messages, the task's name, and how to judge an answer to the last question."""

import re
from dataclasses import dataclass
from typing import Literal

Check = Literal["exact", "json", "prefix"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Message:
    """One message of a conversation."""

    role: Literal["system", "user", "assistant"]
    """Who speaks."""
    content: str
    """What is said."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Conversation:
    """Messages that end with the right answer."""

    messages: tuple[Message, ...]
    """At most one system message, first; then user and assistant in turn, the assistant last."""
    task: str
    """Name of the task."""
    check: Check = "exact"
    """Equal text, equal JSON value, or a text that begins with ``expected``."""
    expected: str = ""
    """What a checker compares with; empty means the last answer."""
    learn_last_only: bool = False
    """Whether only the last answer is learned, because earlier ones could not be known."""

    @property
    def answer(self) -> str:
        """The last answer."""
        return self.messages[-1].content

    def case(self) -> dict[str, object]:
        """Return the conversation as a held-out case: the last answer is what is expected."""
        return {
            "task": self.task,
            "messages": [
                {"role": message.role, "content": message.content} for message in self.messages[:-1]
            ],
            "expected": self.expected or self.answer,
            "check": self.check,
        }


def dialogue(
    *turns: str,
    task: str,
    system: str = "",
    check: Check = "exact",
    expected: str = "",
    learn_last_only: bool = False,
) -> Conversation:
    """Build a conversation from question, answer, question, answer, ..."""
    messages = [Message(role="system", content=system)] if system else []
    for index, turn in enumerate(turns):
        messages.append(Message(role="assistant" if index % 2 else "user", content=turn))
    return Conversation(
        messages=tuple(messages),
        task=task,
        check=check,
        expected=expected,
        learn_last_only=learn_last_only,
    )


def with_articles(text: str) -> str:
    """Write "an" before a vowel, for sentences filled from word lists."""
    return re.sub(r"\b([Aa]) (?=[aeiouAEIO])", r"\1n ", text)
