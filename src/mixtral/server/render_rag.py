"""Documents, passages and answers from them as JSON."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from mixtral.outputs import CompletionChunk, Usage
from mixtral.rag.ask import Ask
from mixtral.rag.prompt import RagPrompt
from mixtral.server.answers import Answer
from mixtral.server.errors import ApiError
from mixtral.server.render import stream_error_json

if TYPE_CHECKING:
    from mixtral.rag import AddedDocument, Passage, StoredDocument


class RagRenderer:
    """Writes one answer from documents, whole or in pieces.

    Args:
        settings: Reads the citations.
        prompt: What the model was asked.
        question: The question in it.
    """

    def __init__(self, settings: Ask, prompt: RagPrompt, question: str) -> None:
        self._settings = settings
        self._prompt = prompt
        self._question = question
        self._answer = Answer(index=0)

    def whole(self, answers: Sequence[Answer], usage: Usage) -> dict[str, Any]:
        """Return the body of an answer that is not streamed."""
        answer = self._settings.read(
            answers[0].text,
            self._prompt,
            question=self._question,
            usage=usage,
            finish_reason=answers[0].finish_reason,
        )
        return answer.as_dict()

    def begin(self, index: int) -> None:
        """Return nothing: the passages have gone out before."""

    def piece(self, chunk: CompletionChunk, usage: Usage | None) -> dict[str, Any] | None:
        """Return the new text, if there is some."""
        self._answer.push(chunk)
        return {"object": "rag.delta", "text": chunk.text} if chunk.text else None

    def usage_only(self, usage: Usage) -> dict[str, Any]:
        """Return the whole answer, which ends the stream."""
        return self.whole([self._answer], usage)

    def failure(self, error: ApiError) -> dict[str, Any]:
        """Return the piece that tells of an error after the stream began."""
        return {"object": "rag.error", "error": stream_error_json(error)}


def passages_json(passages: "Sequence[Passage]") -> dict[str, Any]:
    """Return the first event of a stream."""
    return {"object": "rag.passages", "data": [asdict(passage) for passage in passages]}


def document_json(document: "StoredDocument") -> dict[str, Any]:
    """Return a document of the list."""
    return {
        "object": "rag.document",
        "id": document.document_id,
        "source": document.source,
        "title": document.title,
        "num_chunks": document.num_chunks,
        "num_characters": document.num_characters,
        "num_pages": document.num_pages,
        "added_at": document.added_at,
    }


def added_json(added: "AddedDocument") -> dict[str, Any]:
    """Return what became of one upload."""
    return {
        "id": added.document_id,
        "source": added.source,
        "title": added.title,
        "status": added.status,
        "num_chunks": added.num_chunks,
        "reason": added.reason,
    }
