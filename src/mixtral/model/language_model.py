"""What the engine and everything above it needs of a model, whoever computes it.

Two models have it: ``Transformer`` (PyTorch: any device, any float dtype, gradients) and
``CpuTransformer`` (C++: bfloat16 and low-bit weights on a CPU).
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch
from torch import Tensor

from mixtral.config import ModelConfig
from mixtral.model.adapter import Adapter
from mixtral.model.batch import TokenBatch
from mixtral.model.router_trace import ExpertLoad, RouterTrace


class Cache(Protocol):
    """Block storage of keys and values; only the model that made it knows more."""

    block_size: int
    """P, tokens per block."""
    num_blocks: int
    """N, blocks in all."""


class LanguageModel(Protocol):
    """Token ids in, logits out."""

    config: ModelConfig

    @property
    def device(self) -> torch.device:
        """Where token ids are wanted."""

    @property
    def dtype(self) -> torch.dtype:
        """Type of cached keys and values."""

    @property
    def weight_bytes(self) -> int:
        """Bytes of all weights."""

    @property
    def weight_format(self) -> str:
        """How the weights are stored: a float dtype, or int8, int4 or int3 of packed experts."""

    @property
    def max_step_tokens(self) -> int:
        """Tokens beyond which a larger step takes memory and gains nothing."""

    def quiet_neighbours(self) -> AbstractContextManager[None]:
        """Return a context for steps and what lies between them, in which nothing disturbs them."""

    def cache_bytes(self, *, num_blocks: int, block_size: int) -> int:
        """Return the bytes of a cache of so many blocks."""

    def new_cache(self, *, num_blocks: int, block_size: int) -> Any:
        """Return an empty ``Cache`` for ``step``."""

    def set_adapters(self, adapters: Sequence[Adapter]) -> None:
        """Keep adapters beside the weights; ``TokenBatch.adapter_ids`` are places in this list.

        Raises:
            CheckpointError: One does not belong to a model of this geometry; nothing changes then.
        """

    def step(self, batch: TokenBatch, cache: Any, expert_load: ExpertLoad | None = None) -> Tensor:
        """Run new tokens of S sequences; return the logits that the batch asks for, [R, V].

        ``expert_load``, [L, E], is set to the visits of each expert in this step, where given.
        """

    def traced_step(self, batch: TokenBatch, cache: Any) -> tuple[Tensor, RouterTrace]:
        """Run a step and also return which experts every token visits in each layer."""

    def whole_logits(self, token_ids: Sequence[int], adapter: int | None = None) -> Tensor:
        """Return the logits after every token of one sequence, [T, V], float32."""

    def route(self, token_ids: Sequence[int], adapter: int | None = None) -> RouterTrace:
        """Return which experts every token of one sequence visits in each layer."""
