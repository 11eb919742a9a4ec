"""GGUF files made with the ``gguf`` package, the second opinion that ours are tested against."""

from collections.abc import Mapping
from pathlib import Path

import gguf
import numpy as np
import numpy.typing as npt
from torch import Tensor

from mixtral.config import ModelConfig
from tests.checkpoints_for_tests import interleave

Array = npt.NDArray[np.generic]

NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "block_sparse_moe.gate": "ffn_gate_inp",
    "w1": "ffn_gate",
    "w2": "ffn_down",
    "w3": "ffn_up",
}


def gguf_tensors(
    config: ModelConfig, ours: Mapping[str, Tensor], *, merged: bool = True
) -> dict[str, Array]:
    """Return float32 arrays under GGUF's names, as llama.cpp's converter arranges them."""
    found: dict[str, Array] = {}
    experts: dict[str, list[Array]] = {}
    for name, tensor in ours.items():
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            tensor = interleave(tensor, config.head_dim)
        array = tensor.float().numpy()
        parts = name.removesuffix(".weight").split(".")
        if "experts" in parts:
            layer, expert, matrix = parts[2], parts[5], NAMES[parts[6]]
            if config.is_dense:
                found[f"blk.{layer}.{matrix}.weight"] = array
            elif merged:
                experts.setdefault(f"blk.{layer}.{matrix}_exps.weight", []).append(array)
            else:
                found[f"blk.{layer}.{matrix}.{expert}.weight"] = array
        elif parts[1:2] == ["layers"]:
            found[f"blk.{parts[2]}.{NAMES['.'.join(parts[3:])]}.weight"] = array
        else:
            found[NAMES[".".join(parts)] + ".weight"] = array
    return found | {name: np.stack(arrays) for name, arrays in experts.items()}


def write_with_gguf(
    path: Path,
    config: ModelConfig,
    tensors: Mapping[str, Array],
    kinds: Mapping[str, gguf.GGMLQuantizationType] | None = None,
    *,
    architecture: str = "llama",
    metadata: Mapping[str, int | float | str] | None = None,
) -> None:
    """Write a file with the ``gguf`` package.

    Args:
        path: The file.
        config: The model.
        tensors: float32 arrays, or blocks as bytes where ``kinds`` names their type.
        kinds: Types of the tensors that are already blocks; float32 for all others.
        architecture: What general.architecture says.
        metadata: Fields to add or, as None, to leave out.
    """
    writer = gguf.GGUFWriter(path, architecture)
    fields: dict[str, int | float | str | None] = {
        "llama.block_count": config.num_hidden_layers,
        "llama.context_length": config.max_position_embeddings,
        "llama.embedding_length": config.hidden_size,
        "llama.feed_forward_length": config.intermediate_size,
        "llama.attention.head_count": config.num_attention_heads,
        "llama.attention.head_count_kv": config.num_key_value_heads,
        "llama.attention.key_length": config.head_dim,
        "llama.attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        "llama.rope.dimension_count": config.head_dim,
        "llama.rope.freq_base": config.rope_theta,
        "llama.expert_count": config.num_local_experts or None,
        "llama.expert_used_count": config.num_experts_per_tok or None,
    }
    for key, value in (fields | dict(metadata or {})).items():
        if isinstance(value, float):
            writer.add_float32(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
        elif isinstance(value, str):
            writer.add_string(key, value)
    for name, array in tensors.items():
        writer.add_tensor(name, array, raw_dtype=(kinds or {}).get(name))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
