"""Published geometries by name: what ``ModelConfig.preset`` fills in.

Sources: arXiv:2401.04088, table 1 (8x7b); the config.json of mistralai/Mixtral-8x22B-Instruct-v0.1
(8x22b) and mistralai/Mistral-7B-v0.1 (7b); recipes/nano of this project (nano).
"""

from collections.abc import Mapping
from typing import Any

PRESETS: Mapping[str, Mapping[str, Any]] = {
    "8x7b": {
        "vocab_size": 32000,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "max_position_embeddings": 32768,
    },
    "8x22b": {
        "vocab_size": 32768,
        "hidden_size": 6144,
        "intermediate_size": 16384,
        "num_hidden_layers": 56,
        "num_attention_heads": 48,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "max_position_embeddings": 65536,
        "router_aux_loss_coef": 0.001,
    },
    "7b": {
        "vocab_size": 32000,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "num_local_experts": 0,
        "num_experts_per_tok": 0,
        "max_position_embeddings": 32768,
        "rope_theta": 1e4,
        "sliding_window": 4096,
    },
    "nano": {
        "vocab_size": 32768,
        "hidden_size": 256,
        "intermediate_size": 96,
        "num_hidden_layers": 8,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 64,
        "max_position_embeddings": 8192,
        "rope_theta": 1e10,
        "tie_word_embeddings": True,
    },
}
