"""Random checkpoints in every published layout, written without the package's checkpoint code.

Straight loops on purpose: they are the second opinion that the reader is tested against.
"""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from mixtral.config import ModelConfig

LAYOUTS = ("hf", "hf_fused", "consolidated", "stacked")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def random_tensors(config: ModelConfig, seed: int) -> dict[str, Tensor]:
    """Return random weights under our names, scaled so that logits stay sane."""
    generator = torch.Generator().manual_seed(seed)

    def matrix(rows: int, columns: int) -> Tensor:
        values = torch.randn(rows, columns, generator=generator) * columns**-0.5
        return values.to(DTYPES[config.dtype])

    def norm() -> Tensor:
        values = 1 + 0.1 * torch.randn(config.hidden_size, generator=generator)
        return values.to(DTYPES[config.dtype])

    hidden, width = config.hidden_size, config.intermediate_size
    queries = config.num_attention_heads * config.head_dim
    keys = config.num_key_value_heads * config.head_dim
    tensors = {"model.embed_tokens.weight": matrix(config.vocab_size, hidden)}
    for n in range(config.num_hidden_layers):
        layer = f"model.layers.{n}."
        tensors[layer + "input_layernorm.weight"] = norm()
        tensors[layer + "self_attn.q_proj.weight"] = matrix(queries, hidden)
        tensors[layer + "self_attn.k_proj.weight"] = matrix(keys, hidden)
        tensors[layer + "self_attn.v_proj.weight"] = matrix(keys, hidden)
        tensors[layer + "self_attn.o_proj.weight"] = matrix(hidden, queries)
        tensors[layer + "post_attention_layernorm.weight"] = norm()
        if not config.is_dense:
            gate = matrix(config.num_local_experts, hidden)
            tensors[layer + "block_sparse_moe.gate.weight"] = gate
        for e in range(config.num_experts):
            expert = f"{layer}block_sparse_moe.experts.{e}."
            tensors[expert + "w1.weight"] = matrix(width, hidden)
            tensors[expert + "w2.weight"] = matrix(hidden, width)
            tensors[expert + "w3.weight"] = matrix(width, hidden)
    tensors["model.norm.weight"] = norm()
    if not config.tie_word_embeddings:
        tensors["lm_head.weight"] = matrix(config.vocab_size, hidden)
    return tensors


def write_random(layout: str, folder: Path, config: ModelConfig, seed: int) -> dict[str, Tensor]:
    """Write a random checkpoint and return its tensors under our names."""
    folder.mkdir(parents=True, exist_ok=True)
    ours = random_tensors(config, seed)
    if layout == "hf":
        write_hf(folder, config, ours)
    elif layout == "hf_fused":
        write_hf(folder, config, fused(config, ours))
    elif layout == "consolidated":
        torch.save(consolidated(config, ours), folder / "consolidated.00.pth")
        write_json(folder / "params.json", mistral_params(config))
    else:
        write_stacked(folder, config, ours)
    return ours


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Write a JSON file."""
    path.write_text(json.dumps(values, indent=2), encoding="utf-8")


def hf_config(config: ModelConfig) -> dict[str, Any]:
    """Return a config.json as transformers 4 wrote it for the official repositories."""
    values: dict[str, Any] = {
        "architectures": ["MistralForCausalLM" if config.is_dense else "MixtralForCausalLM"],
        "model_type": "mistral" if config.is_dense else "mixtral",
        "hidden_act": "silu",
        "torch_dtype": config.dtype,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    fields = "vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads "
    fields += "num_key_value_heads head_dim max_position_embeddings rope_theta rms_norm_eps "
    fields += "sliding_window tie_word_embeddings"
    if not config.is_dense:
        fields += " num_local_experts num_experts_per_tok"
    return values | {name: getattr(config, name) for name in fields.split()}


def mistral_params(config: ModelConfig) -> dict[str, Any]:
    """Return a params.json in Mistral's spelling."""
    values: dict[str, Any] = {
        "dim": config.hidden_size,
        "n_layers": config.num_hidden_layers,
        "head_dim": config.head_dim,
        "hidden_dim": config.intermediate_size,
        "n_heads": config.num_attention_heads,
        "n_kv_heads": config.num_key_value_heads,
        "norm_eps": config.rms_norm_eps,
        "vocab_size": config.vocab_size,
        "rope_theta": config.rope_theta,
    }
    if config.sliding_window is not None:
        values["sliding_window"] = config.sliding_window
    if not config.is_dense:
        values["moe"] = {
            "num_experts_per_tok": config.num_experts_per_tok,
            "num_experts": config.num_local_experts,
        }
    return values


