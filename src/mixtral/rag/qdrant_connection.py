"""A connection to Qdrant: from a URL to a client, and from its errors to ours."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from mixtral.errors import ConfigError, UnsupportedError
from mixtral.rag.qdrant_points import INSTALL

if TYPE_CHECKING:
    from qdrant_client import QdrantClient

INSIDE = "qdrant://"
"""What a URL begins with that means Qdrant inside this process."""
_DEFAULT_NAME = "mixtral"
_TIMEOUT_S = 30


def connect(url: str) -> "tuple[QdrantClient, str]":
    """Return a client, and the name of the collection.

    Args:
        url: ``http(s)://HOST:PORT/NAME`` or ``qdrant://FOLDER``.

    Raises:
        ConfigError: It is no such URL.
        UnsupportedError: The extra ``qdrant`` is not installed.
    """
    try:
        from qdrant_client import QdrantClient
    except ImportError:
        raise UnsupportedError(f"{url} needs qdrant-client: {INSTALL}") from None
    if url.startswith(INSIDE):
        folder = url.removeprefix(INSIDE)
        if not folder:
            raise ConfigError(f"{url} names no folder; write qdrant://FOLDER.")
        path = os.path.abspath(os.path.expanduser(folder))
        return QdrantClient(path=path, force_disable_check_same_thread=True), _DEFAULT_NAME
    try:
        parts = urlsplit(url)
        is_address = bool(parts.hostname) and parts.port != 0
    except ValueError:  # Brackets that do not close, a port that is no number or too large.
        is_address = False
    if not is_address or "/" in parts.path.strip("/"):
        raise ConfigError(f"{url} is no place for a collection; write http://HOST:6333/NAME.")
    name = parts.path.strip("/") or _DEFAULT_NAME
    server = f"{parts.scheme}://{parts.netloc}"
    key = os.environ.get("QDRANT_API_KEY")
    client = QdrantClient(url=server, api_key=key, timeout=_TIMEOUT_S, check_compatibility=False)
    return client, name


@contextmanager
def explained_errors(url: str) -> Iterator[None]:
    """Say what Qdrant's errors mean for the user.

    Raises:
        ConfigError: In place of any error of Qdrant's.
    """
    try:
        from qdrant_client.http.exceptions import ApiException
    except ImportError:
        raise UnsupportedError(f"{url} needs qdrant-client: {INSTALL}") from None
    try:
        yield
    except (ApiException, RuntimeError, OSError) as error:
        line = " ".join(str(error).split())[:200].rstrip(".")
        raise ConfigError(f"Qdrant at {url} cannot be used: {line}.") from error
