"""What a step has to do at least: the experts that it reads and the operations that it takes."""

from collections.abc import Sequence

import torch
from torch import Tensor

from mixtral.config import ModelConfig
from mixtral.model import LanguageModel


def count_experts_per_step(
    model: LanguageModel, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]
) -> tuple[float, float]:
    """Count the experts that the steps of a greedy run read, from the routers themselves.

    The whole sequences run once more, untimed, with a recorder. In a step the batch reads each
    expert that one of its tokens chose once: with 8 sequences and 2 of 8 experts per token that
    is about 7 per layer, not 16 and not 8.

    Args:
        model: The model that answered.
        prompts: S prompts of equal length.
        answers: The S answers; the last token of each was never run.

    Returns:
        Distinct experts of all layers together: in the prefill step, and the mean over the decode
        steps (0 where there were none).
    """
    num_layers, num_prompt = model.config.num_hidden_layers, len(prompts[0])
    num_decode_steps = len(answers[0]) - 1
    if model.config.is_dense:
        return float(num_layers), float(num_layers if num_decode_steps else 0)
    sequences = [[*p, *a[:-1]] for p, a in zip(prompts, answers, strict=True)]
    chosen = torch.stack([model.route(ids).expert_ids.cpu() for ids in sequences])  # [S, T, L, A]
    decode_counts = [
        count_distinct(chosen[:, num_prompt + step]) for step in range(num_decode_steps)
    ]
    mean = sum(decode_counts) / len(decode_counts) if decode_counts else 0.0
    return float(count_distinct(chosen[:, :num_prompt].flatten(0, 1))), mean


def count_distinct(expert_ids: Tensor) -> int:
    """Sum over layers of the distinct experts in [T, L, A]."""
    return sum(len(layer.unique()) for layer in expert_ids.unbind(1))


def count_operations(
    config: ModelConfig, *, batch: int, new_tokens: int, context_tokens: int
) -> int:
    """Return the operations of one step, a multiply-add counted as two.

    Args:
        config: Geometry.
        batch: S, sequences.
        new_tokens: Tokens that each runs in the step; the head runs on the last of them only.
        context_tokens: Tokens that each has seen after the step.
    """
    head = config.vocab_size * config.hidden_size
    embeddings = head if config.tie_word_embeddings else 2 * head
    per_token = config.num_active_parameters - embeddings
    # New token i sees itself and all before it: the sum of an arithmetic series.
    pairs = new_tokens * (2 * context_tokens - new_tokens + 1) // 2
    attention = 2 * pairs * config.num_attention_heads * config.head_dim
    layers = config.num_hidden_layers
    return 2 * batch * (new_tokens * per_token + head + layers * attention)
