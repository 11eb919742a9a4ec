"""How PEFT's files name the adapted linears of a Mixtral.

A tensor is called ``base_model.model.`` + module + ``.lora_A.weight`` or ``.lora_B.weight``. The
modules are those of the transformers that trained the adapter:

    modules   transformers 4: model.layers.0.block_sparse_moe.experts.3.w1, one pair per linear;
              the dense Mistral 7B has mlp.gate_proj, up_proj and down_proj
    fused     transformers 5: model.layers.0.mlp.experts, one pair for all experts' gate_up_proj
              and one for their down_proj. PEFT names neither: where both are there, the first is
              mlp.experts.base_layer and the second mlp.experts; one alone is mlp.experts.
              (Their shapes tell them apart.) The router is mlp.gate, its parameter gate.weight.

Attention has the same names in both. Source: huggingface/peft 0.21.2, ``_inject_parameters`` in
tuners/tuners_utils.py; huggingface/transformers 5.23, models/mixtral/modeling_mixtral.py.
"""

import re
from collections.abc import Collection, Mapping

from mixtral.config import ModelConfig

_PREFIX = "base_model.model."
# Some versions of PEFT leave the name of the adapter, "default", in the file.
_TENSOR = re.compile(r"(?:base_model\.model\.)?(.+)\.lora_([AB])(?:\.default)?\.weight")
_EXPERTS = re.compile(r"(model\.layers\.\d+)\.mlp\.experts(?:\.base_layer)*")
_DENSE: Mapping[str, str] = {"w1": "gate_proj", "w2": "down_proj", "w3": "up_proj"}

FUSED_PARAMETERS: Mapping[str, tuple[str, ...]] = {
    "gate_up_proj": ("w1", "w3"),
    "down_proj": ("w2",),
}
"""Parameter of a layer's experts -> the linears whose rows it holds."""


def tensor_name(module: str, letter: str) -> str:
    """Return the name of a tensor in a file.

    >>> tensor_name("model.layers.0.self_attn.q_proj", "A")
    'base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight'
    """
    return f"{_PREFIX}{module}.lora_{letter}.weight"


def parse_tensor_name(name: str) -> tuple[str, str] | None:
    """Return module and letter of a tensor in a file; None where it is no LoRA matrix."""
    found = _TENSOR.fullmatch(name)
    return (found[1], found[2]) if found else None


def fused_layer(module: str) -> str | None:
    """Return the layer of which a module holds all experts, ``model.layers.N``, or None."""
    found = _EXPERTS.fullmatch(module)
    return found[1] if found else None


def our_name(module: str) -> str:
    """Return our path of a module that is one linear.

    >>> our_name("model.layers.0.mlp.gate"), our_name("model.layers.0.mlp.up_proj")
    ('model.layers.0.block_sparse_moe.gate', 'model.layers.0.block_sparse_moe.experts.0.w3')
    """
    path, _, leaf = module.rpartition(".")
    for ours, dense in _DENSE.items():
        if leaf == dense and path.endswith(".mlp"):
            return f"{path.removesuffix('mlp')}block_sparse_moe.experts.0.{ours}"
    return re.sub(
        r"^(model\.layers\.\d+\.)mlp\.(?=gate$|experts\.)", r"\1block_sparse_moe.", module
    )


def stored_name(name: str, config: ModelConfig, *, is_fused: bool) -> str:
    """Return the module by which a file calls one of our linears.

    Experts of the fused layout have no name of their own and are not asked for.
    """
    if config.is_dense and ".experts." in name:
        path, linear = name.removesuffix(name[-3:]), name[-2:]
        return path.replace("block_sparse_moe.experts.0", "mlp") + f".{_DENSE[linear]}"
    return name.replace(".block_sparse_moe.gate", ".mlp.gate") if is_fused else name


def leaf_of(module: str) -> str:
    """Return the part of a path by which modules of a kind are targeted.

    >>> leaf_of("layers.0.mlp.experts.gate_up_proj"), leaf_of("layers.0.mlp.gate.weight")
    ('gate_up_proj', 'gate.weight')
    """
    parts = module.split(".")
    return ".".join(parts[-2:] if parts[-1] == "weight" else parts[-1:])


def shortest_targets(modules: Collection[str], everything: Collection[str]) -> list[str]:
    """Return what PEFT shall look for: a kind of module where all of it is meant, else paths.

    Args:
        modules: Paths that are adapted.
        everything: Paths of all that could be.
    """
    partial = {leaf_of(module) for module in set(everything).difference(modules)}
    found = (module if leaf_of(module) in partial else leaf_of(module) for module in modules)
    return list(dict.fromkeys(found))
