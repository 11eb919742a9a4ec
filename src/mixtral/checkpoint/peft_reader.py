"""From the tensors of a PEFT file to one pair of matrices per linear, each of them checked."""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from mixtral.checkpoint.containers import DTYPES, WeightFile
from mixtral.checkpoint.names import list_tensors
from mixtral.checkpoint.peft_config import CONFIG_FILE, PeftConfig
from mixtral.checkpoint.peft_experts import unpack_experts
from mixtral.checkpoint.peft_names import (
    FUSED_PARAMETERS,
    fused_layer,
    our_name,
    parse_tensor_name,
)
from mixtral.config import ModelConfig
from mixtral.errors import CheckpointError
from mixtral.model.adapter import LoraMatrices, adaptable_linears, check_matrices


def read_matrices(
    file: WeightFile, settings: PeftConfig, config: ModelConfig
) -> dict[str, LoraMatrices]:
    """Return our names and matrices of everything in a file, in the order of the model.

    Raises:
        CheckpointError: A tensor is missing, twice there, unknown, not finite, or of another model.
    """
    shapes = adaptable_linears(config)
    found: dict[str, LoraMatrices] = {}
    for module, (a, b) in _pairs(file).items():
        if layer := fused_layer(module):
            part = _read_experts(file.path, layer, a, b, settings, config)
        else:
            part = {our_name(module): _read_linear(file.path, module, a, b, settings, shapes)}
        if twice := sorted(found.keys() & part.keys()):
            raise CheckpointError(f"{file.path} adapts {twice[0]} twice, in two layouts.")
        found |= part
    return {name: found[name] for name in shapes if name in found}


def _pairs(file: WeightFile) -> dict[str, tuple[Tensor, Tensor]]:
    """Return A and B of each module of a file, as they are stored."""
    found: dict[str, dict[str, Tensor]] = {}
    for name, stored in file.tensors.items():
        parsed = parse_tensor_name(name)
        if parsed is None:
            raise CheckpointError(
                f"{file.path}: tensor {name} is no LoRA matrix of a linear; only those of "
                "attention, router and experts can be used."
            )
        if stored.dtype not in DTYPES:
            raise CheckpointError(
                f"{file.path}: tensor {name} has dtype {stored.dtype}; it must be one of "
                f"{', '.join(DTYPES)}."
            )
        found.setdefault(parsed[0], {})[parsed[1]] = file.read(stored)
    alone = [
        f"{module}.lora_{'B' if 'A' in p else 'A'}" for module, p in found.items() if len(p) < 2
    ]
    if alone:
        raise CheckpointError(f"{file.path} lacks {list_tensors(alone)}; copy it again.")
    return {module: (pair["A"], pair["B"]) for module, pair in found.items()}


def _read_linear(
    path: Path,
    module: str,
    a: Tensor,
    b: Tensor,
    settings: PeftConfig,
    shapes: Mapping[str, tuple[int, int]],
) -> LoraMatrices:
    name = our_name(module)
    if name not in shapes:
        raise CheckpointError(
            f"{path} adapts {module}, which this model does not have; is it for another model?"
        )
    parameter = f"{module}.weight" if module.endswith(".mlp.gate") else module
    matrices = LoraMatrices(a=a.float(), b=b.float(), scale=settings.scale_of(parameter))
    _check(path, name, matrices, shapes[name])
    _check_rank(path, name, matrices.rank, settings.rank_of(parameter))
    return matrices


def _read_experts(
    path: Path,
    layer: str,
    a: Tensor,
    b: Tensor,
    settings: PeftConfig,
    config: ModelConfig,
) -> dict[str, LoraMatrices]:
    """Return the matrices of each expert in one pair, by our names."""
    prefix = f"{layer}.block_sparse_moe.experts"
    if config.is_dense or f"{prefix}.0.w1" not in adaptable_linears(config):
        raise CheckpointError(
            f"{path} adapts the experts of {layer}, which this model does not have; is it for "
            "another model?"
        )
    hidden, width, num_experts = config.hidden_size, config.intermediate_size, config.num_experts
    weights = {"gate_up_proj": (2 * width, hidden), "down_proj": (hidden, width)}
    fitting = [p for p, (out, size) in weights.items() if (b.shape[0], a.shape[1]) == (out, size)]
    if not fitting or a.shape[0] % num_experts or a.shape[0] != b.shape[1]:
        raise CheckpointError(
            f"{path} has A {list(a.shape)} and B {list(b.shape)} for the experts of {layer}; this "
            f"model has {num_experts} experts with gate_up_proj {list(weights['gate_up_proj'])} "
            f"and down_proj {list(weights['down_proj'])}. Is it for another model?"
        )
    parameter = f"{layer}.mlp.experts.{fitting[0]}"
    _check_rank(path, parameter, a.shape[0] // num_experts, settings.rank_of(parameter))
    pair = LoraMatrices(a=a.float(), b=b.float(), scale=settings.scale_of(parameter))
    _check(path, parameter, pair, (b.shape[0], a.shape[1]))
    experts = unpack_experts(pair, FUSED_PARAMETERS[fitting[0]], num_experts)
    return {
        f"{prefix}.{e}.{linear}": matrices
        for e, linears in enumerate(experts)
        for linear, matrices in linears.items()
    }


def _check(path: Path, name: str, matrices: LoraMatrices, shape: tuple[int, int]) -> None:
    try:
        check_matrices(name, matrices, shape)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error


def _check_rank(path: Path, name: str, rank: int, said: int) -> None:
    if rank != said:
        raise CheckpointError(
            f"{path} has rank {rank} for {name}; {CONFIG_FILE} says {said}. The two files are of "
            "different adapters, or the adapter is for another model."
        )
