"""A conversation as a file and as messages for the model.

An answer that was stopped in the middle stays in the conversation, marked: its turn has
``"interrupted": true`` in the file, a key that the model's template never sees.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from mixtral.cli.console import require_text
from mixtral.errors import InvalidRequest
from mixtral.whole_file import write_whole

# Ten times the text of the longest context.
_MAX_BYTES = 10_000_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Turn:
    """What one side said."""

    role: str
    """``user`` or ``assistant``."""
    content: str
    """The text."""
    is_interrupted: bool = False
    """Whether Ctrl-C cut it."""


@dataclass(kw_only=True, slots=True)
class Conversation:
    """System text and turns, oldest first."""

    system: str = ""
    """Instructions before the first turn; empty for none."""
    turns: list[Turn] = field(default_factory=list)
    """What was said."""

    def messages(self) -> list[dict[str, str]]:
        """Return role and content of everything, as the model's template takes them."""
        head = [{"role": "system", "content": self.system}] if self.system else []
        return head + [{"role": turn.role, "content": turn.content} for turn in self.turns]

    def save(self, path: Path) -> None:
        """Write a JSON list of messages, whole or not at all.

        Raises:
            OSError: The file cannot be written.
        """
        entries: list[dict[str, Any]] = list(self.messages())
        for entry, turn in zip(reversed(entries), reversed(self.turns), strict=False):
            if turn.is_interrupted:
                entry["interrupted"] = True
        write_whole(path, json.dumps(entries, indent=2, ensure_ascii=False) + "\n")

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what ``save`` wrote, or any JSON list of messages with role and content.

        Raises:
            OSError: The file cannot be read.
            InvalidRequest: It holds something else.
        """
        with path.open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
        if len(content) > _MAX_BYTES:
            raise InvalidRequest(
                f"{path} is longer than {_MAX_BYTES / 1e6:.0f} MB; no conversation is."
            )
        try:
            entries = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise InvalidRequest(f"{path} is not JSON: {error}.") from error
        if isinstance(entries, dict):
            entries = entries.get("messages")
        if not isinstance(entries, list):
            raise InvalidRequest(f"{path} holds no list of messages; /save writes such a file.")
        conversation = cls()
        for index, entry in enumerate(entries):
            conversation._append(entry, index=index, where=f"{path}: message {index + 1}")
        return conversation

    def _append(self, entry: object, *, index: int, where: str) -> None:
        if not isinstance(entry, dict):
            raise InvalidRequest(f"{where} is not an object with role and content.")
        role, content = entry.get("role"), entry.get("content")
        if role not in ("system", "user", "assistant"):
            raise InvalidRequest(
                f"{where} has role {role!r}; it must be system, user or assistant."
            )
        if not isinstance(content, str):
            raise InvalidRequest(f"{where} has content {content!r}; it must be a text.")
        require_text(f"{where}: content", content)
        if role == "assistant" and not content:
            raise InvalidRequest(f"{where} is an empty answer; the model's template has none.")
        if unknown := sorted(set(entry) - {"role", "content", "interrupted"}):
            raise InvalidRequest(
                f"{where} has the key {unknown[0]}; a chat here has role and content only."
            )
        is_cut = entry.get("interrupted", False)
        if not isinstance(is_cut, bool):
            raise InvalidRequest(f"{where} has interrupted {is_cut!r}; it must be true or false.")
        if role != "system":
            self.turns.append(Turn(role=role, content=content, is_interrupted=is_cut))
        elif index == 0:
            self.system = content
        else:
            raise InvalidRequest(f"{where} is a system message; only the first one may be.")
