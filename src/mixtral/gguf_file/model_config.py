"""GGUF's metadata of architecture "llama" and ``ModelConfig``, each from the other.

llama.cpp calls every model of Llama's shape "llama": a Mixtral is one with experts, a Mistral 7B
one without. Whether head and embedding are tied has no field; it follows from the absence of
``output.weight``. Numbers are float32 in the file: 1e-5 is read back as 1e-5 and not as
9.999999747378752e-06, because the shortest decimal of that float32 is taken.
"""

import struct
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import cast

from mixtral.config import DType, ModelConfig
from mixtral.errors import CheckpointError, ConfigError
from mixtral.gguf_file.block_types import STORED_DTYPES
from mixtral.gguf_file.container import GgufFile, read_gguf
from mixtral.gguf_file.encoding import Field, float32, text, uint32

ARCHITECTURE = "llama"
EMBEDDING = "token_embd.weight"
HEAD = "output.weight"

# The largest published mixture has 512; more is a damaged file that would take long to list.
_MOST_EXPERTS = 1000


def read_gguf_config(path: Path) -> ModelConfig:
    """Read the geometry of a GGUF file.

    Raises:
        CheckpointError: The file is damaged, or it is another architecture.
    """
    return config_of(read_gguf(path))


def config_of(file: GgufFile) -> ModelConfig:
    """Return the geometry that a file's metadata describe; its ``dtype`` is that of most bytes.

    A file whose weights are mostly in blocks with scales has no dtype of ours; bfloat16 stands
    for it.

    Raises:
        CheckpointError: It is another architecture, or a field is missing or wrong.
    """
    _refuse_other_models(file)
    fields = _Fields(file)
    heads = fields.count("attention.head_count")
    experts = fields.count("expert_count", 0)
    try:
        config = ModelConfig(
            vocab_size=_vocab_size(file, fields),
            hidden_size=fields.count("embedding_length"),
            intermediate_size=fields.count("feed_forward_length"),
            num_hidden_layers=fields.count("block_count"),
            num_attention_heads=heads,
            num_key_value_heads=fields.count("attention.head_count_kv", heads),
            head_dim=_head_dim(file, fields, heads),
            num_local_experts=experts,
            num_experts_per_tok=fields.count("expert_used_count", 0) if experts else 0,
            max_position_embeddings=fields.count("context_length"),
            rope_theta=fields.number("rope.freq_base", 1e4),
            rms_norm_eps=fields.number("attention.layer_norm_rms_epsilon"),
            sliding_window=fields.count("attention.sliding_window", 0) or None,
            tie_word_embeddings=HEAD not in file.tensors,
            bos_token_id=fields.token_id("bos", 1),
            eos_token_id=fields.token_id("eos", 2),
            dtype=_main_dtype(file),
        )
    except ConfigError as error:
        raise CheckpointError(f"{file.path}: {error}") from error
    _check_counts(file, config)
    return config


def metadata_of(config: ModelConfig) -> dict[str, Field]:
    """Return the fields that describe a geometry, without those of the tokenizer."""
    prefix = ARCHITECTURE + "."
    found = {
        "general.architecture": text(ARCHITECTURE),
        prefix + "vocab_size": uint32(config.vocab_size),
        prefix + "context_length": uint32(config.max_position_embeddings),
        prefix + "embedding_length": uint32(config.hidden_size),
        prefix + "block_count": uint32(config.num_hidden_layers),
        prefix + "feed_forward_length": uint32(config.intermediate_size),
        prefix + "attention.head_count": uint32(config.num_attention_heads),
        prefix + "attention.head_count_kv": uint32(config.num_key_value_heads),
        prefix + "attention.key_length": uint32(config.head_dim),
        prefix + "attention.value_length": uint32(config.head_dim),
        prefix + "attention.layer_norm_rms_epsilon": float32(config.rms_norm_eps),
        prefix + "rope.dimension_count": uint32(config.head_dim),
        prefix + "rope.freq_base": float32(config.rope_theta),
    }
    if not config.is_dense:
        found[prefix + "expert_count"] = uint32(config.num_local_experts)
        found[prefix + "expert_used_count"] = uint32(config.num_experts_per_tok)
    if config.sliding_window is not None:
        found[prefix + "attention.sliding_window"] = uint32(config.sliding_window)
    return found


