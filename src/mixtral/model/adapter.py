"""A LoRA adapter as data: two thin matrices for each adapted linear of a model.

LoRA (arXiv:2106.09685, section 4.1) leaves a weight W [out, in] as it is and adds a product of low
rank to it: y = W x + scale * B (A x), with A [r, in], B [out, r] and scale = alpha / r, or
alpha / sqrt(r) in rsLoRA (arXiv:2312.03732). Here alpha is gone: only the scale is kept, which is
all that the sum needs.

Linears are named by their module path, which is Hugging Face's:
``model.layers.0.self_attn.q_proj``, ``model.layers.0.block_sparse_moe.gate``,
``model.layers.0.block_sparse_moe.experts.3.w1``. A dense model has expert 0 only and no gate.
Embedding and output head are never adapted.

This module knows no file and no training: ``checkpoint/peft.py`` reads and writes adapters,
``model/lora.py`` trains them.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from mixtral.config import ModelConfig
from mixtral.errors import CheckpointError

ATTENTION_LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj")
"""The linears of one attention layer."""
EXPERT_LINEARS = ("w1", "w2", "w3")
"""The linears of one expert: gate, down and up projection."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LoraMatrices:
    """What one adapted linear adds to its output: scale * B (A x)."""

    a: Tensor
    """A, [r, in], float32."""
    b: Tensor
    """B, [out, r], float32, on the device of A."""
    scale: float
    """alpha / r, or alpha / sqrt(r)."""

    @property
    def rank(self) -> int:
        """r, rows of A."""
        return self.a.shape[0]

    @property
    def num_parameters(self) -> int:
        """Numbers in A and B."""
        return self.a.numel() + self.b.numel()

    def delta(self) -> Tensor:
        """Return what a merged weight gains, scale * B A, [out, in], float32."""
        return self.scale * (self.b.float() @ self.a.float())


@dataclass(frozen=True, kw_only=True, slots=True)
class Adapter:
    """The adapted linears of a model."""

    matrices: Mapping[str, LoraMatrices]
    """Module path -> matrices, in the order of the model; linears without one are left alone."""
    base_model: str | None = None
    """What the model was called on which it was trained, a path or hub id; None: not known."""
    base_digest: str | None = None
    """Which weights that model had, see ``checkpoint/base_weights.py``; None: not known."""

    @property
    def num_parameters(self) -> int:
        """Numbers in all matrices."""
        return sum(matrices.num_parameters for matrices in self.matrices.values())

    @property
    def max_rank(self) -> int:
        """Largest rank; 0 for an adapter that adapts nothing."""
        return max((matrices.rank for matrices in self.matrices.values()), default=0)

    def check(self, config: ModelConfig) -> None:
        """Check that every matrix belongs to a model of this geometry and is finite.

        Raises:
            CheckpointError: A name is not one of the model's linears, a shape does not fit, or a
                value is not finite.
        """
        shapes = adaptable_linears(config)
        for name, matrices in self.matrices.items():
            if name not in shapes:
                raise CheckpointError(
                    f"the adapter adapts {name}, which this model does not have "
                    f"({config.num_hidden_layers} layers, {config.num_local_experts} experts); "
                    "is it for another model?"
                )
            check_matrices(name, matrices, shapes[name])


def check_matrices(name: str, matrices: LoraMatrices, shape: tuple[int, int]) -> None:
    """Check the matrices of one linear.

    Args:
        name: What the linear is called in messages.
        matrices: A and B of any float dtype.
        shape: (out, in) of its weight.

    Raises:
        CheckpointError: A shape does not fit, or a value is not finite.
    """
    rows, columns = shape
    a, b = matrices.a, matrices.b
    is_pair = a.dim() == b.dim() == 2 and a.shape[0] == b.shape[1] >= 1
    if not is_pair or a.shape[1] != columns or b.shape[0] != rows:
        raise CheckpointError(
            f"the adapter has A {list(a.shape)} and B {list(b.shape)} for {name}; its weight is "
            f"[{rows}, {columns}], so they must be [rank, {columns}] and [{rows}, rank]. "
            "Is it for another model?"
        )
    for letter, matrix in (("A", a), ("B", b)):
        if not bool(torch.isfinite(matrix).all()):
            raise CheckpointError(
                f"the adapter's {letter} for {name} holds a value that is not finite; "
                "take an earlier checkpoint of its training."
            )


def adaptable_linears(config: ModelConfig) -> dict[str, tuple[int, int]]:
    """Return each linear that can be adapted and its (out, in), in the order of the model.

    >>> config = ModelConfig.preset("8x7b")
    >>> adaptable_linears(config)["model.layers.0.block_sparse_moe.experts.7.w1"]
    (14336, 4096)
    """
    hidden, width = config.hidden_size, config.intermediate_size
    queries = config.num_attention_heads * config.head_dim
    keys = config.num_key_value_heads * config.head_dim
    attention = ((queries, hidden), (keys, hidden), (keys, hidden), (hidden, queries))
    expert = ((width, hidden), (hidden, width), (width, hidden))
    shapes: dict[str, tuple[int, int]] = {}
    for layer in range(config.num_hidden_layers):
        path = f"model.layers.{layer}."
        for linear, shape in zip(ATTENTION_LINEARS, attention, strict=True):
            shapes[f"{path}self_attn.{linear}"] = shape
        if not config.is_dense:
            shapes[f"{path}block_sparse_moe.gate"] = (config.num_local_experts, hidden)
        for e in range(config.num_experts):
            for linear, shape in zip(EXPERT_LINEARS, expert, strict=True):
                shapes[f"{path}block_sparse_moe.experts.{e}.{linear}"] = shape
    return shapes
