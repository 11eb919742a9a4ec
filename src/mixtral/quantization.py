"""Which format each part of a low-bit model has, how large that makes it, and how a file says so.

A matrix [N, K] in a low-bit format is cut into panels of 32 rows and groups of 128 columns, padded
with zeros where it does not divide; one group of one panel takes the bytes of ``GROUP_BYTES``,
scales included. A recipe gives each part of the model such a format, or a plain dtype:

    experts      w1, w2, w3 of every expert: 96 % of 8x7B
    attention    q, k, v and o of every layer
    lm_head      the output head; a tied one becomes a matrix of its own

Everything else stays as it is: the norms, the router, because one changed choice of an expert costs
more than all the bits in it, and the embedding (bfloat16), of which a step reads one row per token.

A packed checkpoint has ``NAME.packed`` in the place of ``NAME.weight``, and the recipe in the
``quantization_config`` of its config.json, which ``to_json`` writes and ``from_json`` reads. This
file knows names and sizes alone; the layout of the bytes is the business of the kernels.
"""

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Self, TypeGuard, get_args

from mixtral.errors import ConfigError, UnsupportedError

if TYPE_CHECKING:
    from mixtral.config import ModelConfig

Part = Literal["experts", "attention", "lm_head"]

PANEL_ROWS = 32
"""Rows of a matrix that are packed together."""
GROUP_SIZE = 128
"""Weights of a row that share one scale."""
GROUP_BYTES: Mapping[str, int] = {"int8": 4224, "int4": 2176, "int3": 1664}
"""Bytes of one group of one panel, scales included, by low-bit format."""
QUANT_METHOD = "mixtral"
"""What ``quantization_config`` calls the formats of this package."""
FORMAT_VERSION = 1
"""Version of the layout of the bytes; a change that old readers would get wrong raises it."""

