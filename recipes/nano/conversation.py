"""What a task makes: messages in OpenAI's format, the task's name, and how to judge an answer."""

import re
from dataclasses import dataclass, field
from typing import Any, Literal

from mixtral.tokenizer.chat import SAFE_PROMPT

Check = Literal["exact", "json", "calls", "text", "refusal", "helpful", "mentions"]
"""See ``mixtral.eval.answers_check``."""
Message = dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Conversation:
    """Messages that end with the right answer."""

    messages: tuple[Message, ...]
    """At most one system message, first; then user, assistant and tool messages; assistant last."""
    task: str
    """Name of the task."""
    tools: tuple[dict[str, Any], ...] = ()
    """Functions that may be called, in OpenAI's spelling."""
    check: Check = "exact"
    """How an answer is judged."""
    expected: Any = None
    """What a checker compares with; None means the last answer."""
    learn_last_only: bool = False
    """Whether only the last answer is learned, because earlier ones could not be known."""
    safe_prompt: bool = False
    """Whether Mistral's guard-rail text comes first."""
    filler: dict[str, Any] = field(default_factory=dict)
    """For a held-out case, the piece of a novel that takes the place of ``{filler}``."""

    @property
    def answer(self) -> str:
        """The last answer; of calls, the JSON that the model writes."""
        return answer_text(self.messages[-1])

    def record(self) -> dict[str, Any]:
        """Return one line of a training file, in the format of the Mistral and OpenAI APIs."""
        messages = [dict(message) for message in self.messages]
        if self.learn_last_only:
            for message in messages[:-1]:
                if message["role"] == "assistant":
                    message["weight"] = 0
        if self.safe_prompt:
            messages = guarded(messages)
        return {"messages": messages} | ({"tools": list(self.tools)} if self.tools else {})

    def case(self) -> dict[str, Any]:
        """Return the conversation as a held-out case: the last answer is what is expected."""
        case: dict[str, Any] = {"task": self.task, "messages": list(self.messages[:-1])}
        if self.tools:
            case["tools"] = list(self.tools)
        if self.safe_prompt:
            case["safe_prompt"] = True
        if self.filler:
            case["filler"] = self.filler
        expected = self.answer if self.expected is None else self.expected
        return case | {"expected": expected, "check": self.check}


def dialogue(*turns: str, task: str, system: str = "", **fields: Any) -> Conversation:
    """Build a conversation from question, answer, question, answer, ..."""
    messages: list[Message] = [{"role": "system", "content": system}] if system else []
    for index, turn in enumerate(turns):
        messages.append({"role": "assistant" if index % 2 else "user", "content": turn})
    return Conversation(messages=tuple(messages), task=task, **fields)


def guarded(messages: list[Message]) -> list[Message]:
    """Put the guard-rail text first, as ``safe_prompt`` does."""
    return [{"role": "system", "content": SAFE_PROMPT}, *messages]


def answer_text(message: Message) -> str:
    """Return the text of an assistant message, or the JSON of its calls."""
    if "tool_calls" not in message:
        return str(message["content"])
    return calls_text(message["tool_calls"])


def calls_text(calls: list[dict[str, Any]]) -> str:
    """Write calls as the v3 template does; a call without id gets none."""
    parts = []
    for call in calls:
        function = call["function"]
        written = f'{{"name": "{function["name"]}", "arguments": {function["arguments"]}'
        parts.append(written + (f', "id": "{call["id"]}"}}' if "id" in call else "}"))
    return f"[{', '.join(parts)}]"


def with_articles(text: str) -> str:
    """Write "an" before a vowel, for sentences filled from word lists."""
    return re.sub(r"\b([Aa]) (?=[aeiouAEIO])", r"\1n ", text)
