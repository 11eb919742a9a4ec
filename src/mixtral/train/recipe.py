"""Everything that decides a training run, in one small TOML file.

The string under each field says what it means; ``mixtral train --help`` prints them.
"""

import dataclasses
import math
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

from mixtral.config import ModelConfig
from mixtral.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainRecipe:
    """One stage of training; paths are relative to the folder of the TOML file.

    Raises:
        ConfigError: A field is outside its allowed values.
    """

    output: str
    """Folder of the run: log, resumable state, and at the end the model."""
    train_tokens: str
    """Token file to learn from (.npy, uint16)."""
    valid_tokens: str
    """Token file that is only measured."""
    train_mask: str = ""
    """Which training tokens the loss counts (.npy, uint8); empty counts all."""
    valid_mask: str = ""
    """The same for the measured tokens."""
    model: str = "nano"
    """Preset whose geometry is trained from scratch: nano, 7b, 8x7b, 8x22b."""
    init_from: str = ""
    """Checkpoint folder to start from; empty starts from random weights."""
    max_steps: int = 1000
    """Optimizer steps in all."""
    tokens_per_step: int = 8192
    """Tokens that one optimizer step sees."""
    max_seq_len: int = 1024
    """Longest sequence; longer documents are cut."""
    long_seq_len: int = 0
    """Sequence length of the last part of the run; 0 keeps max_seq_len."""
    long_seq_fraction: float = 0.15
    """Share of the steps that run with long_seq_len."""
    learning_rate: float = 2e-3
    """Peak of the schedule."""
    min_learning_rate: float = 0.0
    """Learning rate of the last step."""
    warmup_steps: int = 50
    """Steps of linear rise to the peak."""
    decay_fraction: float = 1.0
    """Share of the steps over which the rate falls; 1 is cosine from the start, less is WSD."""
    weight_decay: float = 0.1
    """AdamW's decay of matrices; norms and the embedding have none."""
    beta1: float = 0.9
    """AdamW's memory of the gradient."""
    beta2: float = 0.95
    """AdamW's memory of its square."""
    grad_clip: float = 1.0
    """Largest norm of the whole gradient."""
    load_balancing_coef: float = 0.01
    """Weight of the load-balancing loss."""
    z_loss_coef: float = 1e-4
    """Weight of the router's z-loss."""
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    """Precision of forward and backward; the optimizer's weights are float32 always."""
    seed: int = 0
    """Seed of the first weights."""
    log_every: int = 10
    """Steps between two lines of the log."""
    eval_every: int = 200
    """Steps between two measurements on the held-out tokens."""
    eval_steps: int = 8
    """Steps' worth of held-out tokens in one measurement."""
    checkpoint_every: int = 200
    """Steps between two resumable states on disk."""

    def __post_init__(self) -> None:
        """Check types and ranges of all fields."""
        for field in dataclasses.fields(self):
            _check_type(
                field.name,
                getattr(self, field.name),
                type(field.default),
                field.default,
            )
        positive = (
            "max_steps",
            "tokens_per_step",
            "max_seq_len",
            "log_every",
            "eval_every",
        )
        for name in (
            *positive,
            "eval_steps",
            "checkpoint_every",
            "learning_rate",
            "grad_clip",
        ):
            if getattr(self, name) <= 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be above 0.")
        for name in (
            "warmup_steps",
            "weight_decay",
            "load_balancing_coef",
            "z_loss_coef",
        ):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least 0.")
        for name in ("beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be from 0 to below 1.")
        for name in ("output", "train_tokens", "valid_tokens"):
            if not getattr(self, name).strip():
                raise ConfigError(f"{name} is empty; it must be a path.")
        for name in ("long_seq_fraction", "decay_fraction"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be from 0 to 1.")
        if not 0 <= self.seed < 2**63:
            raise ConfigError(f"seed is {self.seed}; it must be from 0 to 2**63 - 1.")
        if self.dtype not in ("bfloat16", "float32"):
            raise ConfigError(f"dtype is {self.dtype!r}; it must be bfloat16 or float32.")
        ModelConfig.preset(self.model)

    @classmethod
    def from_toml(cls, path: Path) -> Self:
        """Read a recipe; its relative paths become relative to the file.

        Raises:
            ConfigError: The file is missing, not TOML, or has an unknown or wrong field.
        """
        try:
            values = tomllib.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise ConfigError(f"{path} does not exist; name a recipe file.") from error
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise ConfigError(f"{path} cannot be read as TOML: {error}.") from error
        known = {field.name for field in dataclasses.fields(cls)}
        if unknown := sorted(set(values) - known):
            raise ConfigError(
                f"{path} has the unknown field {unknown[0]}; known are {', '.join(sorted(known))}."
            )
        for name in ("output", "train_tokens", "valid_tokens"):
            if name not in values:
                raise ConfigError(f"{path} lacks the field {name}; every recipe needs it.")
        for name in (*_PATHS, "init_from"):
            if isinstance(values.get(name), str) and values[name]:
                values[name] = str(path.parent / values[name])
        return cls(**values)

    def learning_rate_at(self, step: int) -> float:
        """Learning rate of a step: linear rise, plateau, cosine fall."""
        if step < self.warmup_steps:
            return self.learning_rate * (step + 1) / self.warmup_steps
        decay_steps = max(1, int(self.decay_fraction * (self.max_steps - self.warmup_steps)))
        progress = (step - (self.max_steps - decay_steps) + 1) / decay_steps
        if progress <= 0:
            return self.learning_rate
        share = 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
        return self.min_learning_rate + (self.learning_rate - self.min_learning_rate) * share

    def seq_len_at(self, step: int) -> int:
        """Longest sequence at a step."""
        is_long = step >= self.max_steps * (1 - self.long_seq_fraction)
        return self.long_seq_len if self.long_seq_len and is_long else self.max_seq_len


_PATHS = ("output", "train_tokens", "valid_tokens", "train_mask", "valid_mask")


_KINDS = {str: "a text", int: "a whole number", float: "a number"}


def _check_type(name: str, value: Any, wanted: type, default: Any) -> None:
    if default is dataclasses.MISSING:
        wanted = str
    allowed: tuple[type, ...] = (int, float) if wanted is float else (wanted,)
    if not isinstance(value, allowed) or isinstance(value, bool):
        raise ConfigError(f"{name} is {value!r}; it must be {_KINDS[wanted]}.")
    if wanted is float and not abs(value) <= sys.float_info.max:  # type: ignore[arg-type]
        raise ConfigError(f"{name} is {value!r}; it must be a finite number.")
