"""How much memory a process that runs a model will take, before anything is loaded.

Weights and KV cache follow from the geometry; the rest is small beside them and was measured:
interpreter, PyTorch and tokenizer, and the states of one step.
"""

from typing import cast

from mixtral.config import BYTES_PER_ELEMENT, DType, ModelConfig

CACHE_SHARE = 0.3
"""What the KV cache takes of the memory that is free beside the weights, unless it is given."""

STEP_TOKENS = 512
"""Tokens of the largest step on a CPU."""

# Resident size of a process that has answered a prompt with nano, less nano's weights.
_PROCESS_BYTES = 390_000_000
# A token's codes at 8 bits, with one float32 scale, sum and bias per 128 channels.
_BYTES_PER_CHANNEL = 140 / 128


def cache_dtype(weight_format: str) -> DType:
    """Return the type of cached keys and values of weights in a dtype or a low-bit format."""
    return cast(DType, weight_format) if weight_format in BYTES_PER_ELEMENT else "bfloat16"


def peak_bytes(
    config: ModelConfig, *, weight_bytes: int, context: int, kv_dtype: DType = "bfloat16"
) -> int:
    """Predict the peak resident memory on a CPU.

    Args:
        config: The model.
        weight_bytes: Bytes of all weights in their format.
        context: Tokens of context that are filled, all sequences together.
        kv_dtype: Type of cached keys and values.

    Returns:
        Bytes: weights, keys and values, the states of a step, and the process itself.
    """
    tokens = min(context, STEP_TOKENS)
    slots = tokens * max(1, config.num_experts_per_tok)
    # Rows and tiles of the experts' inputs and hidden layers.
    channels = config.hidden_size + config.intermediate_size
    states = 2 * slots * channels * _BYTES_PER_CHANNEL + 6 * tokens * config.hidden_size * 4
    kv_bytes = context * config.kv_bytes_per_token(kv_dtype)
    return round(weight_bytes + kv_bytes + states + _PROCESS_BYTES)
