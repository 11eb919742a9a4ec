"""The embedding model of the server: found at start, loaded by its first request."""

import asyncio

import pytest

from mixtral.errors import Error
from mixtral.server.lazy_embedder import LazyEmbedder


def test_missing_model_is_told_at_start() -> None:
    with pytest.raises(Error):
        LazyEmbedder("./no/such/folder")


@pytest.mark.slow
def test_model_is_loaded_by_the_first_request() -> None:
    pytest.importorskip("sentence_transformers", reason="the extra embed is not installed")

    async def scenario() -> None:
        lazy = LazyEmbedder(None)
        await asyncio.sleep(0.2)
        assert not lazy.is_loaded
        result = await lazy.embed(["one", "two"])
        assert lazy.is_loaded
        assert result.vectors.shape == (2, (await lazy.embedder()).dimension)
        await lazy.close()

    asyncio.run(scenario())
