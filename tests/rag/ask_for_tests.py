"""Passages of our own making, and a collection that holds documents in memory."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mixtral.errors import ConfigError
from mixtral.rag.records import AddedDocument, Passage, StoredDocument

INT4 = "Two values share a byte. The first is in the low four bits. A group of 128 has one scale."
CATS = "Cats sleep most of the day. The old cat of the station is black."


def passage(text: str = INT4, **changes: Any) -> Passage:
    fields: dict[str, Any] = {
        "id": 1,
        "document_id": "0123456789abcdef",
        "source": "/docs/packing.md",
        "title": "packing.md",
        "page": None,
        "start": 100,
        "end": 100 + len(text),
        "heading": None,
        "text": text,
        "score": 1.0,
        "similarity": 0.8,
    }
    return Passage(**(fields | changes))


class FakeCollection:
    """Holds a document per name; a search gives each document once, as a single passage."""

    def __init__(
        self, embed: "Callable[[Sequence[str]], NDArray[np.float32]] | None" = None
    ) -> None:
        self.texts: dict[str, str] = {}
        self.similarity = 0.8
        self.num_adding = 0
        self.most_adding = 0
        self.is_closed = False
        self.on_add: Callable[[], None] = lambda: None
        self._embed = embed

    def add_bytes(self, name: str, data: bytes) -> AddedDocument:
        self.num_adding += 1
        self.most_adding = max(self.most_adding, self.num_adding)
        self.on_add()
        self.num_adding -= 1
        if b"\x00" in data:
            reason = "it is no text."
            return self._added(name, "refused", reason=reason)
        status = "updated" if name in self.texts else "added"
        self.texts[name] = data.decode()
        return self._added(name, status)

    def documents(self) -> list[StoredDocument]:
        return [
            StoredDocument(
                document_id=self._id(name),
                source=name,
                title=name,
                num_chunks=1,
                num_characters=len(text),
                num_pages=None,
                added_at=1_700_000_000.5,
                sha256="0" * 64,
            )
            for name, text in self.texts.items()
        ]

    def text_of(self, document_id: str) -> str:
        return next(text for name, text in self.texts.items() if self._id(name) == document_id)

    def remove(self, names: Sequence[str]) -> int:
        for name in names:
            known = [own for own in self.texts if name in (own, self._id(own))]
            if not known:
                raise ConfigError(f"there is no document {name}.")
            del self.texts[known[0]]
        return len(names)

    def search(self, question: str, *, limit: int = 4) -> list[Passage]:
        if self._embed is not None:
            assert self._embed([question]).shape[0] == 1
        return [
            passage(
                text,
                id=number,
                document_id=self._id(name),
                source=name,
                title=name,
                start=0,
                end=len(text),
                similarity=self.similarity,
            )
            for number, (name, text) in enumerate(self.texts.items(), start=1)
        ][:limit]

    def close(self) -> None:
        self.is_closed = True

    def _added(self, name: str, status: Any, reason: str | None = None) -> AddedDocument:
        return AddedDocument(
            source=name,
            document_id=self._id(name),
            title=name,
            status=status,
            num_chunks=int(status != "refused"),
            reason=reason,
        )

    @staticmethod
    def _id(name: str) -> str:
        return name.encode().hex().ljust(16, "0")[:16]
