"""Where a collection is: a folder, or a Qdrant server, by what its location looks like."""

from pathlib import Path

from mixtral.errors import ConfigError
from mixtral.rag.settings import CollectionSettings
from mixtral.rag.store import Store


def open_store(location: str | Path, *, create: bool, settings: CollectionSettings) -> Store:
    """Open a collection, or make it.

    Args:
        location: A folder; ``qdrant://FOLDER`` for Qdrant inside this process; or
            ``http(s)://HOST:PORT/NAME`` for a Qdrant server.
        create: Whether to make what is not there.
        settings: Those of a new one, or what is to be different in an old one.

    Raises:
        ConfigError: There is no collection, or it cannot be opened.
        UnsupportedError: The extra ``rag`` is not installed.
    """
    text = str(location)
    if isinstance(location, str) and text.startswith(("qdrant://", "http://", "https://")):
        from mixtral.rag.qdrant import QdrantStore

        return QdrantStore(text, create=create, settings=settings)
    if not text.strip() or "\0" in text or "://" in text:
        raise ConfigError(
            f"{text!r} is no place for a collection; name a folder, qdrant://FOLDER or "
            "http(s)://HOST:PORT/NAME."
        )
    from mixtral.rag.local_store import LocalStore

    try:
        folder = Path(location).expanduser().absolute()
    except RuntimeError:
        raise ConfigError(f"{text} begins with the home of nobody here; write it out.") from None
    return LocalStore(folder, create=create, settings=settings)
