"""One table: how each published layout names, shapes and arranges the tensors of a Mixtral.

Our names are Hugging Face's per-expert names (transformers 4). Each row of the table below is one
kind of tensor; its columns say under which name the other layouts store it, in which shape, and
how to cut our tensor out of theirs:

    hf            one matrix per expert; the dense Mistral 7B has mlp.gate_proj, up_proj, down_proj
    hf_fused      transformers 5 in memory: all experts of a layer in two tensors,
                  gate_up_proj [E, 2F, D] (rows of w1, then rows of w3) and down_proj [E, D, F]
    consolidated  Mistral's own names, one matrix per expert
    stacked       the release in eight files: experts one below the other, [E * F, D]; its w2 is
                  stored like w1 and w3, so each expert's block of it is the transpose of ours

The two Mistral layouts keep the rows of a query or key head as rotary pairs, (0, 1), (2, 3), ...;
Hugging Face keeps first all even members, then all odd ones. With K = 4, Mistral's rows a b c d are
Hugging Face's rows a c b d. Confusing the two still gives fluent text, and wrong logits.

Layouts are told apart by the names found, never by the file's name. Nothing here touches a file.
Sources: huggingface/transformers, convert_mixtral_weights_to_hf.py at 15ea02a2add1 (stacked),
conversion_mapping.py of 5.23 (fused); mistralai/mistral-inference, transformer.py (consolidated).

Letters: V vocabulary, D hidden, H query heads, G key-value heads, K head width, E experts,
F width of an expert; HK is the product of H and K.
"""

import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import Literal, get_args

from torch import Tensor

from mixtral.config import ModelConfig

Layout = Literal["hf", "hf_fused", "consolidated", "stacked"]


class Cut(Enum):
    """How one of our tensors sits inside a stored one."""

    WHOLE = auto()
    """The stored tensor is ours."""
    QUERY_PAIRS = auto()
    """The same rows, in the order of rotary pairs, H heads."""
    KEY_PAIRS = auto()
    """The same rows, in the order of rotary pairs, G heads."""
    EXPERT = auto()
    """Entry e of the first axis."""
    EXPERT_FIRST_HALF = auto()
    """Entry e of the first axis, its first F rows."""
    EXPERT_SECOND_HALF = auto()
    """Entry e of the first axis, its last F rows."""
    EXPERT_ROWS = auto()
    """Rows e * F to (e + 1) * F."""
    EXPERT_ROWS_TRANSPOSED = auto()
    """Rows e * F to (e + 1) * F, transposed."""


@dataclass(frozen=True, slots=True)
class Stored:
    """One column of the table: where a layout keeps a kind of tensor."""

    name: str
    """The stored name; ``{n}`` is the layer, ``{e}`` the expert."""
    shape: str = ""
    """The stored shape in letters; empty where it is the shape of ours."""
    cut: Cut = Cut.WHOLE
    """How ours is cut out of it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TensorKind:
    """One row of the table: a kind of tensor in our naming and in each layout's."""

    ours: str
    """Our name; ``{n}`` is the layer, ``{e}`` the expert."""
    shape: str
    """Our shape in letters."""
    hf: Stored
    """Hugging Face, one matrix per expert."""
    hf_fused: Stored
    """Hugging Face, all experts of a layer in one tensor."""
    consolidated: Stored
    """Mistral, one matrix per expert."""
    stacked: Stored
    """Mistral, experts one below the other."""


def _kind(
    ours: str,
    shape: str,
    mistral: str,
    *,
    hf: str = "",
    hf_fused: Stored | None = None,
    stacked: Stored | None = None,
    mistral_cut: Cut = Cut.WHOLE,
) -> TensorKind:
    hugging_face = Stored(hf or ours)
    consolidated = Stored(mistral, cut=mistral_cut)
    return TensorKind(
        ours=ours,
        shape=shape,
        hf=hugging_face,
        hf_fused=hf_fused or hugging_face,
        consolidated=consolidated,
        stacked=stacked or consolidated,
    )


EMBEDDING = "model.embed_tokens.weight"
HEAD = "lm_head.weight"

_LAYER = "model.layers.{n}."
_MOE = "model.layers.{n}.block_sparse_moe."
_FUSED = "model.layers.{n}.mlp."
_STACKED = "layers.{n}.block_sparse_moe."
_FEED_FORWARD = "layers.{n}.feed_forward."

