"""Everything that decides a training run, in one small TOML file.

The string under each field says what it means; ``mixtral train --help`` prints them. Reading the
file, and the paths in it, is in ``recipe_file.py``.
"""

import dataclasses
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from mixtral.config import ModelConfig
from mixtral.errors import ConfigError
from mixtral.presets import PRESETS
from mixtral.quantization import find_recipe
from mixtral.train.dpo_settings import DpoSettings
from mixtral.train.lora_settings import LoraSettings
from mixtral.train.parallel_settings import ParallelSettings
from mixtral.train.schedule import Schedule

TABLES: Mapping[str, type] = {
    "lora": LoraSettings,
    "dpo": DpoSettings,
    "parallel": ParallelSettings,
}
"""Tables of a recipe and what they hold."""
FILE_FIELDS = (
    "train_records",
    "valid_records",
    "train_tokens",
    "valid_tokens",
    "train_mask",
    "valid_mask",
    "init_adapter",
)
"""Fields that name a file or folder to read."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainRecipe:
    """One stage of training; paths are relative to the folder of the TOML file.

    Raises:
        ConfigError: A field is outside its allowed values, or two do not go together.
    """

    output: str
    """Folder of the run: log, resumable state, and at the end the model or adapter."""
    train_records: str = ""
    """Records to learn from (.jsonl): conversations for sft, preference pairs for dpo, texts for
    pretrain."""
    valid_records: str = ""
    """Records that are only measured; empty takes valid_fraction of train_records."""
    valid_fraction: float = 0.05
    """Share of train_records that is measured and not learned; a record's text decides."""
    too_long: Literal["error", "skip"] = "error"
    """What to do with records beyond max_seq_len: refuse the file, or leave them out."""
    train_tokens: str = ""
    """Token file to learn from (.npy, uint16), instead of train_records."""
    valid_tokens: str = ""
    """Token file that is only measured."""
    train_mask: str = ""
    """Which training tokens the loss counts (.npy, uint8); empty counts all."""
    valid_mask: str = ""
    """The same for the measured tokens."""
    model: str = "nano"
    """Preset whose geometry is trained from scratch: nano, 7b, 8x7b, 8x22b."""
    geometry: Mapping[str, Any] = field(default_factory=dict)
    """Table [geometry]: what differs from the preset, by the names of config.json:
    hidden_size = 512."""
    init_from: str = ""
    """Model to start from: nano, a checkpoint folder or a hub id; empty starts from random
    weights."""
    init: Literal["normal", "copy"] = "normal"
    """First weights where init_from is empty: normal noise, or with heads set to copy from the
    context, which small models learn late or never (model/copy_init.py)."""
    init_adapter: str = ""
    """Adapter folder (PEFT's format) to go on training on the frozen model."""
    quantization: str = ""
    """Pack the base as int8, int4 or int3 while it is loaded, for LoRA; a packed checkpoint is used
    as it is."""
    max_steps: int = 0
    """Optimizer steps in all; 0 makes num_epochs passes over the data."""
    num_epochs: float = 1.0
    """Passes over the data where max_steps is 0."""
    tokens_per_step: int = 8192
    """Tokens that one optimizer step sees; for dpo pairs_per_step of the table [dpo] counts, and
    this is the size of a micro-batch where micro_batch_tokens is 0."""
    micro_batch_tokens: int = 0
    """Most tokens of one forward and backward pass, to save memory; 0 takes tokens_per_step."""
    max_seq_len: int = 1024
    """Longest sequence; longer documents are cut."""
    long_seq_len: int = 0
    """Sequence length of the last part of a run over train_tokens; 0 keeps max_seq_len."""
    long_seq_fraction: float = 0.15
    """Share of the steps that run with long_seq_len."""
    activation_checkpointing: bool = False
    """Keep only the input of each layer and run the layer again in the backward pass: a third more
    work, far less memory."""
    learning_rate: float = 2e-3
    """Peak of the schedule."""
    min_learning_rate: float = 0.0
    """Learning rate of the last step."""
    warmup_steps: int = 50
    """Steps of linear rise to the peak."""
    decay_fraction: float = 1.0
    """Share of the steps over which the rate falls; 1 is cosine from the start, less is WSD."""
    weight_decay: float = 0.1
    """AdamW's decay of matrices; norms, the embedding and adapters have none."""
    beta1: float = 0.9
    """AdamW's memory of the gradient."""
    beta2: float = 0.95
    """AdamW's memory of its square."""
    grad_clip: float = 1.0
    """Largest norm of the whole gradient."""
    embedding_rows: Literal["all", "seen"] = "all"
    """Rows of the embedding that get a gradient in a step: all, or those of the tokens that it has.
    With a tied head every other token is pushed away in each step, and AdamW makes these small
    pushes as large as the rest, until rare words are alike (arXiv:1907.12009) and cannot be
    copied. Of a row that was seen AdamW's memory (beta1) still fades over the next steps."""
    sampled_words: int = 0
    """Random words that a token is compared with beside those of its step, in pretrain and sft; 0
    compares with all. Cheaper where the head is most of a small model (train/sampled_loss.py)."""
    load_balancing_coef: float = 0.01
    """Weight of the load-balancing loss."""
    z_loss_coef: float = 1e-4
    """Weight of the router's z-loss."""
    router_jitter: float = 0.0
    """Noise on the router's input while training: a factor from 1 - x to 1 + x."""
    freeze_router: bool = False
    """Leave the routers as they are."""
    starving_load: float = 0.1
    """Warn of an expert that gets less than this share of an even load, where routers learn; 0
    never warns."""
    dtype: Literal["auto", "bfloat16", "float32"] = "auto"
    """Precision of forward and backward; auto is bfloat16 where the machine multiplies it natively.
    The optimizer's weights are float32 always."""
    device: str = "auto"
    """Where to train: cpu, cuda, or auto, which is a GPU where there is one."""
    seed: int = 0
    """Seed of the first weights, of the order of records, and of all noise."""
    log_every: int = 10
    """Steps between two lines of the log."""
    eval_every: int = 200
    """Steps between two measurements on the held-out data."""
    eval_steps: int = 8
    """Steps' worth of held-out data in one measurement; for dpo max_eval_pairs of the table [dpo]
    counts."""
    checkpoint_every: int = 200
    """Steps between two resumable states on disk."""
    keep_best: bool = True
    """Also keep the model with the lowest held-out loss, in best/."""
    tensorboard: bool = True
    """Write the numbers for TensorBoard, too."""
    lora: LoraSettings | None = None
    """Table [lora]: train an adapter on the frozen model, not the model."""
    dpo: DpoSettings = field(default_factory=DpoSettings)
    """Table [dpo]: the loss of preference training."""
    parallel: ParallelSettings = field(default_factory=ParallelSettings)
    """Table [parallel]: how processes share the work."""

    def __post_init__(self) -> None:
        """Check types and ranges of all fields."""
        for own in dataclasses.fields(self):
            if own.name not in (*TABLES, "geometry"):
                default = own.default
                _check_type(own.name, getattr(self, own.name), type(default), default)
        for name, (low, high) in _RANGES.items():
            _check_range(name, getattr(self, name), low, high)
        if not self.output.strip():
            raise ConfigError("output is empty; it must be a path.")
        _check_choice("dtype", self.dtype, ("auto", "bfloat16", "float32"))
        _check_choice("init", self.init, ("normal", "copy"))
        _check_choice("embedding_rows", self.embedding_rows, ("all", "seen"))
        _check_choice("too_long", self.too_long, ("error", "skip"))
        if self.quantization:
            find_recipe(self.quantization)
        self.first_config()
        self._check_data()
        self._check_start()
        self._check_adapter()
        if self.min_learning_rate > self.learning_rate:
            raise ConfigError(
                f"min_learning_rate is {self.min_learning_rate}; it must be at most learning_rate, "
                f"{self.learning_rate}."
            )
        longest = max(self.max_seq_len, self.long_seq_len)
        if self.micro_batch_tokens and self.micro_batch_tokens < longest:
            raise ConfigError(
                f"micro_batch_tokens is {self.micro_batch_tokens}; it must be at least the longest "
                f"sequence, {longest}."
            )

    def _check_data(self) -> None:
        if bool(self.train_records) == bool(self.train_tokens):
            raise ConfigError(
                "train_records and train_tokens are "
                f"{'both' if self.train_records else 'neither'} given; a recipe needs one of them."
            )
        if self.train_tokens and not self.valid_tokens:
            raise ConfigError(
                "valid_tokens is empty; train_tokens needs held-out tokens beside it."
            )
        if self.long_seq_fraction != 0.15 and not self.long_seq_len:
            raise ConfigError(
                f"long_seq_fraction is {self.long_seq_fraction} and long_seq_len is 0, so no "
                "sequence is long; give long_seq_len, or leave long_seq_fraction out."
            )
        has_own = self.valid_records or self.valid_tokens
        if has_own and self.valid_fraction not in (0, 0.05):
            raise ConfigError(
                f"valid_fraction is {self.valid_fraction} and what is held out is {has_own}; leave "
                "one of them out."
            )
        wrong: tuple[str, ...] = ("valid_records", "too_long")
        if self.train_records:
            wrong = ("valid_tokens", "train_mask", "valid_mask", "long_seq_len")
        for own in dataclasses.fields(self):
            if own.name in wrong and getattr(self, own.name) != own.default:
                other = "train_records" if self.train_records else "train_tokens"
                raise ConfigError(f"{own.name} is given; it does not go with {other}.")

    def _check_start(self) -> None:
        for name, default in (("model", "nano"), ("geometry", {}), ("init", "normal")):
            if self.init_from and getattr(self, name) != default:
                raise ConfigError(
                    f"{name} is {getattr(self, name)!r} and init_from is {self.init_from!r}; "
                    f"{name} is for random weights alone. Leave one of them out."
                )

    def _check_adapter(self) -> None:
        if self.init_adapter and self.lora is not None:
            raise ConfigError(
                "init_adapter and a table [lora] are given; an adapter that exists has its ranks "
                "and targets. Leave one of them out."
            )
        is_adapted = bool(self.init_adapter) or self.lora is not None
        if is_adapted and not self.init_from:
            raise ConfigError("init_from is empty; an adapter needs a trained model under it.")
        if self.quantization and not is_adapted:
            raise ConfigError(
                f"quantization is {self.quantization!r}; packed weights cannot be trained. Add a "
                "table [lora] to train an adapter on them."
            )
        if is_adapted and self.embedding_rows == "seen":
            raise ConfigError(
                "embedding_rows is 'seen', and an adapter leaves the embedding as it is; leave "
                "embedding_rows out."
            )
        if self.freeze_router and self.lora is not None and self.lora.adapts_router:
            raise ConfigError(
                "freeze_router is true and lora.targets has the router; leave one of them out."
            )

    def first_config(self) -> ModelConfig:
        """Return the geometry of random weights: the preset with its changes."""
        if not isinstance(self.geometry, Mapping):
            raise ConfigError(f"geometry is {self.geometry!r}; it must be a table: [geometry].")
        known = [own.name for own in dataclasses.fields(ModelConfig)]
        if unknown := sorted(set(self.geometry) - set(known)):
            raise ConfigError(
                f"geometry has {unknown[0]!r}; it must be of {', '.join(sorted(known))}."
            )
        _check_choice("model", self.model, tuple(PRESETS))
        return ModelConfig.preset(self.model).replace(**self.geometry)

    def num_steps(self, steps_per_epoch: int) -> int:
        """Return how many steps a run takes: ``max_steps``, or those of ``num_epochs``."""
        return self.max_steps or math.ceil(self.num_epochs * steps_per_epoch)

    def schedule(self, max_steps: int) -> Schedule:
        """Return the learning rates of a run of so many steps."""
        return Schedule(
            max_steps=max_steps,
            peak=self.learning_rate,
            last=self.min_learning_rate,
            warmup_steps=self.warmup_steps,
            decay_fraction=self.decay_fraction,
        )

    def seq_len_at(self, step: int, max_steps: int) -> int:
        """Return the longest sequence at a step."""
        is_long = step >= max_steps * (1 - self.long_seq_fraction)
        return self.long_seq_len if self.long_seq_len and is_long else self.max_seq_len


