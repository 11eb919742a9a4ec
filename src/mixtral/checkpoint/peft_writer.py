"""From an adapter to the tensors of a PEFT file and the description beside them."""

import json
import os
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mixtral.checkpoint.peft_config import PeftConfig
from mixtral.checkpoint.peft_experts import pack_experts
from mixtral.checkpoint.peft_names import (
    FUSED_PARAMETERS,
    shortest_targets,
    stored_name,
    tensor_name,
)
from mixtral.config import ModelConfig
from mixtral.model.adapter import EXPERT_LINEARS, Adapter, LoraMatrices, adaptable_linears


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredMatrices:
    """What a file holds, under the paths of the modules and parameters that it adapts."""

    modules: Mapping[str, LoraMatrices]
    """Module that is one linear -> its matrices."""
    parameters: Mapping[str, LoraMatrices]
    """Parameter -> its pair: routers, and all experts of a layer; empty by modules."""
    is_fused: bool
    """Whether the paths are those of transformers 5."""


def stored_matrices(adapter: Adapter, config: ModelConfig, *, is_fused: bool) -> StoredMatrices:
    """Return an adapter as a layout holds it."""
    modules = {
        stored_name(name, config, is_fused=is_fused): matrices
        for name, matrices in adapter.matrices.items()
        if not (is_fused and ".experts." in name)
    }
    parameters = _fused_experts(adapter, config) if is_fused else {}
    if is_fused:
        # To transformers 5 a router is no linear; its weight is a parameter.
        routers = [module for module in modules if module.endswith(".mlp.gate")]
        parameters |= {f"{module}.weight": modules.pop(module) for module in routers}
    return StoredMatrices(modules=modules, parameters=parameters, is_fused=is_fused)


def describe(stored: StoredMatrices, config: ModelConfig, base_model: str | None) -> dict[str, Any]:
    """Return the contents of adapter_config.json."""
    names = adaptable_linears(config)
    every_module = [stored_name(name, config, is_fused=stored.is_fused) for name in names]
    ranks = {module: matrices.rank for module, matrices in stored.modules.items()}
    for parameter, pair in stored.parameters.items():
        is_router = parameter.endswith("gate.weight")
        ranks[parameter] = pair.rank if is_router else pair.rank // config.num_experts
    both = {**stored.modules, **stored.parameters}
    scales = {name: matrices.scale for name, matrices in both.items()}
    values = PeftConfig.describing(ranks, scales, base_model).to_json()
    values["target_modules"] = shortest_targets(stored.modules, every_module)
    if stored.parameters:
        kinds = ("gate.weight", *(f"experts.{parameter}" for parameter in FUSED_PARAMETERS))
        layers = range(config.num_hidden_layers)
        every_parameter = [f"model.layers.{n}.mlp.{kind}" for n in layers for kind in kinds]
        values["target_parameters"] = shortest_targets(stored.parameters, every_parameter)
    return values


def write_tensors(path: Path, stored: StoredMatrices, metadata: Mapping[str, str]) -> None:
    """Write the matrices as one safetensors file, float32, and wait until it is on disk.

    Args:
        path: The file.
        stored: What it shall hold.
        metadata: What its header shall say besides.

    Raises:
        OSError: It cannot be written.
    """
    header: dict[str, object] = {"__metadata__": {"format": "pt", **metadata}}
    begin = 0
    for name, tensor in _tensors(stored):
        end = begin + 4 * tensor.numel()
        header[name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": [begin, end]}
        begin = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text = text.ljust(-(-len(text) // 8) * 8)  # 8: readers map the tensors as they lie.
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for _, tensor in _tensors(stored):
            file.write(tensor.detach().to("cpu", torch.float32).contiguous().numpy().data)
        file.flush()
        os.fsync(file.fileno())


def _fused_experts(adapter: Adapter, config: ModelConfig) -> dict[str, LoraMatrices]:
    """Return parameter -> pair for the experts of each layer that has adapted ones."""
    every = adaptable_linears(config)
    first = "model.layers.0.block_sparse_moe.experts.0."
    shapes = {linear: every[first + linear] for linear in EXPERT_LINEARS}
    found = {}
    for layer in range(config.num_hidden_layers):
        prefix = f"model.layers.{layer}.block_sparse_moe.experts."
        for parameter, linears in FUSED_PARAMETERS.items():
            names = [{x: f"{prefix}{e}.{x}" for x in linears} for e in range(config.num_experts)]
            experts = [
                {x: adapter.matrices[name] for x, name in e.items() if name in adapter.matrices}
                for e in names
            ]
            if any(experts):
                packed = pack_experts(experts, linears, shapes)
                found[f"model.layers.{layer}.mlp.experts.{parameter}"] = packed
    return found


def _tensors(stored: StoredMatrices) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors under the names that PEFT looks for."""
    for module, matrices in stored.modules.items():
        yield from _pair(module, matrices)
    for parameter, matrices in stored.parameters.items():
        module, _, leaf = parameter.rpartition(".")
        # PEFT wraps the first parameter of a module before the second, see peft_names.
        if leaf == "gate_up_proj" and f"{module}.down_proj" in stored.parameters:
            module += ".base_layer"
        yield from _pair(module, matrices)


def _pair(module: str, matrices: LoraMatrices) -> Iterator[tuple[str, Tensor]]:
    yield tensor_name(module, "A"), matrices.a
    yield tensor_name(module, "B"), matrices.b
