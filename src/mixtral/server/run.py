"""Starts the server behind an open door: the model, and the application around it.

Nobody listens before the model is there, so whoever can connect is answered. What is not needed for
that comes afterwards: the libraries of the chat template on a thread, the embedding model with its
first request. How the server stops is told in ``lifecycle``.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from mixtral.async_llm import AsyncLLM
from mixtral.engine import SamplingParams
from mixtral.errors import Error
from mixtral.server.app import create_app
from mixtral.server.lazy_embedder import LazyEmbedder
from mixtral.server.lifecycle import run_app
from mixtral.server.listen import Door
from mixtral.server.metrics import Metrics
from mixtral.server.middleware import protect
from mixtral.server.rag_store import RagStore
from mixtral.server.service import Service
from mixtral.server.settings import ServerSettings

if TYPE_CHECKING:
    from mixtral.llm import LLM

logger = logging.getLogger(__name__)

_CLOSE_TIMEOUT_S = 10.0  # A step of a large model on a CPU takes seconds.


def serve(
    load: Callable[[], "LLM"],
    settings: ServerSettings,
    door: Door,
    *,
    model: str,
    on_ready: Callable[[str, str], None],
) -> None:
    """Serve a model until a signal says to stop.

    Args:
        load: Loads the model.
        settings: How to serve it.
        door: Keys, sockets and certificate of these settings.
        model: What the user calls the model.
        on_ready: Called with the name of the model and the address of the server once requests
            are answered.

    Raises:
        ConfigError: An alias, an adapter's name, the embedding model or the folder of documents
            does not fit.
        EngineDead: The engine failed while serving.
        Error: The model could not be loaded.
    """
    name = settings.served_model_name or api_name(model)
    aliases = settings.aliases_for(name)
    settings.check_adapter_names(name)
    metrics = Metrics()
    embedder = _find_embedder(settings)
    # Before the model, which may take minutes.
    rag = (
        RagStore.open(settings.rag, embedder, max_upload_bytes=settings.max_upload_bytes)
        if settings.rag is not None
        else None
    )
    llm = AsyncLLM(load(), max_waiting=settings.max_waiting, on_step=metrics.observe_step)
    service = Service(
        llm=llm,
        model_name=name,
        aliases=aliases,
        embedder=embedder,
        settings=settings,
        keys=door.keys,
        created=int(time.time()),
        adapters=settings.adapters,
        rag=rag,
        metrics=metrics,
    )

    def ready() -> None:
        threading.Thread(target=_warm_up, args=(llm,), daemon=True).start()
        on_ready(name, door.url)

    run_app(
        lambda traffic: protect(
            create_app(service),
            settings=settings,
            keys=door.keys,
            traffic=traffic,
            on_request=metrics.observe_request,
        ),
        settings,
        sockets=door.sockets,
        context=door.context,
        on_ready=ready,
        on_reload=door.keys.reload,
        on_stop=lambda: _close(service),
        is_alive=lambda: llm.is_alive,
    )


def api_name(model: str) -> str:
    """Return the name in the API of a model that has no other.

    >>> api_name("mistralai/Mixtral-8x7B-Instruct-v0.1"), api_name("/models/mix.gguf")
    ('Mixtral-8x7B-Instruct-v0.1', 'mix')
    """
    name = Path(model.partition("@")[0]).expanduser().resolve().name
    return name.removesuffix(".gguf")


def _find_embedder(settings: ServerSettings) -> LazyEmbedder | None:
    if settings.embedding_model == "none":
        return None
    try:
        return LazyEmbedder(settings.embedding_model)
    except Error as error:
        if settings.embedding_model is not None:
            raise
        logger.info("no embeddings: %s", error)
        return None


def _warm_up(llm: AsyncLLM) -> None:
    """Import what the first chat would have to wait for."""
    # A model without a tokenizer serves completions of token ids.
    with suppress(Error):
        llm.requests.chat([{"role": "user", "content": "Hello"}], SamplingParams(max_tokens=1))


async def _close(service: Service) -> None:
    try:
        async with asyncio.timeout(_CLOSE_TIMEOUT_S):
            await service.llm.close()
            # One that is being loaded, perhaps downloaded, ends with the process.
            if service.embedder is not None and service.embedder.is_loaded:
                await service.embedder.close()
            if service.rag is not None:
                await service.rag.close()
    except TimeoutError:
        logger.warning("the engine did not stop within %g s", _CLOSE_TIMEOUT_S)
