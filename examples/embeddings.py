"""Embeddings: texts as vectors, near where the meanings are near.

They come from an embedding model (all-MiniLM-L6-v2, in the extra ``embed``), not from Mixtral.
"""

from mixtral.embed import Embedder

TEXTS = ["Is Messi better than Zidane?", "How about Ronaldo?", "Bring the oven to 200 degrees."]

embedder = Embedder()  # or a folder, or a hub id such as BAAI/bge-m3
result = embedder.embed(TEXTS)
print(f"{embedder.name}: {len(result.vectors)} vectors of {embedder.dimension} components")

# All vectors have length 1, so the product of two is the cosine of the angle between them.
cosines = result.vectors @ result.vectors.T
for text, row in zip(TEXTS, cosines, strict=True):
    print("  ".join(f"{cosine:5.2f}" for cosine in row), "", text)
