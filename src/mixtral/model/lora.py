"""LoRA for training: linears with two thin matrices beside them, put on a model and taken off.

``LoraLinear`` wraps a linear of any kind, also one whose weight is packed in four bits (QLoRA,
arXiv:2305.14314): all it asks of its base is ``forward``, ``in_features`` and ``out_features``.
The base learns nothing; A and B are float32 whatever its precision. A starts random and B at zero,
so that training starts from the base model itself (arXiv:2106.09685, section 4.1).

    add_lora(model, {"model.layers.0.self_attn.q_proj": LoraSpec(rank=16, scale=2.0)}, seed=0)
    ...                                # train: A and B are the only parameters with gradients
    with lora_off(model): ...          # the base model, for instance as DPO's reference
    adapter = lora_adapter(model)      # plain data, see adapter.py
    remove_lora(model)                 # the base model again
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from mixtral.errors import ConfigError
from mixtral.model.adapter import Adapter, LoraMatrices


@dataclass(frozen=True, kw_only=True, slots=True)
class LoraSpec:
    """How one linear is to be adapted."""

    rank: int
    """r, rows of A, at least 1."""
    scale: float
    """alpha / r, or alpha / sqrt(r)."""


class LoraLinear(nn.Module):
    """y = base(x) + scale * B (A dropout(x)), with B zero at first.

    Args:
        base: A linear without a bias: nn.Linear, or anything that is called like it.
        spec: Rank and scale.
        dropout: Share of the inputs of A that are set to 0 while training.
        generator: Draws A; None draws from PyTorch's own.
    """

    def __init__(
        self,
        base: nn.Module,
        spec: LoraSpec,
        *,
        dropout: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.in_features = cast(int, base.in_features)
        self.out_features = cast(int, base.out_features)
        self.base = base
        self.scale = spec.scale
        self.dropout = dropout
        self.is_on = True
        """Whether A and B take part; see ``lora_off``."""
        a = torch.empty(spec.rank, self.in_features)
        # PEFT's start: uniform within 1 / sqrt(in).
        nn.init.kaiming_uniform_(a, a=5**0.5, generator=generator)
        device = next(chain(base.parameters(), base.buffers())).device
        self.lora_a = nn.Parameter(a.to(device))
        self.lora_b = nn.Parameter(torch.zeros(self.out_features, spec.rank, device=device))

    def forward(self, x: Tensor) -> Tensor:
        """Return [T, out], in the dtype of the base's output, for [T, in]."""
        return self.add_delta(self.base(x), x)

    def add_delta(self, out: Tensor, x: Tensor) -> Tensor:
        """Return what the base made of ``x``, [T, out], plus scale * B (A x).

        A x is made in the dtype of ``x`` [T, in], the rest in that of ``out``, as mixed precision
        does: A and B themselves, and their gradients, stay float32.
        """
        if not self.is_on:
            return out
        dropped = functional.dropout(x, self.dropout, self.training)
        low = functional.linear(dropped, self.lora_a.to(x.dtype)).to(out.dtype)  # [T, r]
        return torch.addmm(out, low, self.lora_b.to(out.dtype).T, alpha=self.scale)

    def extra_repr(self) -> str:
        """Return rank and scale for ``print(model)``."""
        return f"rank={self.lora_a.shape[0]}, scale={self.scale}"


def add_lora(
    model: nn.Module, specs: Mapping[str, LoraSpec], *, dropout: float = 0.0, seed: int = 0
) -> None:
    """Wrap linears of a model, in place, and let A and B alone learn.

    A later ``model.to(dtype)`` would round A and B; convert the model first.

    Args:
        model: The base; all its parameters stop learning.
        specs: Module path -> rank and scale.
        dropout: Share of the inputs of each A that are set to 0 while training.
        seed: Equal seeds give equal matrices, whatever the device.

    Raises:
        ConfigError: A path is not a linear of the model, or is adapted already.
    """
    generator = torch.Generator().manual_seed(seed)
    bases = {name: _linear(model, name) for name in specs}
    model.requires_grad_(False)
    for name, base in bases.items():
        wrapped = LoraLinear(base, specs[name], dropout=dropout, generator=generator)
        _replace(model, name, wrapped)


def add_adapter(model: nn.Module, adapter: Adapter, *, dropout: float = 0.0) -> None:
    """Put a trained adapter on a model, in place, to train it further or to measure it.

    Args:
        model: The base; all its parameters stop learning.
        adapter: Matrices by module path; they are copied.
        dropout: As for ``add_lora``.

    Raises:
        ConfigError: A path is not a linear of the model, or is adapted already.
    """
    matrices = adapter.matrices
    specs = {name: LoraSpec(rank=m.rank, scale=m.scale) for name, m in matrices.items()}
    add_lora(model, specs, dropout=dropout)
    with torch.no_grad():
        for name, linear in _adapted(model):
            linear.lora_a.copy_(matrices[name].a)
            linear.lora_b.copy_(matrices[name].b)


def lora_adapter(
    model: nn.Module, base_model: str | None = None, base_digest: str | None = None
) -> Adapter:
    """Return a copy of the adapter of a model, float32 on the CPU.

    Args:
        model: A model with ``LoraLinear`` modules; without any the adapter is empty.
        base_model: What the model is called without it, a path or hub id.
        base_digest: Which weights it has without it, as ``Adapter`` says.
    """
    found = {
        name: LoraMatrices(
            a=linear.lora_a.detach().to("cpu", torch.float32, copy=True),
            b=linear.lora_b.detach().to("cpu", torch.float32, copy=True),
            scale=linear.scale,
        )
        for name, linear in _adapted(model)
    }
    return Adapter(matrices=found, base_model=base_model, base_digest=base_digest)


def remove_lora(model: nn.Module) -> None:
    """Put the bases back, in place; A and B are gone."""
    for name, linear in _adapted(model):
        _replace(model, name, linear.base)


@contextmanager
def lora_off(model: nn.Module) -> Iterator[None]:
    """Make the model its base for a while: exactly, and without a copy."""
    linears = [linear for _, linear in _adapted(model) if linear.is_on]
    for linear in linears:
        linear.is_on = False
    try:
        yield
    finally:
        for linear in linears:
            linear.is_on = True


def _adapted(model: nn.Module) -> list[tuple[str, LoraLinear]]:
    return [(name, m) for name, m in model.named_modules() if isinstance(m, LoraLinear)]


def _linear(model: nn.Module, name: str) -> nn.Module:
    try:
        module = model.get_submodule(name)
    except AttributeError as error:
        raise ConfigError(f"{name} cannot be adapted: the model has no such module.") from error
    if isinstance(module, LoraLinear):
        raise ConfigError(f"{name} is adapted already; take the adapter off first.")
    if not hasattr(module, "in_features") or getattr(module, "bias", None) is not None:
        raise ConfigError(
            f"{name} cannot be adapted: it is a {type(module).__name__}, not a linear without bias."
        )
    return module


def _replace(model: nn.Module, name: str, module: nn.Module) -> None:
    path, _, leaf = name.rpartition(".")
    module.train(model.training)
    setattr(model.get_submodule(path), leaf, module)
