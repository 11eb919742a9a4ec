"""Options of ``mixtral rag`` that its commands share: where the documents are, how they are cut."""

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mixtral.cli.console import spinner
from mixtral.cli.fields import read_fields
from mixtral.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from mixtral.embed import Embedder
    from mixtral.rag import Collection
    from mixtral.rag.chunking import CountTokens

_SETTINGS = read_fields("rag/settings.py", "CollectionSettings")


@dataclass(frozen=True, kw_only=True, slots=True)
class StoreOptions:
    """Where the documents are, and what turns their texts into vectors."""

    store: Annotated[
        str | None,
        typer.Option(
            "--store",
            envvar="MIXTRAL_RAG_STORE",
            help="Folder of the documents, or the URL of a Qdrant server.",
            show_default="mixtral/rag in the folder of user data",
        ),
    ] = None
    embedding_model: Annotated[
        str | None,
        typer.Option(
            "--embedding-model",
            envvar="MIXTRAL_EMBEDDING_MODEL",
            help="Folder or hub id of a sentence-transformers model; without it all-MiniLM-L6-v2.",
        ),
    ] = None

    @property
    def location(self) -> str:
        """The folder or the URL."""
        return str(default_store()) if self.store is None else self.store

    def open(self, *, create: bool = False, **settings: Any) -> "Collection":
        """Open the documents; the embedding model is loaded when the first vector is wanted.

        Args:
            create: Whether to make the store where it is not there.
            settings: Fields of ``CollectionSettings`` that are to be other than the store's.

        Raises:
            ConfigError: There is no such store, or the settings do not fit it.
            UnsupportedError: The extra ``rag`` or ``embed`` is not installed.
        """
        with spinner("starting"):
            from mixtral.embed.source import find_source
            from mixtral.rag import Collection, CollectionSettings
        embedder = _LazyEmbedder(self.embedding_model)
        return Collection(
            self.location,
            embed=embedder.embed,
            embedder_name=find_source(self.embedding_model).name,
            settings=CollectionSettings(**settings),
            create=create,
            count_tokens=embedder.count_tokens,
            max_chunk_tokens=embedder.max_chunk_tokens,
        )

    def open_without_model(self) -> "Collection":
        """Open the documents to look at them or to remove some, which needs no embedding model.

        Raises:
            ConfigError: There is no such store.
        """
        from mixtral.rag import Collection

        embedder = _LazyEmbedder(self.embedding_model)
        return Collection(self.location, embed=embedder.embed, embedder_name="none", create=False)


def _chunk_option(field: str) -> Any:
    default = _SETTINGS[field].default
    return typer.Option(
        "--" + field.replace("_", "-"),
        help=_SETTINGS[field].doc.replace("``", ""),
        show_default=False if default == "None" else f"{default} in a new store",
        rich_help_panel="Passages",
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class ChunkOptions:
    """How documents are cut into passages; without one, as the store was made."""

    chunk_tokens: Annotated[int | None, _chunk_option("chunk_tokens")] = None
    overlap_tokens: Annotated[int | None, _chunk_option("overlap_tokens")] = None
    chunk_characters: Annotated[int | None, _chunk_option("chunk_characters")] = None
    overlap_characters: Annotated[int | None, _chunk_option("overlap_characters")] = None

    def given(self) -> dict[str, Any]:
        """Return what was given.

        Raises:
            ConfigError: Sizes in tokens and in characters.
        """
        in_tokens = self.chunk_tokens is not None or self.overlap_tokens is not None
        if in_tokens and self.chunk_characters is not None:
            raise ConfigError(
                "--chunk-characters excludes --chunk-tokens and --overlap-tokens; leave one out."
            )
        return {name: value for name, value in asdict(self).items() if value is not None}


def default_store() -> Path:
    """Return the folder of documents where none is named: the same from wherever it is asked."""
    data = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(data) / "mixtral" / "rag"


class _LazyEmbedder:
    """An embedding model that is loaded when it is first needed.

    Args:
        model: As for ``Embedder``.
    """

    def __init__(self, model: str | None) -> None:
        self._name = model
        self._embedder: Embedder | None = None
        self._count: CountTokens | None = None

    def embed(self, texts: "Sequence[str]") -> "NDArray[np.float32]":
        """Return unit vectors [N, D]."""
        return self._loaded().embed(texts).vectors

    def count_tokens(self, texts: "Sequence[str]") -> list[int]:
        """Return how many tokens each text has for this model."""
        if self._count is None:
            from mixtral.rag.embedding import token_counter

            self._count = token_counter(self._loaded())
        return list(self._count(texts))

    def max_chunk_tokens(self) -> int:
        """Return the tokens of the longest passage that this model reads whole."""
        from mixtral.rag.embedding import longest_chunk

        return longest_chunk(self._loaded())

    def _loaded(self) -> "Embedder":
        if self._embedder is None:
            from mixtral.embed import Embedder

            self._embedder = Embedder(self._name)
        return self._embedder
