"""AdamW over float32 master weights, for a model that may compute in another precision.

Where the model runs in bfloat16, a step of a small learning rate is lost in bfloat16's eight bits:
so the optimizer owns float32 copies, steps those, and writes them back rounded. A float32 parameter
is its own master: nothing is copied and nothing is kept twice.

Gradients of micro-batches add up in float32 for the same reason: in bfloat16 a sum of some hundred
of them stops growing. As soon as backward has made that of a bfloat16 parameter, it is added to the
master's and freed, so that the model's gradients are never there in both precisions.
"""

import functools
import math
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from mixtral.train.parallel import ParallelContext
from mixtral.train.recipe import TrainRecipe
from mixtral.train.shards import local_shard

if TYPE_CHECKING:
    from mixtral.train.sharded_state import ShardedState


class MasterAdamW:
    """AdamW (arXiv:1711.05101) on a model's parameters, in float32.

    Args:
        model: The model; its parameters may have any float dtype, and keep their memory from now
            on where they are float32. Gradients of the others are taken from them as they come.
        recipe: Betas, decay and clipping.
        context: This process among the others, of a split model; None where it is the only one.
    """

    def __init__(
        self, model: nn.Module, recipe: TrainRecipe, context: ParallelContext | None = None
    ) -> None:
        named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        self.names = [name for name, _ in named]
        self._params: list[torch.Tensor] = [p for _, p in named]
        self._context = context or ParallelContext(torch.device("cpu"))
        self._masters = [_master(p) for p in self._params]
        self._copies = [  # (parameter, master) where they are two
            (p, m) for p, m in zip(self._params, self._masters, strict=True) if p.dtype != m.dtype
        ]
        for param, master in self._copies:
            param.register_post_accumulate_grad_hook(functools.partial(_take_gradient, master))
        self._grad_clip = recipe.grad_clip
        decayed = [m for m, (name, p) in zip(self._masters, named, strict=True) if _decays(name, p)]
        kept = [
            m for m, (name, p) in zip(self._masters, named, strict=True) if not _decays(name, p)
        ]
        groups = [
            {"params": decayed, "weight_decay": recipe.weight_decay},
            {"params": kept, "weight_decay": 0.0},
        ]
        self._adamw = torch.optim.AdamW(
            groups,
            lr=recipe.learning_rate,
            betas=(recipe.beta1, recipe.beta2),
            fused=True,
        )

    def step(self, learning_rate: float) -> float:
        """Apply the gradients of the model, clear them, and return their norm before clipping.

        Where the norm is not finite, no weight changes.
        """
        for master, param in zip(self._masters, self._params, strict=True):
            _take_gradient(master, param)
            # An expert that no token visited has no gradient; for AdamW that is a zero.
            if master.grad is None:
                master.grad = torch.zeros_like(master)
        norm = self._context.clip_gradients(self._masters, self._grad_clip)
        if math.isfinite(norm):
            for group in self._adamw.param_groups:
                group["lr"] = learning_rate
            self._adamw.step()
            self._write_back()
        for master in self._masters:
            master.grad = None
        return norm

    def gradient(self, name: str) -> torch.Tensor | None:
        """Return what backward has added up for a parameter since the last step.

        Args:
            name: As in ``model.named_parameters()``.

        Returns:
            This process's part in float32, in the memory that the next step reads; None where
            there is nothing, or the parameter is frozen.
        """
        if name not in self.names:
            return None
        index = self.names.index(name)
        _take_gradient(self._masters[index], self._params[index])
        return self._masters[index].grad

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return masters and moments by name, as shards of the whole, for ``ShardedState``."""
        from mixtral.train.sharded_state import adamw_tensors

        return adamw_tensors(self.names, self._params, self._masters, self._adamw)

    def load_tensors(self, states: "ShardedState") -> dict[str, Any] | None:
        """Take up the newest sharded state and return its values; None where there is none."""
        values = states.load(self.tensors())
        self._write_back()
        return values

    def state_dict(self) -> dict[str, Any]:
        """Return all that a later run needs to go on: master weights and AdamW's moments."""
        return {"masters": self._masters, "adamw": self._adamw.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up a saved state and write its weights into the model."""
        with torch.no_grad():
            torch._foreach_copy_(self._masters, state["masters"])
        self._write_back()
        self._adamw.load_state_dict(state["adamw"])

    @torch.no_grad()
    def _write_back(self) -> None:
        if self._copies:
            params, masters = zip(*self._copies, strict=True)
            torch._foreach_copy_(params, masters)


def _master(parameter: torch.Tensor) -> torch.Tensor:
    values = local_shard(parameter.detach())
    return values if values.dtype == torch.float32 else values.float()


def _take_gradient(master: torch.Tensor, parameter: torch.Tensor) -> None:
    """Move the gradient of a parameter to its master, on top of what is there."""
    if parameter.grad is None:
        return
    grad, parameter.grad = local_shard(parameter.grad), None
    master.grad = grad.float() if master.grad is None else master.grad.add_(grad)


def _decays(name: str, parameter: nn.Parameter) -> bool:
    if name.endswith((".lora_a", ".lora_b")):
        return False
    return parameter.dim() > 1 and "embed_tokens" not in name
