"""Small random models for tests."""

from mixtral.config import ModelConfig
from mixtral.model import Transformer, init_weights


def tiny_config(**changes: object) -> ModelConfig:
    """Return a Mixtral of 2 layers that a test can run in milliseconds."""
    fields: dict[str, object] = {
        "vocab_size": 512,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "max_position_embeddings": 256,
        "dtype": "float32",
    }
    return ModelConfig(**(fields | changes))  # type: ignore[arg-type]


def tiny_model(seed: int = 0, **changes: object) -> Transformer:
    """Return a tiny model with weights large enough that its logits differ clearly."""
    model = Transformer(tiny_config(**changes))
    init_weights(model, seed=seed, std=0.3)
    return model.requires_grad_(False).eval()