FIRST_KIND = _kind(EMBEDDING, "V D", "tok_embeddings.weight")
ATTENTION_KINDS = (
    _kind(_LAYER + "input_layernorm.weight", "D", "layers.{n}.attention_norm.weight"),
    _kind(
        _LAYER + "self_attn.q_proj.weight",
        "HK D",
        "layers.{n}.attention.wq.weight",
        mistral_cut=Cut.QUERY_PAIRS,
    ),
    _kind(
        _LAYER + "self_attn.k_proj.weight",
        "GK D",
        "layers.{n}.attention.wk.weight",
        mistral_cut=Cut.KEY_PAIRS,
    ),
    _kind(_LAYER + "self_attn.v_proj.weight", "GK D", "layers.{n}.attention.wv.weight"),
    _kind(_LAYER + "self_attn.o_proj.weight", "D HK", "layers.{n}.attention.wo.weight"),
    _kind(_LAYER + "post_attention_layernorm.weight", "D", "layers.{n}.ffn_norm.weight"),
)
MOE_KINDS = (
    _kind(
        _MOE + "gate.weight",
        "E D",
        _FEED_FORWARD + "gate.weight",
        hf_fused=Stored(_FUSED + "gate.weight"),
        stacked=Stored(_STACKED + "gate.weight"),
    ),
    _kind(
        _MOE + "experts.{e}.w1.weight",
        "F D",
        _FEED_FORWARD + "experts.{e}.w1.weight",
        hf_fused=Stored(_FUSED + "experts.gate_up_proj", "E 2F D", Cut.EXPERT_FIRST_HALF),
        stacked=Stored(_STACKED + "w1", "EF D", Cut.EXPERT_ROWS),
    ),
    _kind(
        _MOE + "experts.{e}.w2.weight",
        "D F",
        _FEED_FORWARD + "experts.{e}.w2.weight",
        hf_fused=Stored(_FUSED + "experts.down_proj", "E D F", Cut.EXPERT),
        stacked=Stored(_STACKED + "w2", "EF D", Cut.EXPERT_ROWS_TRANSPOSED),
    ),
    _kind(
        _MOE + "experts.{e}.w3.weight",
        "F D",
        _FEED_FORWARD + "experts.{e}.w3.weight",
        hf_fused=Stored(_FUSED + "experts.gate_up_proj", "E 2F D", Cut.EXPERT_SECOND_HALF),
        stacked=Stored(_STACKED + "w3", "EF D", Cut.EXPERT_ROWS),
    ),
)
DENSE_KINDS = tuple(
    _kind(
        _MOE + "experts.{e}." + matrix,
        shape,
        _FEED_FORWARD + matrix,
        hf=_FUSED + hugging_face,
    )
    for matrix, shape, hugging_face in (
        ("w1.weight", "F D", "gate_proj.weight"),
        ("w2.weight", "D F", "down_proj.weight"),
        ("w3.weight", "F D", "up_proj.weight"),
    )
)
LAST_KINDS = (
    _kind("model.norm.weight", "D", "norm.weight"),
    _kind(HEAD, "V D", "output.weight"),
)

# Rotary frequencies follow from the config; some exporters saved them all the same.
_HARMLESS = re.compile(r"(.*\.)?(rotary_emb\.inv_freq|rope\.freqs|freqs_cis)")
_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")


@dataclass(frozen=True, kw_only=True, slots=True)
class Piece:
    """One of our tensors inside a stored one."""

    ours: str
    cut: Cut
    expert: int


@dataclass(frozen=True, kw_only=True, slots=True)
class ExpectedTensor:
    """A tensor that a layout must hold for a given config."""

    letters: str
    shape: tuple[int, ...]
    pieces: tuple[Piece, ...]
    format: str | None = None
    """The low-bit format or dtype that it must have; None where any dtype of weights will do."""


