"""What a Mixtral is made of, in numbers, and how the published config files spell it.

``ModelConfig`` uses the field names of Hugging Face's ``config.json``. It reads that file in the
spelling of transformers 4 (``rope_theta``) and 5 (``rope_parameters``), and ``params.json`` in
Mistral's spelling (``dim``, ``n_layers``, ``moe``) and in the Hugging Face spelling that came with
the release in eight files. A dense Mistral 7B is the same model with one feed-forward block per
layer and no router: ``num_local_experts`` is 0.

All counts (parameters, active parameters, bytes of the KV cache) follow from the fields by
arithmetic; nothing here imports torch or allocates memory. Sources: Mixtral of Experts,
arXiv:2401.04088, table 1; Mistral 7B, arXiv:2310.06825, table 1.
"""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

from mixtral.errors import ConfigError, UnsupportedError
from mixtral.presets import PRESETS, published_context
from mixtral.quantization import QuantizationRecipe
from mixtral.spelling import (
    MISTRAL_NAMES,
    OPTIONAL_HF,
    POSITIVE_INTS,
    REQUIRED_HF,
    numbers_from_strings,
    read_dtype,
    read_object,
    read_rope_theta,
    refuse_other_architectures,
    refuse_scaled_rope,
    require_fields,
)
from mixtral.validation import require_int, require_positive_number

