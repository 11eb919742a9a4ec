"""What the routes work with: the model, its names, the embedder and the settings."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import TYPE_CHECKING

from mixtral.server.errors import ApiError
from mixtral.server.keys import KeyRing
from mixtral.server.metrics import Metrics
from mixtral.server.settings import ServerSettings

if TYPE_CHECKING:
    from mixtral.async_llm import AsyncLLM
    from mixtral.embed import AsyncEmbedder
    from mixtral.server.rag_store import RagStore

INVALID_MODEL_CODE = "1500"
"""Mistral's code for a model that it does not know."""

DEFAULT_EMBEDDER_NAME = "all-MiniLM-L6-v2"
"""The embedding model that needs no download."""

EMBEDDER_ALIASES = (
    "mistral-embed",
    "text-embedding-3-small",
    "text-embedding-3-large",
    "text-embedding-ada-002",
)
"""Names of Mistral's and OpenAI's embedding models; the served one answers to all of them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Service:
    """Everything that one application serves; made once, before the application."""

    llm: "AsyncLLM"
    """The model."""
    model_name: str
    """Its first name, as in ``GET /v1/models``."""
    aliases: Mapping[str, str]
    """More names of the model, each with the model's own."""
    embedder: "AsyncEmbedder | None"
    """Answers ``/v1/embeddings``; None: that path says how to get one."""
    settings: ServerSettings
    """Limits, times and allowed origins."""
    keys: KeyRing
    """Who may come in."""
    created: int
    """When the server started, Unix seconds; the age of its models."""
    adapters: Mapping[str, str] = field(default_factory=dict)
    """Names of adapters, in the order in which the model has them, each with its folder."""
    rag: "RagStore | None" = None
    """The documents of ``/v1/rag``; None: these paths say how to get some."""
    metrics: Metrics = field(default_factory=Metrics)
    """Counters; its ``observe_step`` is the ``on_step`` that the AsyncLLM is made with."""

    @property
    def chat_names(self) -> list[str]:
        """Names that the language model answers to as it is, its own first."""
        return [self.model_name, *(name for name in self.aliases if name != self.model_name)]

    @property
    def generating_names(self) -> list[str]:
        """Names under which text is made: the language model's, and those of its adapters."""
        return [*self.chat_names, *self.adapters]

    @property
    def embedder_names(self) -> list[str]:
        """Names that the embedder answers to, its own first; none without an embedder."""
        if self.embedder is None:
            return []
        own = self.settings.embedding_model or DEFAULT_EMBEDDER_NAME
        is_folder = own.startswith((".", "/", "~")) or own.count("/") > 1
        return [PurePath(own).name if is_folder else own, *EMBEDDER_ALIASES]

    def check_chat_model(self, name: str) -> None:
        """Refuse a name that neither the language model nor an adapter answers to.

        Raises:
            ApiError: 400 with Mistral's type and code, and the names there are.
        """
        if name not in self.generating_names:
            raise unknown_model(name, self.generating_names)

    def find_adapter(self, name: str) -> str | None:
        """Return the adapter that a name of a model stands for; None: the model as it is.

        Raises:
            ApiError: 400: nothing answers to the name.
        """
        self.check_chat_model(name)
        return name if name in self.adapters else None


def unknown_model(name: str, known: list[str], *, status: int = 400) -> ApiError:
    """Return the error for a name that nothing answers to."""
    return ApiError(
        status,
        f"Invalid model: {name}. This server has {', '.join(known)}; GET /v1/models lists them.",
        type="invalid_model",
        param="model",
        code=INVALID_MODEL_CODE,
    )
