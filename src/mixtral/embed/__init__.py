"""Texts to vectors: a sentence-transformers model, blocking or behind an asyncio queue.

``Embedder`` loads a model and turns a list of texts, or of lists of token ids, into unit vectors.
``AsyncEmbedder`` runs one on a thread of its own and joins requests that arrive together.
docs/embeddings.md says which models fit and what the numbers in an answer mean.
"""

from mixtral.embed.async_embedder import AsyncEmbedder
from mixtral.embed.embedder import Embedder, Embeddings

__all__ = ["AsyncEmbedder", "Embedder", "Embeddings"]
