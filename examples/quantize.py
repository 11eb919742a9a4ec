"""Fewer bits per weight: how much smaller a model gets, and how far its predictions move.

Weights are packed while they are read; ``mixtral convert MODEL FOLDER --quantization int4`` keeps
the result. nano gains little: packed, its embedding is no longer its head, and counts twice.
docs/quantization.md has the formats, byte by byte.
"""

import os

from mixtral import LLM
from mixtral.quantization import RECIPES

MODEL = os.environ.get("MIXTRAL_MODEL", "nano")
TEXT = "A mixture of experts has many small networks, and a router that picks two for each token."

llm = LLM(MODEL)
token_ids = llm.tokenizer.encode(TEXT)
wanted = llm.logits(token_ids).log_softmax(dim=-1)  # [T, V]
size = llm.config.weight_bytes("bfloat16")
print(f"bfloat16: {size / 1e6:8.1f} MB")

for name, recipe in RECIPES.items():
    got = LLM(MODEL, quantization=name).logits(token_ids).log_softmax(dim=-1)
    # How much is lost by taking the packed model's word for it, in nats per token.
    divergence = (wanted.exp() * (wanted - got)).sum(dim=-1).mean().item()
    same = (wanted.argmax(dim=-1) == got.argmax(dim=-1)).float().mean().item()
    size = recipe.packed_bytes(llm.config)
    print(
        f"{name:>8}: {size / 1e6:8.1f} MB, divergence {divergence:.4f} nats, "
        f"same next token {same:.0%}"
    )
