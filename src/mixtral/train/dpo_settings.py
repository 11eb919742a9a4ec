"""What is particular to preference training."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

from mixtral.errors import ConfigError
from mixtral.validation import require_int, require_positive_number

LossName = Literal["dpo", "ipo"]
ReferenceMode = Literal["precomputed", "adapter_off"]


@dataclass(frozen=True, kw_only=True, slots=True)
class DpoSettings:
    """Loss and data of preference training.

    Raises:
        ConfigError: A field is outside its allowed values, or two fields disagree.
    """

    loss: LossName = "dpo"
    """dpo: log-sigmoid of the reward margin (arXiv:2305.18290); ipo: squared distance of the
    margin per token from 1 / (2 beta) (arXiv:2310.12036), which cannot grow without bound."""
    beta: float = 0.1
    """How strongly the model is held to the reference; less lets it go further. With
    length_normalised the margin is per token, and values of 1 to 10 are usual."""
    label_smoothing: float = 0.0
    """Chance that the two answers of a pair were exchanged by mistake, from 0 to below 0.5
    (conservative DPO); only for the loss dpo."""
    sft_coef: float = 0.0
    """Weight of the next-token loss on the chosen answer, per token, added to each pair's loss;
    keeps the chosen answer itself likely (arXiv:2404.19733)."""
    length_normalised: bool = False
    """Divide an answer's log-prob by its tokens, so that long answers do not count more; the loss
    ipo always does."""
    pairs_per_step: int = 32
    """Pairs that one optimizer step sees, over all processes."""
    max_eval_pairs: int = 256
    """Held-out pairs in one measurement, the first so many."""
    reference: ReferenceMode = "precomputed"
    """precomputed: the starting model scores all pairs once, before the first step; adapter_off:
    the trained model scores them at each step with its LoRA adapter off, so the reference is the
    base, whatever adapter training starts from."""
    reference_cache: str = ""
    """Folder that keeps the precomputed scores for later runs; empty: the folder of the run."""

    def __post_init__(self) -> None:
        """Check every field."""
        _require_one_of("loss", self.loss, get_args(LossName))
        _require_one_of("reference", self.reference, get_args(ReferenceMode))
        require_positive_number("dpo.beta", self.beta)
        _require_number("label_smoothing", self.label_smoothing, below=0.5)
        _require_number("sft_coef", self.sft_coef, below=math.inf)
        if self.label_smoothing and self.loss == "ipo":
            raise ConfigError(
                f"dpo.label_smoothing is {self.label_smoothing} and loss is ipo; only the loss dpo "
                "can be smoothed. Set label_smoothing to 0."
            )
        if not isinstance(self.length_normalised, bool):
            raise ConfigError(
                f"dpo.length_normalised is {self.length_normalised!r}; it must be true or false."
            )
        require_int("dpo.pairs_per_step", self.pairs_per_step, low=1)
        require_int("dpo.max_eval_pairs", self.max_eval_pairs, low=1)
        if not isinstance(self.reference_cache, str):
            raise ConfigError(
                f"dpo.reference_cache is {self.reference_cache!r}; it must be the path of a folder."
            )


def _require_one_of(name: str, value: object, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ConfigError(f"dpo.{name} is {value!r}; it must be {' or '.join(allowed)}.")


def _require_number(name: str, value: object, *, below: float) -> None:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not 0 <= value < below:  # type: ignore[operator]
        allowed = "at least 0" if math.isinf(below) else f"from 0 to below {below}"
        raise ConfigError(f"dpo.{name} is {value!r}; it must be a finite number {allowed}.")
