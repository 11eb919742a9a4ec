"""Grouped-query self-attention with rotary positions, with or without a KV cache."""

import torch
from torch import Tensor, nn

from mixtral.config import ModelConfig
from mixtral.kernels import grouped
from mixtral.model.adapted_rows import AdaptedRows, run_linear
from mixtral.model.batch import TokenBatch
from mixtral.model.kv_cache import KVCache


class Attention(nn.Module):
    """Projections to H query heads and G key and value heads, attention, projection back.

    Source: arXiv:2310.06825, section 2; rotary pairs are Hugging Face's split halves.
    """

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.config = config
        self.layer = layer
        query_width = config.num_attention_heads * config.head_dim
        key_width = config.num_key_value_heads * config.head_dim
        self.q_proj = nn.Linear(config.hidden_size, query_width, bias=False)
        self.k_proj = nn.Linear(config.hidden_size, key_width, bias=False)
        self.v_proj = nn.Linear(config.hidden_size, key_width, bias=False)
        self.o_proj = nn.Linear(query_width, config.hidden_size, bias=False)

    def forward(
        self,
        x: Tensor,
        rotary: tuple[Tensor, Tensor],
        batch: TokenBatch,
        cache: KVCache | None,
        adapted: AdaptedRows | None = None,
    ) -> Tensor:
        """Return [T, D] for token states [T, D]; writes the new keys and values to ``cache``."""
        heads = (-1, self.config.head_dim)
        path = f"model.layers.{self.layer}.self_attn"
        query, key, value = (
            run_linear(projection, x, f"{path}.{name}", adapted).unflatten(-1, heads)
            for name, projection in (  # [T, H or G, K]
                ("q_proj", self.q_proj),
                ("k_proj", self.k_proj),
                ("v_proj", self.v_proj),
            )
        )
        query = grouped.apply_rotary(query, *rotary)
        key = grouped.apply_rotary(key, *rotary)
        window = self.config.sliding_window
        if cache is None:
            out = grouped.attention(query, key, value, batch.starts, window)
        else:
            if batch.slot_mapping is None:
                raise ValueError("slot_mapping is None; a pass with a KV cache needs it.")
            cache.write(self.layer, key, value, batch.slot_mapping)
            out = self._attend_cache(query, batch, cache)
        return run_linear(self.o_proj, out.flatten(-2), f"{path}.o_proj", adapted)

    def _attend_cache(self, query: Tensor, batch: TokenBatch, cache: KVCache) -> Tensor:
        window = self.config.sliding_window
        num_sequences = len(batch.context_lens)
        if query.is_cuda and query.shape[0] == num_sequences > 1:
            width = max(len(table) for table in batch.block_tables)
            padded = [[*t, *[t[0]] * (width - len(t))] for t in batch.block_tables]
            tables = torch.tensor(padded, device=query.device)
            lens = torch.tensor(batch.context_lens, device=query.device)
            key, value = cache.read_padded(self.layer, tables)
            return grouped.padded_decode_attention(query, key, value, lens, window)
        parts = []
        for i in range(num_sequences):
            key, value = cache.read(self.layer, batch.block_tables[i], batch.context_lens[i])
            new = query[batch.starts[i] : batch.starts[i + 1]]
            parts.append(grouped.cached_attention(new, key, value, window))
        return torch.cat(parts) if num_sequences > 1 else parts[0]
