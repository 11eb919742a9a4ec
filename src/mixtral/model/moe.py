"""The sparse feed-forward layer: a router picks experts, each expert is a SwiGLU block.

Module names are those of the published checkpoints (``block_sparse_moe.gate``,
``block_sparse_moe.experts.E.w1``). Experts are separate matrices, so that a checkpoint's memory
map serves as the weights without a copy; ``stack_experts`` lays them together for a GPU.
"""

from typing import cast

import torch
from torch import Tensor, nn

from mixtral.config import ModelConfig
from mixtral.kernels import grouped
from mixtral.model.router_trace import RouterRecorder


class Expert(nn.Module):
    """Weights of one SwiGLU block: w1 and w3 go up [F, D], w2 comes down [D, F]."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.w1 = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.w2 = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)
        self.w3 = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)


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
        self._stacked: tuple[Tensor, Tensor, Tensor] | None = None

    def forward(self, x: Tensor, recorder: RouterRecorder | None = None) -> Tensor:
        """Return [T, D] for token states [T, D]; notes the routing in ``recorder``."""
        experts = [cast(Expert, expert) for expert in self.experts]
        if not self.num_experts_per_tok:
            expert = experts[0]
            hidden = nn.functional.silu(expert.w1(x)) * expert.w3(x)
            return cast(Tensor, expert.w2(hidden))
        router_logits = nn.functional.linear(x.float(), self.gate.weight.float())  # [T, E]
        routing_weights, expert_ids = grouped.route(router_logits, self.num_experts_per_tok)
        if recorder is not None:
            recorder.add(expert_ids, routing_weights, router_logits)
        if self._stacked is not None:
            return grouped.moe_stacked(x, routing_weights, expert_ids, *self._stacked)
        return grouped.moe(
            x,
            routing_weights,
            expert_ids,
            [expert.w1.weight for expert in experts],
            [expert.w2.weight for expert in experts],
            [expert.w3.weight for expert in experts],
        )

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
