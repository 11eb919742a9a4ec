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

_SHAPE = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
)


def published_context(fields: Mapping[str, Any]) -> int:
    """Return the context of the published model of this geometry, 32768 where there is none.

    The vocabulary does not count: 8x22B was published with two of them.
    """
    for preset in PRESETS.values():
        if all(fields[name] == preset[name] for name in _SHAPE):
            return int(preset["max_position_embeddings"])
    return 32768
