"""Which tensors a packed checkpoint holds: names, shapes and types, from config and recipe.

A packed checkpoint has the names of the Hugging Face layout, one matrix per expert. Matrices in a
low-bit format are tensors of bytes, [panels, bytes of a panel], and end in ``.packed`` instead of
``.weight``; the other tensors are stored as in any checkpoint. The head is always there: a tied one
is packed from the embedding, so a packed model is never tied.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from mixtral.checkpoint.names import EMBEDDING, HEAD, Cut, ExpectedTensor, Piece, expected_tensors
from mixtral.config import ModelConfig
from mixtral.quantization import QuantizationRecipe, is_low_bit, kept_dtype, packed_shape

_WEIGHT, _PACKED = ".weight", ".packed"


@dataclass(frozen=True, kw_only=True, slots=True)
class PackedTensor:
    """One tensor of a packed checkpoint."""

    name: str
    """Our name of it."""
    stored: str
    """Its name in the file."""
    source: str
    """Our name of the weight that it is made from."""
    letters: str
    """Shape of that weight, in letters."""
    format: str | None
    """Its low-bit format or dtype as the recipe says; None where the recipe leaves it alone."""
    dtype: str
    """Type of the stored elements: uint8 where it is packed."""
    shape: tuple[int, ...]
    """Shape as stored."""


def packed_name(name: str) -> str:
    """Return the name of the packed form of a weight.

    >>> packed_name("lm_head.weight")
    'lm_head.packed'
    """
    return name.removesuffix(_WEIGHT) + _PACKED


def packed_tensors(
    config: ModelConfig, recipe: QuantizationRecipe, dtypes: Mapping[str, str] | None = None
) -> list[PackedTensor]:
    """Return the tensors of a packed checkpoint, in the order of the model.

    Args:
        config: The model before or after packing.
        recipe: Formats of its parts.
        dtypes: Our names and dtypes of the weights before packing, for those that stay as they
            are; None is the config's dtype for all.
    """
    found = []
    untied = config.replace(tie_word_embeddings=False)
    for name, weight in expected_tensors(untied, "hf").items():
        ours = weight.pieces[0].ours
        of_format = recipe.format_of(ours)
        is_packed = is_low_bit(of_format)
        before = (dtypes or {}).get(ours, config.dtype)
        found.append(
            PackedTensor(
                name=packed_name(ours) if is_packed else ours,
                stored=packed_name(name) if is_packed else name,
                source=EMBEDDING if ours == HEAD and config.tie_word_embeddings else ours,
                letters=weight.letters,
                format=of_format,
                dtype="uint8" if is_packed else of_format or kept_dtype(before),
                shape=packed_shape(of_format, *weight.shape)
                if is_low_bit(of_format)
                else weight.shape,
            )
        )
    return found


def expected_packed(config: ModelConfig, recipe: QuantizationRecipe) -> dict[str, ExpectedTensor]:
    """Return what a packed checkpoint must hold, by stored name."""
    return {
        tensor.stored: ExpectedTensor(
            letters=tensor.letters,
            shape=tensor.shape,
            pieces=(Piece(ours=tensor.name, cut=Cut.WHOLE, expert=0),),
            format=tensor.format,
        )
        for tensor in packed_tensors(config, recipe)
    }