_DTYPE_BYTES: Mapping[str, int] = {"float32": 4, "bfloat16": 2, "float16": 2}
_PARTS: Mapping[Part, re.Pattern[str]] = {
    "experts": re.compile(r".*\.experts\.\d+\.w[123]\.weight"),
    "attention": re.compile(r".*\.self_attn\.[qkvo]_proj\.weight"),
    "lm_head": re.compile(r"lm_head\.weight"),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class QuantizationOrigin:
    """How a packed checkpoint was made."""

    source: str
    """Name of the model that was packed."""
    tool: str
    """Who packed it: ``mixtral`` and its version."""
    calibration: str | None = None
    """On which text the rounding was calibrated; None is plain rounding."""


@dataclass(frozen=True, kw_only=True, slots=True)
class QuantizationRecipe:
    """One format for each part of a model.

    Raises:
        ConfigError: A part has a format that does not exist.
    """

    name: str
    """What a user calls it."""
    experts: str
    """Format of w1, w2 and w3 of every expert."""
    attention: str
    """Format of the q, k, v and o projections."""
    lm_head: str
    """Format of the output head."""
    origin: QuantizationOrigin | None = field(default=None, compare=False)
    """How a checkpoint of this recipe was made; says nothing about its layout."""

    def __post_init__(self) -> None:
        """Check every part."""
        allowed = (*GROUP_BYTES, *_DTYPE_BYTES)
        for part in get_args(Part):
            if getattr(self, part) not in allowed:
                raise ConfigError(
                    f"quantization of {part} is {getattr(self, part)!r}; "
                    f"it must be one of {', '.join(allowed)}."
                )

    def format_of(self, name: str) -> str | None:
        """Return the format of the weight with this name of ours; None keeps it as it is.

        >>> RECIPES["int3"].format_of("model.layers.0.block_sparse_moe.experts.7.w2.weight")
        'int3'
        >>> RECIPES["int3"].format_of("model.layers.0.block_sparse_moe.gate.weight")
        """
        if name == "model.embed_tokens.weight":
            return "bfloat16"
        for part, pattern in _PARTS.items():
            if pattern.fullmatch(name):
                found: str = getattr(self, part)
                return found
        return None

    def packed_bytes(self, config: "ModelConfig") -> int:
        """Return the bytes of all weights of a model in this recipe, embedding and norms included.

        Args:
            config: The model before or after packing; its ``dtype`` is that of norms and router.
        """
        width, queries = config.hidden_size, config.num_attention_heads * config.head_dim
        keys = config.num_key_value_heads * config.head_dim
        attention = 2 * matrix_bytes(self.attention, keys, width)
        attention += matrix_bytes(self.attention, queries, width)
        attention += matrix_bytes(self.attention, width, queries)
        expert = 2 * matrix_bytes(self.experts, config.intermediate_size, width)
        expert += matrix_bytes(self.experts, width, config.intermediate_size)
        # Norms before attention and experts, the router, and at the end one norm more.
        small = config.num_hidden_layers * (2 + config.num_local_experts) * width + width
        return (
            config.num_hidden_layers * (attention + config.num_experts * expert)
            + matrix_bytes("bfloat16", config.vocab_size, width)
            + matrix_bytes(self.lm_head, config.vocab_size, width)
            + small * _DTYPE_BYTES[kept_dtype(config.dtype)]
        )

    def bits_per_weight(self, config: "ModelConfig") -> float:
        """Return the bits that one weight of the model takes, over everything that is stored.

        >>> from mixtral.config import ModelConfig
        >>> f"{RECIPES['int3'].bits_per_weight(ModelConfig.preset('8x7b')):.2f}"
        '3.33'
        """
        return 8 * self.packed_bytes(config) / config.num_parameters

    def made_from(self, source: str, *, tool: str, calibration: str | None = None) -> Self:
        """Return the recipe with a note of how a checkpoint of it was made."""
        origin = QuantizationOrigin(source=source, tool=tool, calibration=calibration)
        return dataclasses.replace(self, origin=origin)

    def to_json(self) -> dict[str, Any]:
        """Return the contents of ``quantization_config``."""
        values: dict[str, Any] = {
            "quant_method": QUANT_METHOD,
            "format_version": FORMAT_VERSION,
            "recipe": self.name,
            "parts": {part: getattr(self, part) for part in get_args(Part)},
            "group_size": GROUP_SIZE,
        }
        if self.origin is not None:
            values["origin"] = dataclasses.asdict(self.origin)
        return values

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Read the contents of ``quantization_config``.

        Raises:
            UnsupportedError: Another tool made it, or a later version of this one.
            ConfigError: A field is missing or wrong.
        """
        _refuse_foreign(values)
        recipe, parts, group_size = (values.get(n) for n in ("recipe", "parts", "group_size"))
        if not isinstance(recipe, str):
            raise ConfigError(f"quantization_config has recipe {recipe!r}; it must be a name.")
        if group_size != GROUP_SIZE:
            raise ConfigError(
                f"quantization_config has group_size {group_size!r}; it must be {GROUP_SIZE}."
            )
        if not isinstance(parts, Mapping) or set(parts) != set(get_args(Part)):
            raise ConfigError(
                f"quantization_config has parts {parts!r}; it must give a format to each of "
                f"{', '.join(get_args(Part))}."
            )
        formats = {part: str(parts[part]) for part in get_args(Part)}
        return cls(name=recipe, origin=_read_origin(values.get("origin")), **formats)


RECIPES: Mapping[str, QuantizationRecipe] = {
    name: QuantizationRecipe(name=name, experts=experts, attention=attention, lm_head=lm_head)
    for name, experts, attention, lm_head in (
        ("int8", "int8", "int8", "int8"),
        ("int4", "int4", "int4", "int8"),
        ("int3", "int3", "int4", "int8"),
    )
}
"""The recipes that a user can ask for by name."""


def find_recipe(name: str) -> QuantizationRecipe:
    """Return a recipe by name.

    Raises:
        ConfigError: There is no such recipe.
    """
    if name not in RECIPES:
        raise ConfigError(f"quantization is {name!r}; it must be one of {', '.join(RECIPES)}.")
    return RECIPES[name]


def is_low_bit(format_name: str | None) -> TypeGuard[str]:
    """Return whether a format is a packed one rather than a dtype."""
    return format_name in GROUP_BYTES


def kept_dtype(dtype: str) -> str:
    """Return how norms and router of a model in some dtype are stored beside packed weights.

    float16 becomes float32, which holds the same values; the two others stay.
    """
    return "float32" if dtype == "float16" else dtype


def packed_shape(format_name: str, rows: int, columns: int) -> tuple[int, int]:
    """Return panels and bytes of a panel of a packed matrix [rows, columns].

    >>> packed_shape("int4", 14336, 4096)
    (448, 69632)
    """
    groups = -(-columns // GROUP_SIZE)
    return -(-rows // PANEL_ROWS), groups * GROUP_BYTES[format_name]


def matrix_bytes(format_name: str, rows: int, columns: int) -> int:
    """Return the bytes of a matrix [rows, columns] in a low-bit format or a dtype."""
    if format_name in _DTYPE_BYTES:
        return rows * columns * _DTYPE_BYTES[format_name]
    panels, panel_bytes = packed_shape(format_name, rows, columns)
    return panels * panel_bytes


def _refuse_foreign(values: Mapping[str, Any]) -> None:
    method, version = values.get("quant_method"), values.get("format_version")
    if method != QUANT_METHOD:
        raise UnsupportedError(
            f"quantization_config has quant_method {method!r}; supported are {QUANT_METHOD!r} and "
            "unquantized weights. Take the bfloat16 weights of this model, and convert them with "
            "--quantization."
        )
    if isinstance(version, bool) or not isinstance(version, int) or version < 1:
        raise ConfigError(
            f"quantization_config has format_version {version!r}; it must be a whole number from 1."
        )
    if version > FORMAT_VERSION:
        raise UnsupportedError(
            f"quantization_config has format_version {version}; this version of mixtral reads up "
            f"to {FORMAT_VERSION}. Install a newer mixtral, or convert the model again."
        )


def _read_origin(values: object) -> QuantizationOrigin | None:
    if values is None:
        return None
    if not isinstance(values, Mapping):
        raise ConfigError(f"quantization_config has origin {values!r}; it must be a JSON object.")
    calibration = values.get("calibration")
    return QuantizationOrigin(
        source=str(values.get("source", "unknown")),
        tool=str(values.get("tool", "unknown")),
        calibration=None if calibration is None else str(calibration),
    )