_ABOVE_0 = sys.float_info.min
_MAX = sys.float_info.max
# More steps or tokens than anyone trains; so that no product of two overflows.
_MANY = 10**9
_RANGES: dict[str, tuple[float, float]] = {
    **dict.fromkeys(
        ("tokens_per_step", "max_seq_len", "log_every", "eval_every", "eval_steps"), (1, _MANY)
    ),
    **dict.fromkeys(
        ("max_steps", "micro_batch_tokens", "long_seq_len", "warmup_steps", "sampled_words"),
        (0, _MANY),
    ),
    "num_epochs": (_ABOVE_0, 10**6),
    # Above 1 AdamW moves every weight by more than its size in each step.
    "learning_rate": (_ABOVE_0, 100),
    "grad_clip": (_ABOVE_0, _MAX),
    **dict.fromkeys(
        ("weight_decay", "load_balancing_coef", "z_loss_coef", "min_learning_rate"), (0, _MAX)
    ),
    **dict.fromkeys(("beta1", "beta2"), (0, 1 - 1e-12)),
    **dict.fromkeys(("long_seq_fraction", "decay_fraction", "starving_load"), (0, 1)),
    "valid_fraction": (0, 0.9),
    "router_jitter": (0, 0.5),
    "checkpoint_every": (1, _MANY),
    "seed": (0, 2**63 - 1),
}
_KINDS = {str: "a text", int: "a whole number", float: "a number", bool: "true or false"}


def _check_type(name: str, value: Any, wanted: type, default: Any) -> None:
    if default is dataclasses.MISSING:
        wanted = str
    allowed: tuple[type, ...] = (int, float) if wanted is float else (wanted,)
    if not isinstance(value, allowed) or (isinstance(value, bool) and wanted is not bool):
        raise ConfigError(f"{name} is {value!r}; it must be {_KINDS[wanted]}.")
    if wanted is float and not abs(value) <= _MAX:  # type: ignore[arg-type]
        raise ConfigError(f"{name} is {value!r}; it must be a finite number.")


def _check_range(name: str, value: float, low: float, high: float) -> None:
    if low <= value <= high:
        return
    lowest = "above 0" if low == _ABOVE_0 else f"at least {low}"
    highest = "" if high == _MAX else f" and {'below 1' if 1 > high > 0.99 else f'at most {high}'}"
    raise ConfigError(f"{name} is {value}; it must be {lowest}{highest}.")


def _check_choice(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ConfigError(f"{name} is {value!r}; it must be one of {', '.join(allowed)}.")
