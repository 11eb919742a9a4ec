"""A ``Transformer`` over a packed checkpoint: frozen low-bit weights to train adapters on.

The matrices of attention and experts stay packed (``LowBitLinear``), so the tensors of a checkpoint
that is chatted with and served are also what is trained on, byte for byte. The rest is small:

* norms are converted to the dtype of the computation; the router stays as it is stored, because
  its scores are always computed in float32;
* the embedding stays as it is stored, and the rows that a batch needs are converted;
* the output head is decoded once, because the loss needs it whole in every step. That is V x D
  values, 0.5 GB in float32 for 8x7B, 2 % of its int4 weights.

For inference on a CPU ``CpuTransformer`` runs the same tensors faster.
"""

from collections.abc import Iterable
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from mixtral.config import ModelConfig
from mixtral.errors import CheckpointError, ConfigError
from mixtral.model.low_bit_linear import LowBitLinear
from mixtral.model.transformer import Transformer

_HEAD, _EMBEDDING, _ROUTER = "lm_head", "model.embed_tokens", ".gate"


class StoredEmbedding(nn.Module):
    """Looks rows up in the type in which they are stored, and returns them in another one.

    Args:
        weight: [V, D], any float dtype; it is kept, not copied.
        dtype: Type of the states.
    """

    def __init__(self, weight: Tensor, dtype: torch.dtype) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight, requires_grad=False)
        self._dtype = dtype

    def forward(self, input_ids: Tensor) -> Tensor:
        """Return [T, D] for token ids [T]."""
        return functional.embedding(input_ids, self.weight).to(self._dtype)


def low_bit_transformer(
    config: ModelConfig,
    tensors: Iterable[tuple[str, Tensor]],
    compute_dtype: torch.dtype,
    device: torch.device | str = "cpu",
) -> Transformer:
    """Build a frozen model from packed tensors; on the CPU they are used where they lie.

    Args:
        config: Geometry that the tensors must have; the head is not tied.
        tensors: Names of ours and tensors, each once, in any order: ``NAME.packed``, or
            ``NAME.weight`` in any float dtype. A packed checkpoint and
            ``checkpoint.quantized_tensors`` give them.
        compute_dtype: Type of the states: float32, or bfloat16 where the device multiplies it.
        device: Where the weights go.

    Returns:
        The model in evaluation mode; no parameter of it asks for gradients.

    Raises:
        CheckpointError: A name is unknown, missing or twice there, or a tensor has a wrong shape.
    """
    with torch.device("meta"):
        model = Transformer(config.replace(tie_word_embeddings=False))
    missing = {name.removesuffix(".weight") for name, _ in model.named_parameters()}
    for name, tensor in tensors:
        path, _, kind = name.rpartition(".")
        if path not in missing or kind not in ("weight", "packed"):
            raise CheckpointError(f"tensor {name} is not part of this model, or came twice.")
        missing.remove(path)
        if kind == "packed":
            _hang_packed(model, path, tensor.to(device), compute_dtype)
        else:
            _hang_plain(model, path, tensor.to(device), compute_dtype)
    if missing:
        example = min(missing)
        raise CheckpointError(f"{len(missing)} tensors are missing, for one {example}.")
    return model.requires_grad_(False).eval()


def _hang_packed(model: Transformer, path: str, packed: Tensor, dtype: torch.dtype) -> None:
    linear = model.get_submodule(path)
    if not isinstance(linear, nn.Linear) or path.endswith(_ROUTER):
        raise CheckpointError(f"{path} is packed; only attention, experts and head can be.")
    rows, cols = linear.out_features, linear.in_features
    try:
        frozen = LowBitLinear(packed, in_features=cols, out_features=rows)
    except ConfigError as error:
        raise CheckpointError(f"{path}.packed: {error}") from error
    if path == _HEAD:
        linear.weight = nn.Parameter(frozen.dequantize(dtype), requires_grad=False)
    else:
        _replace(model, path, frozen)


def _hang_plain(model: Transformer, path: str, tensor: Tensor, dtype: torch.dtype) -> None:
    module = model.get_submodule(path)
    wanted = tuple(cast(Tensor, module.weight).shape)
    if tuple(tensor.shape) != wanted:
        raise CheckpointError(f"{path}.weight has shape {tuple(tensor.shape)}; expected {wanted}.")
    if path == _EMBEDDING:
        _replace(model, path, StoredEmbedding(tensor, dtype))
    else:
        kept = tensor if path.endswith(_ROUTER) else tensor.to(dtype)
        module.weight = nn.Parameter(kept, requires_grad=False)


def _replace(model: Transformer, path: str, module: nn.Module) -> None:
    parent, _, leaf = path.rpartition(".")
    setattr(model.get_submodule(parent), leaf, module)
