"""``adapter_config.json``: what PEFT says about an adapter, read strictly and written plainly.

Rank and alpha come once for all modules (``r``, ``lora_alpha``) and by pattern for some of them
(``rank_pattern``, ``alpha_pattern``): the first pattern that matches the end of a module's path,
from a dot on, holds. The scale of a module is alpha / r, with ``use_rslora`` alpha / sqrt(r).

What changes the result and is not plain LoRA (DoRA, trained biases, modules saved whole, other
methods than LoRA) is refused, one line each; what only mattered for training is passed over.
Source: huggingface/peft 0.21.2, tuners/lora/config.py, and get_pattern_key in utils/other.py.
"""

import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, TypeVar

from mixtral.checkpoint.peft_names import leaf_of
from mixtral.config import load_json
from mixtral.errors import CheckpointError, UnsupportedError

Value = TypeVar("Value")

CONFIG_FILE = "adapter_config.json"
"""PEFT's name of the file."""

# Field -> why an adapter that sets it cannot be read.
_UNSUPPORTED: Mapping[str, str] = {
    "use_dora": "DoRA",
    "use_qalora": "QALoRA",
    "use_bdlora": "block-diagonal LoRA",
    "kasa_config": "KaSA",
    "velora_config": "VeLoRA",
    "monteclora_config": "MonteCLoRA",
    "arrow_config": "Arrow routing",
    "alora_invocation_tokens": "activated LoRA",
    "lora_bias": "biases of LoRA matrices",
    "modules_to_save": "modules that were trained whole",
    "trainable_token_indices": "trained token embeddings",
    "layer_replication": "replicated layers",
    "megatron_config": "Megatron",
    "fan_in_fan_out": "transposed weights",
}
# A file from elsewhere must not be able to stall the program: matching time grows with the power of
# the repetitions, and exponentially with those of a group.
_MAX_REPEATS = 3
# Wider than any weight; a number of a thousand digits would become no float.
_MAX_RANK = 2**20
_REPEAT = re.compile(r"[*+{]")
_REPEATED_GROUP = re.compile(r"\)[*+{]")
# These initialisations subtract something from the base weights, which then are not the base's.
_CHANGES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")


@dataclass(frozen=True, kw_only=True, slots=True)
class PeftConfig:
    """The fields of an ``adapter_config.json`` that decide what its tensors mean."""

    rank: int
    """r of all modules without a pattern."""
    alpha: float
    """alpha of all modules without a pattern."""
    rank_pattern: Mapping[str, int] = field(default_factory=dict)
    """Pattern of a module path -> r."""
    alpha_pattern: Mapping[str, float] = field(default_factory=dict)
    """Pattern of a module path -> alpha."""
    use_rslora: bool = False
    """Whether the scale is alpha / sqrt(r)."""
    base_model: str | None = None
    """``base_model_name_or_path``."""

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a file.

        Raises:
            CheckpointError: It is missing, or a field has a wrong value.
            ConfigError: It is not a JSON object.
            UnsupportedError: It asks for something else than plain LoRA.
        """
        if not path.is_file():
            what = f"has no {path.name}" if path.parent.is_dir() else "does not exist"
            raise CheckpointError(
                f"{path.parent} {what}; a LoRA adapter is a folder that PEFT or "
                "mixtral train wrote."
            )
        values = load_json(path)
        _refuse_other_methods(path, values)
        base_model = values.get("base_model_name_or_path")
        return cls(
            rank=_whole(path, "r", values.get("r", 8)),
            alpha=_number(path, "lora_alpha", values.get("lora_alpha", 8)),
            rank_pattern={
                pattern: _whole(path, f"rank_pattern[{pattern!r}]", value)
                for pattern, value in _patterns(path, values, "rank_pattern").items()
            },
            alpha_pattern={
                pattern: _number(path, f"alpha_pattern[{pattern!r}]", value)
                for pattern, value in _patterns(path, values, "alpha_pattern").items()
            },
            use_rslora=_flag(path, "use_rslora", values.get("use_rslora")),
            base_model=None if base_model is None else str(base_model),
        )

    def rank_of(self, module: str) -> int:
        """Return r of a module, by its path."""
        return _find(self.rank_pattern, module, self.rank)

    def scale_of(self, module: str) -> float:
        """Return the scale of a module, by its path."""
        rank = self.rank_of(module)
        alpha = _find(self.alpha_pattern, module, self.alpha)
        return alpha / math.sqrt(rank) if self.use_rslora else alpha / rank

    @classmethod
    def describing(
        cls, ranks: Mapping[str, int], scales: Mapping[str, float], base_model: str | None
    ) -> Self:
        """Return the shortest description of ranks and scales, by module path.

        rsLoRA's rule is not used: alpha is what gives the scale.
        """
        alphas = {module: _alpha(scales[module], rank) for module, rank in ranks.items()}
        rank, rank_pattern = _shortest(ranks)
        alpha, alpha_pattern = _shortest(alphas)
        return cls(
            rank=rank,
            alpha=alpha,
            rank_pattern=rank_pattern,
            alpha_pattern=alpha_pattern,
            base_model=base_model,
        )

    def to_json(self) -> dict[str, Any]:
        """Return the fields in PEFT's spelling, without the targets."""
        return {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": self.base_model,
            "r": self.rank,
            "lora_alpha": self.alpha,
            "rank_pattern": dict(self.rank_pattern),
            "alpha_pattern": dict(self.alpha_pattern),
            "use_rslora": self.use_rslora,
            "lora_dropout": 0.0,
            "bias": "none",
            "modules_to_save": None,
            "inference_mode": True,
        }


