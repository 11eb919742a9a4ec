"""Calibrate one decoder layer: attention first, then its experts, one at a time.

Each matrix meets the inputs that it will have: the states come from the layers before as they were
rounded, o_proj sees the values of the rounded v_proj, w2 the products of the rounded w1 and w3. An
expert's inputs are those tokens alone that the router sends to it, weighted by its share in their
sum, because that is how much its error will count.
"""

from collections.abc import Iterable, Iterator
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional

from mixtral.calibrate.draw import DrawnText
from mixtral.calibrate.rounding import Rounder, borrowed_moments, second_moments
from mixtral.config import ModelConfig
from mixtral.kernels import grouped, reference
from mixtral.model import TokenBatch
from mixtral.model.moe import Expert, SparseMoe
from mixtral.model.transformer import DecoderLayer

Routed = tuple[Tensor, Tensor, Tensor]
"""Tokens of a batch that go to one expert: their states [n, D], places [n] and weights [n, 1]."""


class LayerCalibrator:
    """Rounds one layer and moves the states of all batches through it.

    Args:
        layer: The layer, full precision; it is not changed.
        index: Its number.
        config: Geometry.
        text: What the model reads.
        states: Inputs of the layer, one [T, D] per batch; replaced by its outputs.
        rounder: Rounds weights and keeps them for the caller.
        min_tokens: An expert with fewer tokens borrows from its layer.
    """

    def __init__(
        self,
        layer: DecoderLayer,
        index: int,
        *,
        config: ModelConfig,
        text: DrawnText,
        states: list[Tensor],
        rounder: Rounder,
        min_tokens: int,
    ) -> None:
        self._layer = layer
        self._prefix = f"model.layers.{index}"
        self._config = config
        self._text = text
        self._states = states
        self._rounder = rounder
        self._min_tokens = min_tokens

    @torch.no_grad()
    def attention(self) -> None:
        """Round q, k, v and o and add the attention's output to the states."""
        attention = self._layer.self_attn
        normed = [self._layer.input_layernorm(x) for x in self._states]
        names = [f"{self._prefix}.self_attn.{part}_proj.weight" for part in "qkvo"]
        factor = self._factor(normed, *names[:3])
        weights = (attention.q_proj.weight, attention.k_proj.weight, attention.v_proj.weight)
        projections = [
            self._rounder.round(name, weight, factor)
            for name, weight in zip(names, weights, strict=False)
        ]
        mixed = [
            self._attend(x, batch, projections)
            for x, batch in zip(normed, self._text.batches, strict=True)
        ]
        factor = self._factor(mixed, names[3])
        output = self._rounder.round(names[3], attention.o_proj.weight, factor)
        for i, values in enumerate(mixed):
            self._states[i] = self._states[i] + functional.linear(values, output)

    def experts(self) -> Iterator[int]:
        """Round the experts and add their outputs to the states; yield each one's tokens."""
        moe = self._layer.block_sparse_moe
        with torch.no_grad():
            normed = [self._layer.post_attention_layernorm(x) for x in self._states]
            routed = [self._route(moe, x) for x in normed]
            sums = [torch.zeros(x.shape, dtype=torch.float32, device=x.device) for x in normed]
        for index, expert in enumerate(moe.experts):
            with torch.no_grad():
                parts = [_tokens_of(index, x, *r) for x, r in zip(normed, routed, strict=True)]
                self._expert(index, cast(Expert, expert), normed, parts, sums)
            yield sum(len(states) for states, _, _ in parts)
        for i, total in enumerate(sums):
            self._states[i] = self._states[i] + total.to(self._states[i].dtype)

    def _attend(self, x: Tensor, batch: TokenBatch, projections: list[Tensor]) -> Tensor:
        """Return the attention's values before o_proj, [T, H * K]."""
        config = self._config
        rotary = reference.rotary_tables(batch.positions, config.head_dim, config.rope_theta)
        query, key, value = (
            functional.linear(x, weight).unflatten(-1, (-1, config.head_dim))
            for weight in projections
        )
        query, key = grouped.apply_rotary(query, *rotary), grouped.apply_rotary(key, *rotary)
        out = grouped.attention(query, key, value, batch.starts, config.sliding_window)
        return out.flatten(-2)

    def _route(self, moe: SparseMoe, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return routing weights and expert ids, [T, A]; a dense layer has expert 0 alone."""
        if self._config.is_dense:
            ones = torch.ones(len(x), 1, device=x.device)
            return ones, ones.new_zeros(ones.shape, dtype=torch.int64)
        logits = functional.linear(x.float(), moe.gate.weight.float())
        return grouped.route(logits, self._config.num_experts_per_tok)

    def _expert(
        self,
        index: int,
        expert: Expert,
        normed: list[Tensor],
        parts: list[Routed],
        sums: list[Tensor],
    ) -> None:
        """Round one expert and add its weighted outputs to ``sums``."""
        stem = f"{self._prefix}.block_sparse_moe.experts.{index}"
        names = [f"{stem}.{part}.weight" for part in ("w1", "w2", "w3")]
        num_own = sum(len(states) for states, _, _ in parts)
        inputs = (x * g for x, _, g in parts)
        factor = self._expert_factor(inputs, num_own, normed, names[0], names[2])
        w1 = self._rounder.round(names[0], expert.w1.weight, factor)
        w3 = self._rounder.round(names[2], expert.w3.weight, factor)

        def hidden(x: Tensor) -> Tensor:
            return functional.silu(functional.linear(x, w1)) * functional.linear(x, w3)

        inputs = (hidden(x) * g for x, _, g in parts)
        factor = self._expert_factor(inputs, num_own, (hidden(x) for x in normed), names[1])
        w2 = self._rounder.round(names[1], expert.w2.weight, factor)
        for total, (x, places, g) in zip(sums, parts, strict=True):
            total.index_add_(0, places, functional.linear(hidden(x), w2).float() * g)

    def _factor(self, inputs: Iterable[Tensor], *names: str) -> Tensor | None:
        """Return what rounding needs of inputs, where one of the weights needs it."""
        if not self._rounder.wants(*names):
            return None
        return self._rounder.factor(second_moments(inputs))

    def _expert_factor(
        self, own: Iterable[Tensor], num_own: int, layer: Iterable[Tensor], *names: str
    ) -> Tensor | None:
        """As ``_factor`` for an expert, which borrows from the layer's inputs if it is starved."""
        if not self._rounder.wants(*names):
            return None
        moments = second_moments(own)
        if num_own < self._min_tokens:
            of_layer = second_moments(layer)
            moments = borrowed_moments(
                moments, num_own=num_own, layer=of_layer, num_layer=self._text.num_tokens
            )
        return self._rounder.factor(moments)


def _tokens_of(expert: int, x: Tensor, routing_weights: Tensor, expert_ids: Tensor) -> Routed:
    places, choice = (expert_ids == expert).nonzero(as_tuple=True)
    return x[places], places, routing_weights[places, choice, None]
