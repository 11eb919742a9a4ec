"""How much of the machine's arithmetic a training step uses.

Model FLOPs use (PaLM, arXiv:2204.02311, appendix B): the operations that the mathematics of a step
needs, over those that the machine could do in that time. Work that is done again to save memory
does not count. What the machine can do is measured, not looked up: a large matrix product of
the same precision on the same device.
"""

import math
import time
from itertools import pairwise

import torch

from mixtral.config import ModelConfig
from mixtral.model.batch import TokenBatch

_PROBE_SIZE = {"cpu": 1024, "cuda": 8192}
_PROBE_SECONDS = 0.2
_PROBE_EVERY_S = 60.0


def step_flops(
    config: ModelConfig, batch: TokenBatch, *, num_targets: int, num_words: int, is_full: bool
) -> float:
    """Return the operations of a forward and backward pass, a multiply-add as two.

    Args:
        config: The model.
        batch: T tokens of S sequences.
        num_targets: Tokens whose logits are made.
        num_words: Logits of each of them.
        is_full: Whether the gradients of all weights are made, not just those of adapters.
    """
    width, ffn = config.hidden_size, config.intermediate_size
    query, key = config.num_attention_heads, config.num_key_value_heads
    attention = 2 * width * (query + key) * config.head_dim
    router = 0 if config.is_dense else width * config.num_local_experts
    experts = 3 * width * ffn * (config.num_experts_per_tok or 1)
    tokens = batch.input_ids.numel()
    weights = config.num_hidden_layers * (attention + router + experts) * tokens
    weights += num_words * width * num_targets
    # Causal: half of the pairs, twice (scores and sums).
    pairs = sum((end - begin) ** 2 for begin, end in pairwise(batch.starts)) / 2
    scores = 2 * config.num_hidden_layers * query * config.head_dim * pairs
    per_weight = 6 if is_full else 4
    return float(per_weight * weights + 6 * scores)


class MatmulPeak:
    """The best rate of a large matrix product that was seen on a device.

    Measured again after a minute, because a machine that is busy at the start seems slow.

    Args:
        device: What computes.
        dtype: Precision of the product.
    """

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        self._device, self._dtype = device, dtype
        self._best = 0.0
        self._measured_at = -math.inf

    def flops(self) -> float:
        """Return operations per second; at most once a minute this takes a fifth of a second."""
        if time.monotonic() - self._measured_at > _PROBE_EVERY_S:
            self._best = max(self._best, _measure(self._device, self._dtype))
            self._measured_at = time.monotonic()
        return self._best


def _measure(device: torch.device, dtype: torch.dtype) -> float:
    size = _PROBE_SIZE.get(device.type, 4096)
    matrix = torch.ones(size, size, device=device, dtype=dtype)
    matrix @ matrix
    _synchronize(device)
    begin = time.perf_counter()
    rounds = 0
    while time.perf_counter() - begin < _PROBE_SECONDS:
        matrix @ matrix
        _synchronize(device)
        rounds += 1
    return rounds * 2 * size**3 / (time.perf_counter() - begin)


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