def canonical_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Return our name and shape of every tensor, in order; a tied head is left out."""
    return {
        kind.ours.format(n=n, e=e): _sizes(kind.shape, config)
        for kind, n, e in _instances(config)
        if not (config.tie_word_embeddings and kind.ours == HEAD)
    }


def expected_tensors(config: ModelConfig, layout: Layout) -> dict[str, ExpectedTensor]:
    """Return what a checkpoint of this layout holds, by stored name; a tied head included."""
    letters: dict[str, str] = {}
    pieces: dict[str, list[Piece]] = {}
    for kind, n, e in _instances(config):
        stored = column(kind, layout)
        name = stored.name.format(n=n, e=e)
        letters[name] = stored.shape or kind.shape
        piece = Piece(ours=kind.ours.format(n=n, e=e), cut=stored.cut, expert=e)
        pieces.setdefault(name, []).append(piece)
    return {
        name: ExpectedTensor(
            letters=letters[name], shape=_sizes(letters[name], config), pieces=tuple(found)
        )
        for name, found in pieces.items()
    }


def stored_names(
    config: ModelConfig, layout: Literal["hf", "consolidated"]
) -> dict[str, tuple[str, Cut]]:
    """Return, for each of our names, the name and the arrangement to write it in."""
    found = {}
    for kind, n, e in _instances(config):
        stored = column(kind, layout)
        found[kind.ours.format(n=n, e=e)] = (stored.name.format(n=n, e=e), stored.cut)
    return found


def column(kind: TensorKind, layout: Layout) -> Stored:
    """Return the column of a row that belongs to a layout."""
    stored: Stored = getattr(kind, layout)
    return stored


def detect_layout(names: Collection[str]) -> Layout | None:
    """Return the layout that explains most of the names, or None where none explains any.

    >>> detect_layout(["norm.weight", "layers.0.block_sparse_moe.w1"])
    'stacked'
    """
    patterns = Counter(_NUMBER.sub("#", name) for name in names)
    scores: dict[Layout, int] = {}
    for layout in get_args(Layout):
        known = {
            column(kind, layout).name.format(n="#", e="#")
            for kind in (FIRST_KIND, *ATTENTION_KINDS, *MOE_KINDS, *DENSE_KINDS, *LAST_KINDS)
        }
        scores[layout] = sum(count for name, count in patterns.items() if name in known)
    best = max(scores, key=lambda layout: scores[layout])
    return best if scores[best] else None


def is_harmless_extra(name: str) -> bool:
    """Return whether a tensor that the table does not know may be skipped."""
    return _HARMLESS.fullmatch(name) is not None


def layer_of(name: str) -> int | None:
    """Return the number of the layer that a tensor of any layout belongs to."""
    found = re.match(r"(?:model\.)?layers\.(\d+)\.", name)
    return int(found.group(1)) if found else None


def expert_of(name: str) -> int | None:
    """Return the number of the expert that a tensor of any layout belongs to."""
    found = re.search(r"\.experts\.(\d+)\.", name)
    return int(found.group(1)) if found else None


def extract(stored: Tensor, piece: Piece, config: ModelConfig) -> Tensor:
    """Cut one of our tensors out of a stored one.

    Returns a view where the layout allows it, else a fresh contiguous tensor (rotary pairs and
    the transposed w2).
    """
    e, width = piece.expert, config.intermediate_size
    match piece.cut:
        case Cut.WHOLE:
            return stored
        case Cut.QUERY_PAIRS:
            return _pairs_to_halves(stored, config.num_attention_heads)
        case Cut.KEY_PAIRS:
            return _pairs_to_halves(stored, config.num_key_value_heads)
        case Cut.EXPERT:
            return stored[e]
        case Cut.EXPERT_FIRST_HALF:
            return stored[e, :width]
        case Cut.EXPERT_SECOND_HALF:
            return stored[e, width:]
        case Cut.EXPERT_ROWS:
            return stored[e * width : (e + 1) * width]
        case Cut.EXPERT_ROWS_TRANSPOSED:
            return stored[e * width : (e + 1) * width].t().contiguous()


def arrange(ours: Tensor, cut: Cut, config: ModelConfig) -> Tensor:
    """Put one of our tensors into the arrangement of a layout that this package writes."""
    if cut is Cut.QUERY_PAIRS:
        return _halves_to_pairs(ours, config.num_attention_heads)
    if cut is Cut.KEY_PAIRS:
        return _halves_to_pairs(ours, config.num_key_value_heads)
    return ours


def list_tensors(names: Collection[str]) -> str:
    """Return how many names there are and the first of them, for messages.

    >>> list_tensors(["a", "b", "c", "d"])
    '4 tensors: a, b, c and 1 more'
    """
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{len(names)} tensor{'s'[: len(names) > 1]}: {', '.join(list(names)[:3])}{more}"


def describe_shape(letters: str, config: ModelConfig) -> str:
    """Return a shape as the config's fields and their values, for messages.

    >>> describe_shape("V D", ModelConfig.preset("8x7b"))
    '[vocab_size, hidden_size] = [32000, 4096]'
    """
    fields = ", ".join(_FIELDS[letter] for letter in letters.split())
    return f"[{fields}] = {list(_sizes(letters, config))}"


_FIELDS: Mapping[str, str] = {
    "V": "vocab_size",
    "D": "hidden_size",
    "F": "intermediate_size",
    "2F": "2 * intermediate_size",
    "E": "num_local_experts",
    "EF": "num_local_experts * intermediate_size",
    "HK": "num_attention_heads * head_dim",
    "GK": "num_key_value_heads * head_dim",
}


def _sizes(letters: str, config: ModelConfig) -> tuple[int, ...]:
    values = {
        "V": config.vocab_size,
        "D": config.hidden_size,
        "F": config.intermediate_size,
        "2F": 2 * config.intermediate_size,
        "E": config.num_local_experts,
        "EF": config.num_local_experts * config.intermediate_size,
        "HK": config.num_attention_heads * config.head_dim,
        "GK": config.num_key_value_heads * config.head_dim,
    }
    return tuple(values[letter] for letter in letters.split())


def _instances(config: ModelConfig) -> Iterator[tuple[TensorKind, int, int]]:
    """Yield each row with each layer and expert that it stands for, layer by layer."""
    block = DENSE_KINDS if config.is_dense else MOE_KINDS
    yield FIRST_KIND, 0, 0
    for n in range(config.num_hidden_layers):
        for kind in ATTENTION_KINDS + block:
            for e in range(config.num_experts if "{e}" in kind.ours else 1):
                yield kind, n, e
    for kind in LAST_KINDS:
        yield kind, 0, 0


def _pairs_to_halves(weight: Tensor, heads: int) -> Tensor:
    rows, columns = weight.shape
    pairs = weight.view(heads, rows // heads // 2, 2, columns)
    return pairs.transpose(1, 2).reshape(rows, columns)


def _halves_to_pairs(weight: Tensor, heads: int) -> Tensor:
    rows, columns = weight.shape
    halves = weight.view(heads, 2, rows // heads // 2, columns)
    return halves.transpose(1, 2).reshape(rows, columns)