def _refuse_other_methods(path: Path, values: Mapping[str, Any]) -> None:
    if values.get("peft_type") != "LORA":
        raise UnsupportedError(
            f"{path}: peft_type is {values.get('peft_type')!r}; only 'LORA' can be used."
        )
    if values.get("bias", "none") != "none":
        raise UnsupportedError(
            f"{path}: bias is {values['bias']!r}; only 'none' can be used, because a Mixtral has "
            "no biases."
        )
    for name, what in _UNSUPPORTED.items():
        if values.get(name):
            raise UnsupportedError(
                f"{path}: {name} is {values[name]!r}; {what} cannot be used, only plain LoRA."
            )
    start = values.get("init_lora_weights", True)
    if isinstance(start, str) and start.lower().startswith(_CHANGES_BASE):
        raise UnsupportedError(
            f"{path}: init_lora_weights is {start!r}, which changes the base weights; save it "
            "again with PEFT's path_initial_model_for_weight_conversion."
        )


def _patterns(path: Path, values: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = values.get(name) or {}
    if not isinstance(found, Mapping):
        raise CheckpointError(f"{path}: {name} is {found!r}; it must be a JSON object.")
    for pattern in found:
        if _REPEATED_GROUP.search(pattern) or len(_REPEAT.findall(pattern)) > _MAX_REPEATS:
            raise UnsupportedError(
                f"{path}: {name} has the pattern {pattern!r:.200}; matching it could take forever. "
                f"Use one with at most {_MAX_REPEATS} repetitions, and none of a group."
            )
        try:
            for expression in (pattern, _pattern_of(pattern)):
                re.compile(expression)
        except (re.error, OverflowError, RecursionError) as error:
            raise CheckpointError(
                f"{path}: {name} has the pattern {pattern!r}, which is no regular expression: "
                f"{error}."
            ) from error
    return found


def _whole(path: Path, name: str, value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= _MAX_RANK:
        raise CheckpointError(
            f"{path}: {name} is {value!r:.40}; it must be a whole number from 1 to {_MAX_RANK}."
        )
    return value


def _flag(path: Path, name: str, value: object) -> bool:
    if value is not None and not isinstance(value, bool):
        raise CheckpointError(f"{path}: {name} is {value!r:.40}; it must be true or false.")
    return value is True


def _number(path: Path, name: str, value: object) -> float:
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 < abs(value) < 1e30:
        raise CheckpointError(
            f"{path}: {name} is {value!r:.40}; it must be a finite number other than 0."
        )
    return value


def _pattern_of(pattern: str) -> str:
    """Return the expression for whole paths that PEFT makes of a pattern."""
    return rf"(.*\.)?({pattern})$"


def _find(patterns: Mapping[str, Value], module: str, default: Value) -> Value:
    for pattern, value in patterns.items():
        if re.match(_pattern_of(pattern), module):
            return value
    return default


def _alpha(scale: float, rank: int) -> float:
    """Return scale * rank, as the round number that gives the same scale where there is one."""
    alpha = scale * rank
    rounded = round(alpha, 6)
    if rounded / rank != scale:
        return alpha
    return int(rounded) if rounded == int(rounded) else rounded


def _shortest(values: Mapping[str, Value]) -> tuple[Value, dict[str, Value]]:
    """Return the most common value, and patterns for the modules that have another."""
    default = Counter(values.values()).most_common(1)[0][0]
    by_leaf: dict[str, dict[str, Value]] = {}
    for module, value in values.items():
        by_leaf.setdefault(leaf_of(module), {})[module] = value
    patterns: dict[str, Value] = {}
    for leaf, members in by_leaf.items():
        if len(set(members.values())) == 1:
            patterns |= {re.escape(leaf): value for value in members.values() if value != default}
        else:
            patterns |= {re.escape(m): value for m, value in members.items() if value != default}
    return default, patterns