class _Fields:
    """The fields of architecture "llama", checked as they are asked for."""

    def __init__(self, file: GgufFile) -> None:
        self._file = file

    def count(self, name: str, default: int | None = None) -> int:
        """Return a whole number."""
        value = self._get(name, default)
        if isinstance(value, int) and not isinstance(value, bool):
            return value
        raise self._wrong(name, value, "a whole number")

    def number(self, name: str, default: float | None = None) -> float:
        """Return a number, as the shortest decimal of its float32."""
        value = self._get(name, default)
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return _shortest(float(value))
        raise self._wrong(name, value, "a number")

    def token_id(self, name: str, default: int) -> int:
        """Return the id of a special token."""
        value = self._file.metadata.get(f"tokenizer.ggml.{name}_token_id", default)
        if isinstance(value, int) and not isinstance(value, bool):
            return value
        raise self._wrong(name, value, "a token id")

    def _get(self, name: str, default: float | None) -> object:
        value = self._file.metadata.get(f"{ARCHITECTURE}.{name}", default)
        if value is None:
            raise CheckpointError(
                f"{self._file.path} lacks the field {ARCHITECTURE}.{name}; "
                "every model needs it. Convert the model again."
            )
        return value

    def _wrong(self, name: str, value: object, what: str) -> CheckpointError:
        is_array = isinstance(value, Sequence) and not isinstance(value, str)
        shown = f"an array of {len(value)}" if is_array else repr(value)  # type: ignore[arg-type]
        return CheckpointError(
            f"{self._file.path} has {shown} as {ARCHITECTURE}.{name}; it must be {what}."
        )


def _refuse_other_models(file: GgufFile) -> None:
    architecture = file.metadata.get("general.architecture")
    if architecture != ARCHITECTURE:
        raise CheckpointError(
            f"{file.path} has general.architecture {architecture!r}; supported is 'llama', "
            "which is what llama.cpp calls Mixtral and Mistral 7B."
        )
    kind = file.metadata.get("general.type", "model")
    if kind != "model":
        raise CheckpointError(f"{file.path} has general.type {kind!r}; it must be 'model'.")
    _refuse_scaled_rope(file)


def _refuse_scaled_rope(file: GgufFile) -> None:
    """Check that the rotary embedding is plain, reading the fields as llama.cpp does."""
    kind = file.metadata.get("llama.rope.scaling.type", "linear")
    if kind == "none":
        return  # Whatever the factor.
    if kind != "linear":
        raise CheckpointError(
            f"{file.path} has llama.rope.scaling.type {kind!r}; supported is 'none'."
        )
    for name in ("llama.rope.scaling.factor", "llama.rope.scale_linear"):
        factor = file.metadata.get(name, 1.0)
        if factor not in (0, 1):  # 0 stands for none given.
            raise CheckpointError(f"{file.path} has {name} {factor!r}; supported is 1, no scaling.")


def _vocab_size(file: GgufFile, fields: _Fields) -> int:
    tokens = file.metadata.get("tokenizer.ggml.tokens")
    if isinstance(tokens, Sequence) and not isinstance(tokens, str):
        return len(tokens)
    embedding = file.tensors.get(EMBEDDING)
    # Files without a vocabulary state its size; the oldest ones do not.
    return fields.count("vocab_size", embedding.shape[0] if embedding else None)


def _head_dim(file: GgufFile, fields: _Fields, heads: int) -> int:
    default = fields.count("embedding_length") // max(1, heads)
    rotated = fields.count("rope.dimension_count", 0)
    width = fields.count("attention.key_length", rotated or default)
    for name in ("attention.value_length", "rope.dimension_count"):
        if fields.count(name, width) != width:
            raise CheckpointError(
                f"{file.path} has llama.{name} {fields.count(name)} and heads of width {width}; "
                "in Mixtral the two are equal."
            )
    return width


def _main_dtype(file: GgufFile) -> DType:
    sizes: Counter[str] = Counter()
    for tensor in file.tensors.values():
        sizes[tensor.kind.name] += tensor.num_bytes
    most = sizes.most_common(1)[0][0] if sizes else "BF16"
    return cast(DType, STORED_DTYPES.get(most, "bfloat16"))


def _check_counts(file: GgufFile, config: ModelConfig) -> None:
    """Refuse absurd counts before a list of all expected tensors is made, which has no end then."""
    if config.num_hidden_layers > len(file.tensors):
        raise CheckpointError(
            f"{file.path} has llama.block_count {config.num_hidden_layers}, but there are only "
            f"{len(file.tensors)} tensors; the file is damaged or is one part of several."
        )
    if config.num_local_experts > _MOST_EXPERTS:
        raise CheckpointError(
            f"{file.path} has llama.expert_count {config.num_local_experts}; "
            f"at most {_MOST_EXPERTS} are supported."
        )


def _shortest(value: float) -> float:
    """Return the decimal with the fewest digits that is the same float32.

    >>> _shortest(9.999999747378752e-06)
    1e-05
    """
    try:
        raw = struct.pack("<f", value)
    except OverflowError:
        return value
    for digits in range(1, 10):
        short = float(f"{value:.{digits}g}")
        try:
            if struct.pack("<f", short) == raw:
                return short
        except OverflowError:
            continue
    return value
