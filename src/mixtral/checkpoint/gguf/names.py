"""How GGUF names the tensors of a Mixtral, and which of ours each one holds.

Files of today have all experts of a layer in one tensor [E, F, D] (``ffn_gate_exps``), those of
2023 one tensor per expert (``ffn_gate.3``), a dense model one per layer (``ffn_gate``). The rows of
query and key heads are in the order of rotary pairs, as in Mistral's own files, because
llama.cpp's converter permutes Hugging Face's; ``mixtral.checkpoint.names`` explains the order.

    ours                    GGUF
    model.embed_tokens      token_embd
    input_layernorm         blk.N.attn_norm
    self_attn.q_proj        blk.N.attn_q        pairs
    self_attn.k_proj        blk.N.attn_k        pairs
    self_attn.v_proj        blk.N.attn_v
    self_attn.o_proj        blk.N.attn_output
    post_attention_layernorm  blk.N.ffn_norm
    block_sparse_moe.gate   blk.N.ffn_gate_inp
    experts.E.w1            blk.N.ffn_gate_exps[E], blk.N.ffn_gate.E, blk.N.ffn_gate
    experts.E.w2            blk.N.ffn_down_exps[E], ...
    experts.E.w3            blk.N.ffn_up_exps[E], ...
    model.norm              output_norm
    lm_head                 output

Source: ggml-org/llama.cpp, gguf-py/gguf/constants.py and conversion of LlamaForCausalLM.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal

from mixtral.checkpoint.names import Cut, canonical_shapes
from mixtral.config import ModelConfig

Experts = Literal["merged", "single"]
"""Whether the experts of a layer are one tensor or one each; dense models have "single"."""

_NAMES: Mapping[str, str] = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}
_LAYER_NAMES: Mapping[str, str] = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "block_sparse_moe.gate": "ffn_gate_inp",
}
_EXPERT_NAMES: Mapping[str, str] = {"w1": "ffn_gate", "w2": "ffn_down", "w3": "ffn_up"}
_CUTS: Mapping[str, Cut] = {"attn_q": Cut.QUERY_PAIRS, "attn_k": Cut.KEY_PAIRS}
_OURS = re.compile(
    r"model\.layers\.(?P<n>\d+)\.(?:(?P<part>[a-z_.]+?)|"
    r"block_sparse_moe\.experts\.(?P<e>\d+)\.(?P<matrix>w[123]))\.weight"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Where one of our tensors is in a GGUF file."""

    name: str
    """The stored tensor."""
    shape: tuple[int, ...]
    """The shape of the stored tensor."""
    expert: int | None
    """Which entry of its first axis is ours; None where the whole tensor is."""
    cut: Cut
    """How its rows are ordered."""


def places(config: ModelConfig, experts: Experts) -> dict[str, Place]:
    """Return where each of our tensors is, by our name, in our order; a tied head is left out."""
    return {
        ours: _place(ours, shape, config, experts)
        for ours, shape in canonical_shapes(config).items()
    }


def experts_in(names: Collection[str]) -> Experts:
    """Tell from the names of a file how it keeps its experts."""
    return "merged" if any("_exps." in name for name in names) else "single"


def _place(ours: str, shape: tuple[int, ...], config: ModelConfig, experts: Experts) -> Place:
    if ours in _NAMES:
        return Place(name=_NAMES[ours], shape=shape, expert=None, cut=Cut.WHOLE)
    match = _OURS.fullmatch(ours)
    assert match is not None, ours
    layer = f"blk.{match['n']}."
    if match["part"]:
        part = _LAYER_NAMES[match["part"]]
        cut = _CUTS.get(part, Cut.WHOLE)
        return Place(name=f"{layer}{part}.weight", shape=shape, expert=None, cut=cut)
    matrix, expert = _EXPERT_NAMES[match["matrix"]], int(match["e"])
    if experts == "merged":
        stored = (config.num_local_experts, *shape)
        name = f"{layer}{matrix}_exps.weight"
        return Place(name=name, shape=stored, expert=expert, cut=Cut.WHOLE)
    name = f"{layer}{matrix}.weight" if config.is_dense else f"{layer}{matrix}.{expert}.weight"
    return Place(name=name, shape=shape, expert=None, cut=Cut.WHOLE)