DType = Literal["float32", "bfloat16", "float16"]
BYTES_PER_ELEMENT: Mapping[str, int] = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig:
    """Geometry of one model; checked when it is made, so that an instance is always valid.

    Raises:
        ConfigError: A field is outside its allowed values, or two fields disagree.
        UnsupportedError: A field asks for an architecture that is not Mixtral.
    """

    vocab_size: int
    """V, rows of the embedding and of the output head."""
    hidden_size: int
    """D, width of a token's state."""
    intermediate_size: int
    """F, width of one expert's feed-forward layer."""
    num_hidden_layers: int
    """L, number of decoder layers."""
    num_attention_heads: int
    """H, query heads."""
    num_key_value_heads: int
    """G, key and value heads; each serves H / G query heads."""
    head_dim: int
    """K, width of one head; even, because rotary embedding turns pairs."""
    num_local_experts: int = 8
    """E, experts per layer; 0 is a dense model without a router."""
    num_experts_per_tok: int = 2
    """A, experts that the router picks for a token; 0 where there is no router."""
    max_position_embeddings: int = 32768
    """Longest context in tokens, prompt and answer together."""
    rope_theta: float = 1e6
    """Base of the rotary frequencies."""
    rms_norm_eps: float = 1e-5
    """Added to the mean square before the root in RMSNorm."""
    sliding_window: int | None = None
    """Tokens that a position sees, itself included; None sees all before it."""
    tie_word_embeddings: bool = False
    """Whether the output head is the embedding itself."""
    bos_token_id: int = 1
    """Token that begins every sequence."""
    eos_token_id: int = 2
    """Token that ends an answer."""
    router_aux_loss_coef: float = 0.02
    """Weight of the load-balancing loss in training; no effect on inference."""
    dtype: DType = "bfloat16"
    """Precision in which the weights are stored."""

    def __post_init__(self) -> None:
        """Check each field, then the fields against each other."""
        for name in POSITIVE_INTS:
            require_int(name, getattr(self, name), low=1)
        for name in (
            "num_local_experts",
            "num_experts_per_tok",
            "bos_token_id",
            "eos_token_id",
        ):
            require_int(name, getattr(self, name), low=0)
        if self.sliding_window is not None:
            require_int("sliding_window", self.sliding_window, low=1)
        for name in ("rope_theta", "rms_norm_eps"):
            require_positive_number(name, getattr(self, name))
        if not isinstance(self.tie_word_embeddings, bool):
            raise ConfigError(
                f"tie_word_embeddings is {self.tie_word_embeddings!r}; it must be true or false."
            )
        if self.dtype not in BYTES_PER_ELEMENT:
            raise ConfigError(f"dtype is {self.dtype!r}; it must be one of {_DTYPES}.")
        self._check_relations()

    def _check_relations(self) -> None:
        for name in ("bos_token_id", "eos_token_id"):
            if getattr(self, name) >= self.vocab_size:
                raise ConfigError(
                    f"{name} is {getattr(self, name)}; it must be below vocab_size, "
                    f"which is {self.vocab_size}."
                )
        if self.head_dim % 2:
            raise ConfigError(
                f"head_dim is {self.head_dim}; it must be even, "
                "because rotary embedding turns pairs of channels."
            )
        if self.num_attention_heads % self.num_key_value_heads:
            raise ConfigError(
                f"num_key_value_heads is {self.num_key_value_heads}; "
                f"it must divide num_attention_heads, which is {self.num_attention_heads}."
            )
        if self.is_dense != (self.num_experts_per_tok == 0):
            raise ConfigError(
                f"num_local_experts is {self.num_local_experts} and num_experts_per_tok is "
                f"{self.num_experts_per_tok}; both are 0 (dense) or neither is."
            )
        if self.num_experts_per_tok > self.num_local_experts:
            raise ConfigError(
                f"num_experts_per_tok is {self.num_experts_per_tok}; it must be from 1 to "
                f"num_local_experts, which is {self.num_local_experts}."
            )

    @property
    def is_dense(self) -> bool:
        """Whether there is one feed-forward block per layer and no router."""
        return self.num_local_experts == 0

    @property
    def num_experts(self) -> int:
        """Feed-forward blocks per layer: E, or 1 for a dense model."""
        return max(1, self.num_local_experts)

    @property
    def num_expert_parameters(self) -> int:
        """Parameters of one feed-forward block."""
        return 3 * self.hidden_size * self.intermediate_size

    @property
    def num_parameters(self) -> int:
        """All parameters; a tied head is counted once."""
        return self._count(self.num_experts)

    @property
    def num_active_parameters(self) -> int:
        """Parameters at work for one token: everything but the experts it does not visit."""
        return self._count(max(1, self.num_experts_per_tok))

    def _count(self, experts_per_layer: int) -> int:
        heads = self.num_attention_heads + self.num_key_value_heads
        attention = 2 * heads * self.head_dim * self.hidden_size
        layer = attention + 2 * self.hidden_size + self.num_local_experts * self.hidden_size
        layer += experts_per_layer * self.num_expert_parameters
        embeddings = self.vocab_size * self.hidden_size * (1 if self.tie_word_embeddings else 2)
        return self.num_hidden_layers * layer + embeddings + self.hidden_size

    def kv_bytes_per_token(self, dtype: DType = "bfloat16") -> int:
        """Bytes of KV cache that one token of context takes over all layers."""
        per_layer = 2 * self.num_key_value_heads * self.head_dim
        return self.num_hidden_layers * per_layer * BYTES_PER_ELEMENT[dtype]

    def weight_bytes(self, dtype: DType | None = None) -> int:
        """Bytes of all weights stored in ``dtype``; None takes the config's own."""
        return self.num_parameters * BYTES_PER_ELEMENT[dtype or self.dtype]

    def replace(self, **changes: Any) -> Self:
        """Return a copy with some fields changed, checked anew."""
        return dataclasses.replace(self, **changes)

    @classmethod
    def preset(cls, name: str) -> Self:
        """Return a published geometry by name: 8x7b, 8x22b, 7b or nano.

        Raises:
            ConfigError: There is no such preset.
        """
        if name not in PRESETS:
            raise ConfigError(f"preset is {name!r}; it must be one of {', '.join(PRESETS)}.")
        return cls(**PRESETS[name])

    @classmethod
    def from_hf(cls, values: Mapping[str, Any]) -> Self:
        """Read the contents of a ``config.json``, in the spelling of transformers 4 or 5.

        Raises:
            ConfigError: A field is missing or wrong.
            UnsupportedError: The file describes another architecture.
        """
        model_type = values.get("model_type", "mixtral")
        if model_type not in ("mixtral", "mistral"):
            raise UnsupportedError(
                f"model_type is {model_type!r}; supported are 'mixtral' and 'mistral' (dense 7B)."
            )
        refuse_other_architectures(values)
        is_dense = model_type == "mistral"
        fields = {name: values[name] for name in REQUIRED_HF if name in values}
        require_fields(fields, REQUIRED_HF, "config.json")
        heads = fields["num_attention_heads"]
        require_int("num_attention_heads", heads, low=1)
        require_int("hidden_size", fields["hidden_size"], low=1)
        fields["num_key_value_heads"] = values.get("num_key_value_heads") or heads
        fields["head_dim"] = values.get("head_dim") or fields["hidden_size"] // heads
        experts = values.get("num_local_experts", values.get("num_experts", 8))
        fields["num_local_experts"] = 0 if is_dense else experts
        fields["num_experts_per_tok"] = 0 if is_dense else values.get("num_experts_per_tok", 2)
        fields["rope_theta"] = read_rope_theta(values, default=1e4 if is_dense else 1e6)
        fields["dtype"] = read_dtype(values.get("dtype", values.get("torch_dtype")))
        if (eos := values.get("eos_token_id")) is not None:
            fields["eos_token_id"] = eos[0] if isinstance(eos, list) and eos else eos
        for name in OPTIONAL_HF:
            if values.get(name) is not None:
                fields[name] = values[name]
        return cls(**fields)

    @classmethod
    def from_params_json(cls, values: Mapping[str, Any]) -> Self:
        """Read the contents of a ``params.json``, in Mistral's or Hugging Face's spelling.

        Raises:
            ConfigError: A field is missing or wrong.
            UnsupportedError: The file describes another architecture.
        """
        if "dim" not in values:
            return cls.from_hf(numbers_from_strings(values))
        refuse_scaled_rope("rope_scaling", read_object(values, "rope_scaling"))
        if yarn := values.get("yarn"):
            raise UnsupportedError(f"yarn is {yarn!r}; a scaled rotary embedding is not supported.")
        moe = read_object(values, "moe")
        fields = {
            ours: values[theirs] for theirs, ours in MISTRAL_NAMES.items() if theirs in values
        }
        require_fields(fields, tuple(MISTRAL_NAMES.values()), "params.json", MISTRAL_NAMES)
        # Some published files write numbers as strings; these two are read as numbers.
        optional = numbers_from_strings(
            {
                "sliding_window": values.get("sliding_window"),
                "max_position_embeddings": values.get("max_seq_len") or published_context(fields),
            }
        )
        window = optional["sliding_window"]
        # mistral-inference's default: theta 1e6, or 1e4 for the models with a sliding window.
        theta = values.get("rope_theta") or (1e6 if window is None else 1e4)
        return cls(
            **fields,
            num_local_experts=moe.get("num_experts", 0),
            num_experts_per_tok=moe.get("num_experts_per_tok", 0),
            rope_theta=theta,
            **optional,
            tie_word_embeddings=bool(values.get("tied_embeddings", False)),
        )

    def to_hf(self) -> dict[str, Any]:
        """Return the contents of a ``config.json`` that transformers 4.36 and later read."""
        values = dataclasses.asdict(self)
        values["torch_dtype"] = values.pop("dtype")
        values["hidden_act"] = "silu"
        if self.is_dense:
            for name in (
                "num_local_experts",
                "num_experts_per_tok",
                "router_aux_loss_coef",
            ):
                del values[name]
        family = "Mistral" if self.is_dense else "Mixtral"
        head = {"architectures": [f"{family}ForCausalLM"], "model_type": family.lower()}
        return head | values

    def to_params_json(self) -> dict[str, Any]:
        """Return the contents of a ``params.json`` in Mistral's spelling."""
        values: dict[str, Any] = {t: getattr(self, ours) for t, ours in MISTRAL_NAMES.items()}
        values["rope_theta"] = self.rope_theta
        values["max_seq_len"] = self.max_position_embeddings
        if self.sliding_window is not None:
            values["sliding_window"] = self.sliding_window
        if not self.is_dense:
            values["moe"] = {
                "num_experts": self.num_local_experts,
                "num_experts_per_tok": self.num_experts_per_tok,
            }
        return values


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineConfig:
    """Sizes of the engine's cache and steps.

    Raises:
        ConfigError: A field is outside its allowed values.
    """

    num_blocks: int
    """N, blocks of the KV cache; fixed at start."""
    block_size: int = 16
    """P, tokens per block, a power of two from 8 to 256."""
    max_num_seqs: int = 64
    """Most sequences in one step."""
    max_num_batched_tokens: int = 2048
    """Most tokens in one step; longer prompts are run in chunks of this size."""
    enable_prefix_cache: bool = True
    """Whether prompts that begin alike share cache blocks, also after the first has ended."""
    num_speculative_tokens: int = 0
    """Tokens guessed from the text so far and checked in one step, 0 to 16; 0 guesses nothing."""
    max_speculative_seqs: int = 4
    """With more decoding sequences than this nothing is guessed."""
    count_experts: bool = False
    """Whether to count the visits of each expert in each layer."""

    def __post_init__(self) -> None:
        """Check every field."""
        for name in ("num_blocks", "max_num_seqs", "max_num_batched_tokens"):
            require_int(name, getattr(self, name), low=1)
        if self.block_size not in (8, 16, 32, 64, 128, 256):
            raise ConfigError(
                f"block_size is {self.block_size}; it must be a power of two from 8 to 256. "
                "Change EngineConfig.block_size."
            )
        require_int("num_speculative_tokens", self.num_speculative_tokens, low=0, high=16)
        require_int("max_speculative_seqs", self.max_speculative_seqs, low=0)


