"""Random adapters for tests, and a model with one merged into it."""

import copy
from collections.abc import Callable

import torch

from mixtral.config import ModelConfig
from mixtral.model import TokenBatch, Transformer
from mixtral.model.adapter import Adapter, LoraMatrices, adaptable_linears

TARGETS: dict[str, Callable[[str], bool]] = {
    "everything": lambda name: True,
    "attention": lambda name: ".self_attn." in name,
    "router": lambda name: name.endswith(".gate"),
    "experts": lambda name: ".experts." in name,
    "only w2": lambda name: name.endswith(".w2"),
    "only w1": lambda name: name.endswith(".w1"),
    "expert 3 of layer 0": lambda name: "layers.0." in name and ".experts.3." in name,
    "q_proj of layer 1": lambda name: name == "model.layers.1.self_attn.q_proj",
}
"""Which linears an adapter has."""


def random_adapter(
    config: ModelConfig,
    target: str = "everything",
    *,
    rank: Callable[[str], int] = lambda name: 3,
    scale: Callable[[str], float] = lambda name: 2.0,
    seed: int = 0,
) -> Adapter:
    """Return an adapter that changes logits clearly."""
    generator = torch.Generator().manual_seed(seed)
    matrices = {}
    for name, (rows, columns) in adaptable_linears(config).items():
        if TARGETS[target](name):
            r = rank(name)
            a = torch.randn(r, columns, generator=generator) * 0.1
            b = torch.randn(rows, r, generator=generator) * 0.1
            matrices[name] = LoraMatrices(a=a, b=b, scale=scale(name))
    return Adapter(matrices=matrices, base_model="some/base", base_digest="0" * 64)


def merged(model: Transformer, adapter: Adapter) -> Transformer:
    """Return a copy of a model with scale * B A added to its weights."""
    model = copy.deepcopy(model)
    with torch.no_grad():
        for name, matrices in adapter.matrices.items():
            weight = model.get_parameter(name + ".weight")
            weight += (matrices.scale * (matrices.b @ matrices.a)).to(weight.dtype)
    return model


def logits_of(model: Transformer, num_tokens: int = 40) -> torch.Tensor:
    """Return logits of two short sequences, [T, V]."""
    ids = torch.arange(num_tokens) * 7 % model.config.vocab_size
    cut = num_tokens // 3
    batch = TokenBatch.from_sequences([ids[:cut].tolist(), ids[cut:].tolist()])
    return model.logits(model(batch))


def relative_error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    """Return the largest difference as a share of the largest number."""
    difference = (actual - expected).detach().abs().max()
    return float(difference / expected.detach().abs().max())
