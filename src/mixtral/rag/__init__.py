"""Retrieval: a folder of documents that can be asked, with answers that say where they stand.

``Collection`` reads documents, cuts them into passages, and finds the passages for a question by
meaning and by words. ``Ask`` makes a prompt of them and reads the citations in the answer.
docs/rag.md begins with a PDF and ends with an answer.

Names are imported when they are first used: the process that reads documents imports one module of
this package and should start in a blink.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mixtral.rag.ask import Ask, Citation, RagAnswer
    from mixtral.rag.collection import Collection
    from mixtral.rag.limits import Limits
    from mixtral.rag.records import AddedDocument, Passage, StoredDocument
    from mixtral.rag.settings import CollectionSettings

__all__ = [
    "AddedDocument",
    "Ask",
    "Citation",
    "Collection",
    "CollectionSettings",
    "Limits",
    "Passage",
    "RagAnswer",
    "StoredDocument",
]

_MODULES = {
    "AddedDocument": "records",
    "Ask": "ask",
    "Citation": "ask",
    "Collection": "collection",
    "CollectionSettings": "settings",
    "Limits": "limits",
    "Passage": "records",
    "RagAnswer": "ask",
    "StoredDocument": "records",
}


def __getattr__(name: str) -> object:
    """Import a name on first use (PEP 562)."""
    if name in _MODULES:
        value: object = getattr(import_module(f"mixtral.rag.{_MODULES[name]}"), name)
        return value
    raise AttributeError(f"module 'mixtral.rag' has no attribute {name!r}")