_DTYPES = ", ".join(BYTES_PER_ELEMENT)


def load_json(path: Path) -> dict[str, Any]:
    """Read a JSON object from a file.

    Raises:
        ConfigError: The file is missing, is not JSON, or holds something else than an object.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"{path} does not exist; a model folder needs it.") from error
    except (OSError, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path} cannot be read as JSON: {error}.") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path} holds a {type(values).__name__}; it must hold a JSON object.")
    return values


def read_config_file(path: Path) -> ModelConfig:
    """Read a ``config.json`` or ``params.json``; errors name the file.

    Raises:
        ConfigError: It cannot be read, or a field is missing or wrong.
        UnsupportedError: It describes another architecture.
    """
    values = load_json(path)
    is_mistral = path.name == "params.json"
    try:
        return ModelConfig.from_params_json(values) if is_mistral else ModelConfig.from_hf(values)
    except (ConfigError, UnsupportedError) as error:
        raise type(error)(f"{path}: {error}") from error


def read_recipe_file(path: Path) -> QuantizationRecipe | None:
    """Read how the weights beside a config file are packed; None where they are not.

    Raises:
        ConfigError: The file cannot be read, or its ``quantization_config`` is wrong.
        UnsupportedError: Another tool packed them, or a later version of this one.
    """
    values = load_json(path)
    try:
        quantization = read_object(values, "quantization_config")
        return QuantizationRecipe.from_json(quantization) if quantization else None
    except (ConfigError, UnsupportedError) as error:
        raise type(error)(f"{path}: {error}") from error
