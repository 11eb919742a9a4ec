"""How published config files spell the fields of ``ModelConfig``, and what they may hold.

``config.json`` is Hugging Face's, in the spelling of transformers 4 (``rope_theta``,
``torch_dtype``) and 5 (``rope_parameters``, ``dtype``). ``params.json`` is Mistral's; the release
in eight files writes it with Hugging Face's names, some numbers as strings.
"""

from collections.abc import Mapping
from typing import Any

from mixtral.errors import ConfigError, UnsupportedError
from mixtral.quantization import QuantizationRecipe
from mixtral.validation import require_positive_number

POSITIVE_INTS = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "max_position_embeddings",
)
REQUIRED_HF = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
)
OPTIONAL_HF = (
    "max_position_embeddings",
    "rms_norm_eps",
    "sliding_window",
    "tie_word_embeddings",
    "bos_token_id",
    "router_aux_loss_coef",
)
NUMERIC_HF = (
    *POSITIVE_INTS,
    "num_local_experts",
    "num_experts_per_tok",
    "rope_theta",
    "rms_norm_eps",
    "sliding_window",
    "router_aux_loss_coef",
)
ARCHITECTURES = ("MixtralForCausalLM", "MistralForCausalLM")
MISTRAL_NAMES: Mapping[str, str] = {
    "vocab_size": "vocab_size",
    "dim": "hidden_size",
    "hidden_dim": "intermediate_size",
    "n_layers": "num_hidden_layers",
    "n_heads": "num_attention_heads",
    "n_kv_heads": "num_key_value_heads",
    "head_dim": "head_dim",
    "norm_eps": "rms_norm_eps",
}


def require_fields(
    found: Mapping[str, Any],
    needed: tuple[str, ...],
    file: str,
    spelling: Mapping[str, str] | None = None,
) -> None:
    """Check that a file has all fields, naming the missing ones in its own spelling.

    Raises:
        ConfigError: Some are missing.
    """
    missing = [name for name in needed if name not in found]
    if missing and spelling:
        missing = [theirs for theirs, ours in spelling.items() if ours in missing]
    if missing:
        raise ConfigError(f"{file} lacks {', '.join(missing)}; every model needs these fields.")


def refuse_other_architectures(values: Mapping[str, Any]) -> None:
    """Check that a config.json describes a Mixtral or Mistral 7B, in a format that is ours.

    Raises:
        UnsupportedError: It describes something else.
        ConfigError: A field is not of its kind.
    """
    names = values.get("architectures") or []
    if isinstance(names, list) and names and not set(map(str, names)) & set(ARCHITECTURES):
        raise UnsupportedError(
            f"architectures is {names}; supported are {' and '.join(ARCHITECTURES)}."
        )
    if values.get("hidden_act", "silu") != "silu":
        raise UnsupportedError(f"hidden_act is {values['hidden_act']!r}; supported is 'silu'.")
    # transformers 5 writes the second one, and people add the first one to it.
    for name in ("rope_scaling", "rope_parameters"):
        refuse_scaled_rope(name, read_object(values, name))
    if quantization := read_object(values, "quantization_config"):
        QuantizationRecipe.from_json(quantization)


def refuse_scaled_rope(name: str, scaling: Mapping[str, Any]) -> None:
    """Check that a description of the rotary embedding leaves it as Mixtral has it.

    Raises:
        UnsupportedError: It stretches the context.
    """
    rope_type = scaling.get("rope_type", scaling.get("type", "default"))
    if rope_type != "default":
        raise UnsupportedError(f"{name}: rope_type is {rope_type!r}; supported is 'default'.")
    # Older files have a factor and no type, which means linear.
    factor = scaling.get("factor")
    if factor not in (None, 1):
        raise UnsupportedError(f"{name}: factor is {factor!r}; supported is 1, no scaling.")


def read_rope_theta(values: Mapping[str, Any], *, default: float) -> float:
    """Return the rotary base in either spelling.

    Raises:
        ConfigError: It is not a positive number.
    """
    theta = read_object(values, "rope_parameters").get("rope_theta", values.get("rope_theta"))
    if theta is None:
        return default
    require_positive_number("rope_theta", theta)
    return float(theta)


def read_object(values: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Return a field that holds fields of its own; empty where there is none.

    Raises:
        ConfigError: It is something else.
    """
    value = values.get(name) or {}
    if not isinstance(value, Mapping):
        raise ConfigError(f"{name} is {value!r}; it must be a JSON object.")
    return value


def read_dtype(value: object) -> str:
    """Return the name of a dtype without its package; bfloat16 where there is none."""
    if value is None:
        return "bfloat16"
    return str(value).removeprefix("torch.")


def numbers_from_strings(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields with numbers that were written as strings read as numbers.

    Raises:
        ConfigError: A numeric field holds another text.
    """
    # The eight-file release writes some numbers, sliding_window for one, as strings.
    numbers = dict(values)
    for name, value in values.items():
        if isinstance(value, str) and name in NUMERIC_HF:
            numbers[name] = _parse_number(name, value)
    return numbers


def _parse_number(name: str, text: str) -> int | float:
    try:
        return int(text)
    except ValueError:
        pass
    try:
        return float(text)
    except ValueError as error:
        raise ConfigError(f"{name} is {text!r}; it must be a number.") from error
