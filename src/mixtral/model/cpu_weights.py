"""Tensors of a model by name, checked and described for the C++ kernels."""

from collections.abc import Iterable

import torch
from torch import Tensor

from mixtral.config import ModelConfig
from mixtral.errors import CheckpointError, ConfigError
from mixtral.kernels import formats
from mixtral.kernels.cpu.structures import WEIGHT_FORMATS, Weight


class CpuWeights:
    """Takes tensors by name, checks their shapes and tells C++ where they lie.

    Args:
        config: Geometry that the tensors must have.
        tensors: Names and tensors, each once; they are kept, not copied.

    Raises:
        CheckpointError: A name is unknown, missing or twice there, or a tensor has a wrong shape.
    """

    def __init__(self, config: ModelConfig, tensors: Iterable[tuple[str, Tensor]]) -> None:
        self.by_name: dict[str, Tensor] = {}
        self._shapes = _module_shapes(config)
        self._used: set[str] = set()
        self._converted: list[Tensor] = []
        for name, tensor in tensors:
            module, _, kind = name.rpartition(".")
            if module == "lm_head" and config.tie_word_embeddings:
                continue
            is_known = module in self._shapes and kind in ("weight", "packed")
            if not is_known or f"{module}.weight" in self.by_name or name in self.by_name:
                raise CheckpointError(f"tensor {name} is not part of this model, or came twice.")
            if module == "model.embed_tokens":
                tensor = tensor.to(torch.bfloat16)
            self.by_name[name] = tensor

    def matrix(self, module: str) -> Weight:
        """Describe a matrix, packed or bfloat16."""
        rows, cols = self._shapes[module]
        if (packed := self.by_name.get(f"{module}.packed")) is not None:
            self._used.add(f"{module}.packed")
            try:
                name = formats.format_of_packed(packed, rows=rows, cols=cols)
            except ConfigError as error:
                raise CheckpointError(f"{module}.packed: {error}") from error
            return Weight(data=packed.data_ptr(), rows=rows, cols=cols, format=WEIGHT_FORMATS[name])
        tensor = self._take(module, (rows, cols))
        if tensor.dtype != torch.bfloat16 or not tensor.is_contiguous():
            tensor = tensor.to(torch.bfloat16).contiguous()
            self._converted.append(tensor)
        code = WEIGHT_FORMATS["bfloat16"]
        return Weight(data=tensor.data_ptr(), rows=rows, cols=cols, format=code)

    def floats(self, module: str) -> int:
        """Return the address of a small tensor as float32."""
        tensor = self._take(module, self._shapes[module]).float().contiguous()
        self._converted.append(tensor)
        return tensor.data_ptr()

    def check_all_used(self) -> None:
        """Refuse tensors that the model has no place for."""
        if unused := set(self.by_name) - self._used:
            raise CheckpointError(f"tensor {min(unused)} is not part of this model.")

    def _take(self, module: str, shape: tuple[int, ...]) -> Tensor:
        name = f"{module}.weight"
        if name not in self.by_name:
            raise CheckpointError(f"tensor {name} is missing.")
        self._used.add(name)
        tensor = self.by_name[name]
        if tuple(tensor.shape) != shape:
            raise CheckpointError(f"{name} has shape {tuple(tensor.shape)}; expected {shape}.")
        return tensor


def _module_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    width, ffn = config.hidden_size, config.intermediate_size
    queries = config.num_attention_heads * config.head_dim
    keys = config.num_key_value_heads * config.head_dim
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens": (config.vocab_size, width),
        "model.norm": (width,),
        "lm_head": (config.vocab_size, width),
    }
    for index in range(config.num_hidden_layers):
        prefix = f"model.layers.{index}."
        shapes[f"{prefix}input_layernorm"] = (width,)
        shapes[f"{prefix}post_attention_layernorm"] = (width,)
        shapes[f"{prefix}self_attn.q_proj"] = (queries, width)
        shapes[f"{prefix}self_attn.k_proj"] = (keys, width)
        shapes[f"{prefix}self_attn.v_proj"] = (keys, width)
        shapes[f"{prefix}self_attn.o_proj"] = (width, queries)
        if not config.is_dense:
            shapes[f"{prefix}block_sparse_moe.gate"] = (config.num_local_experts, width)
        for expert in range(config.num_experts):
            module = f"{prefix}block_sparse_moe.experts.{expert}."
            shapes |= {f"{module}w1": (ffn, width), f"{module}w3": (ffn, width)}
            shapes[f"{module}w2"] = (width, ffn)
    return shapes
