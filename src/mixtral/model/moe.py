"""The sparse feed-forward layer: a router picks experts, each expert is a SwiGLU block.

Module names are those of the published checkpoints (``block_sparse_moe.gate``,
``block_sparse_moe.experts.E.w1``). Experts are separate matrices, so that a checkpoint's memory
map serves as the weights without a copy; ``stack_experts`` lays them together for a GPU.

Plain experts run in one call of the kernels. Where a linear of an expert is something else, with an
adapter (``lora.py``) or with packed weights, the modules themselves are called, each chosen expert
once on all of its tokens.
"""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from mixtral.config import ModelConfig
from mixtral.kernels import grouped
from mixtral.model.lora import LoraLinear
from mixtral.model.router_trace import RouterRecorder


class Expert(nn.Module):
    """Weights of one SwiGLU block: w1 and w3 go up [F, D], w2 comes down [D, F]."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.w1 = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.w2 = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)
        self.w3 = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return w2 (silu(w1 x) * (w3 x)), [T, D] for [T, D] (arXiv:2002.05202, equation 6)."""
        return cast(Tensor, self.w2(functional.silu(self.w1(x)) * self.w3(x)))

    @property
    def is_plain(self) -> bool:
        """Whether no linear has an adapter or packed weights."""
        # Past Module.__getattr__: a GPU's step would wait for it 24 times per layer.
        return all(isinstance(linear, nn.Linear) for linear in self._modules.values())

    def plain_weights(self) -> tuple[Tensor, Tensor, Tensor] | None:
        """Return w1, w2 and w3 where they are all there is; None with an adapter or packing."""
        weights = []
        for linear in (self.w1, self.w2, self.w3):
            # An adapter that is off leaves the base, to the bit.
            plain = linear.base if isinstance(linear, LoraLinear) and not linear.is_on else linear
            if not isinstance(plain, nn.Linear):
                return None
            weights.append(plain.weight)
        return weights[0], weights[1], weights[2]


class SparseMoe(nn.Module):
    """Router and experts of one layer (arXiv:2401.04088, section 2.1).

    A dense model has one expert and no router.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.num_experts_per_tok = config.num_experts_per_tok
        if not config.is_dense:
            self.gate = nn.Linear(config.hidden_size, config.num_local_experts, bias=False)
        self.experts = nn.ModuleList(Expert(config) for _ in range(config.num_experts))
        self.jitter = 0.0
        """Noise on the router's input while training, see ``set_router_jitter``."""
        self.jitter_seed = 0
        """Equal seeds give equal noise."""
        self._stacked: tuple[Tensor, Tensor, Tensor] | None = None

    def forward(self, x: Tensor, recorder: RouterRecorder | None = None) -> Tensor:
        """Return [T, D] for token states [T, D]; notes the routing in ``recorder``."""
        experts = [cast(Expert, expert) for expert in self.experts]
        if not self.num_experts_per_tok:
            return cast(Tensor, experts[0](x))
        jitter = self.jitter if self.training else 0.0
        logits = router_logits(self.gate, x, jitter=jitter, seed=self.jitter_seed)  # [T, E]
        routing_weights, expert_ids = grouped.route(logits, self.num_experts_per_tok)
        if recorder is not None:
            recorder.add(expert_ids, routing_weights, logits)
        if self._stacked is not None and all(expert.is_plain for expert in experts):
            return grouped.moe_stacked(x, routing_weights, expert_ids, *self._stacked)
        weights = [found for expert in experts if (found := expert.plain_weights()) is not None]
        if len(weights) < len(experts):
            return grouped.visit_experts(
                x, routing_weights, expert_ids, len(experts), lambda e, part: experts[e](part)
            )
        w1, w2, w3 = zip(*weights, strict=True)
        return grouped.moe(x, routing_weights, expert_ids, w1, w2, w3)

    def stack_experts(self) -> None:
        """Move the experts into three stacked tensors, of which their weights become views."""
        stacked = []
        for name in ("w1", "w2", "w3"):
            layers = [cast(nn.Linear, getattr(expert, name)) for expert in self.experts]
            together = torch.stack([layer.weight.data for layer in layers])
            for layer, weight in zip(layers, together, strict=True):
                layer.weight.data = weight
            stacked.append(together)
        self._stacked = (stacked[0], stacked[1], stacked[2])


def router_logits(gate: nn.Module, x: Tensor, *, jitter: float = 0.0, seed: int = 0) -> Tensor:
    """Return the scores of the experts, in float32 whatever the precision of the model.

    Args:
        gate: nn.Linear with weight [E, D], or one with an adapter.
        x: Token states, [T, D], any float dtype.
        jitter: Each number of ``x`` is multiplied by one drawn evenly from 1 - jitter to 1 + jitter
            (arXiv:2101.03961, appendix C; arXiv:2202.08906, section 4.2).
        seed: Of the noise. Drawn by a generator of its own, so that a layer that is run again in
            the backward pass (activation checkpointing) sees the same noise.

    Returns:
        [T, E], float32.
    """
    wide = x.float()
    if jitter:
        generator = torch.Generator(device=x.device).manual_seed(seed)
        noise = torch.empty_like(wide, requires_grad=False)
        wide = wide * noise.uniform_(1 - jitter, 1 + jitter, generator=generator)
    if isinstance(gate, LoraLinear):
        base = cast(nn.Linear, gate.base)
        return gate.add_delta(functional.linear(wide, base.weight.float()), wide)
    return functional.linear(wide, cast(nn.Linear, gate).weight.float())


def set_router_jitter(model: nn.Module, jitter: float, seed: int) -> None:
    """Set the noise of all routers of a model; it acts in training mode only.

    Args:
        model: A model with layers that have the fields ``jitter`` and ``jitter_seed``.
        jitter: Largest relative change of a number, from 0 to below 1; 0 is none.
        seed: Another one for each micro-batch; each layer draws from its own.
    """
    layers = [cast(SparseMoe, m) for m in model.modules() if "jitter_seed" in vars(m)]
    for number, layer in enumerate(layers):
        layer.jitter = jitter
        layer.jitter_seed = (seed * len(layers) + number) % 2**63
