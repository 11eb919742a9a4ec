"""The model that these tests write and read."""

import pytest

from mixtral.config import ModelConfig


@pytest.fixture
def tiny_config() -> ModelConfig:
    """Two layers, four experts, grouped heads: a Mixtral that fits into a test."""
    return ModelConfig(
        vocab_size=96,
        hidden_size=32,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        num_local_experts=4,
        num_experts_per_tok=2,
        max_position_embeddings=512,
        dtype="float32",
    )