def write_hf(
    folder: Path, config: ModelConfig, tensors: dict[str, Tensor], num_shards: int = 3
) -> None:
    """Write config.json, shards of safetensors and their index; one shard has no index."""
    if config.is_dense:
        tensors = {dense_hf_name(name): tensor for name, tensor in tensors.items()}
    write_json(folder / "config.json", hf_config(config))
    if num_shards == 1:
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        return
    names, weight_map = list(tensors), {}
    for shard in range(num_shards):
        file = f"model-{shard + 1:05d}-of-{num_shards:05d}.safetensors"
        part = {name: tensors[name] for name in names[shard::num_shards]}
        save_file(part, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(part, file)
    total = sum(tensor.nbytes for tensor in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    write_json(folder / "model.safetensors.index.json", index)


def dense_hf_name(name: str) -> str:
    """Return the name that transformers gives a tensor of the dense Mistral."""
    for ours, theirs in (("w1", "gate_proj"), ("w2", "down_proj"), ("w3", "up_proj")):
        name = name.replace(f"block_sparse_moe.experts.0.{ours}", f"mlp.{theirs}")
    return name


def fused(config: ModelConfig, ours: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors as transformers 5 holds them in memory."""
    tensors = {name: tensor for name, tensor in ours.items() if "block_sparse_moe" not in name}
    for n in range(config.num_hidden_layers):
        moe = f"model.layers.{n}.block_sparse_moe."
        mlp = f"model.layers.{n}.mlp."
        gate_up, down = [], []
        for e in range(config.num_local_experts):
            w1 = ours[f"{moe}experts.{e}.w1.weight"]
            w3 = ours[f"{moe}experts.{e}.w3.weight"]
            gate_up.append(torch.cat([w1, w3]))
            down.append(ours[f"{moe}experts.{e}.w2.weight"])
        tensors[mlp + "experts.gate_up_proj"] = torch.stack(gate_up)
        tensors[mlp + "experts.down_proj"] = torch.stack(down)
        tensors[mlp + "gate.weight"] = ours[moe + "gate.weight"]
    return tensors


def consolidated(config: ModelConfig, ours: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors under Mistral's names, one matrix per expert."""
    tensors = mistral_attention(config, ours)
    for n in range(config.num_hidden_layers):
        moe, theirs = f"model.layers.{n}.block_sparse_moe.", f"layers.{n}.feed_forward."
        if config.is_dense:
            for w in ("w1", "w2", "w3"):
                tensors[f"{theirs}{w}.weight"] = ours[f"{moe}experts.0.{w}.weight"]
            continue
        tensors[theirs + "gate.weight"] = ours[moe + "gate.weight"]
        for e in range(config.num_local_experts):
            for w in ("w1", "w2", "w3"):
                name = f"experts.{e}.{w}.weight"
                tensors[theirs + name] = ours[moe + name]
    return tensors


def stacked(config: ModelConfig, ours: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors under Mistral's names, experts one below the other."""
    tensors = mistral_attention(config, ours)
    for n in range(config.num_hidden_layers):
        moe, theirs = f"model.layers.{n}.block_sparse_moe.", f"layers.{n}.block_sparse_moe."
        experts = [f"{moe}experts.{e}." for e in range(config.num_local_experts)]
        tensors[theirs + "gate.weight"] = ours[moe + "gate.weight"]
        tensors[theirs + "w1"] = torch.cat([ours[e + "w1.weight"] for e in experts])
        tensors[theirs + "w2"] = torch.cat([ours[e + "w2.weight"].t() for e in experts])
        tensors[theirs + "w3"] = torch.cat([ours[e + "w3.weight"] for e in experts])
    return tensors


def write_stacked(folder: Path, config: ModelConfig, ours: dict[str, Tensor]) -> None:
    """Write the eight files of the stacked release and its params.json."""
    tensors = stacked(config, ours)
    names = list(tensors)
    for part in range(8):
        held = {name: tensors[name] for name in names[part::8]}
        torch.save(held, folder / f"consolidated.{part:02d}.pt")
    params = hf_config(config)
    del params["architectures"], params["model_type"]
    if config.sliding_window is not None:
        params["sliding_window"] = str(config.sliding_window)
    write_json(folder / "params.json", params)


def mistral_attention(config: ModelConfig, ours: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return everything but the feed-forward layers under Mistral's names."""
    tensors = {
        "tok_embeddings.weight": ours["model.embed_tokens.weight"],
        "norm.weight": ours["model.norm.weight"],
        "output.weight": ours.get("lm_head.weight", ours["model.embed_tokens.weight"]),
    }
    for n in range(config.num_hidden_layers):
        layer, theirs = f"model.layers.{n}.", f"layers.{n}."
        query, key = (
            ours[layer + "self_attn.q_proj.weight"],
            ours[layer + "self_attn.k_proj.weight"],
        )
        tensors[theirs + "attention_norm.weight"] = ours[layer + "input_layernorm.weight"]
        tensors[theirs + "attention.wq.weight"] = interleave(query, config.head_dim)
        tensors[theirs + "attention.wk.weight"] = interleave(key, config.head_dim)
        tensors[theirs + "attention.wv.weight"] = ours[layer + "self_attn.v_proj.weight"]
        tensors[theirs + "attention.wo.weight"] = ours[layer + "self_attn.o_proj.weight"]
        tensors[theirs + "ffn_norm.weight"] = ours[layer + "post_attention_layernorm.weight"]
    return tensors


def interleave(weight: Tensor, head_dim: int) -> Tensor:
    """Reorder the rows of each head from halves (0, 2, .., 1, 3, ..) to pairs (0, 1, 2, 3, ..)."""
    rows = []
    for head in range(0, len(weight), head_dim):
        for i in range(head_dim // 2):
            rows += [weight[head + i], weight[head + head_dim // 2 + i]]
    return torch.stack(rows)
