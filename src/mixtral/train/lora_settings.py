"""The ``[lora]`` table of a recipe: which linears get an adapter, and how large it is.

``expert_loads`` names a routing report, a JSON file that says how much work each expert had on some
text. Of the report only this is read, one entry per layer and one number per expert:

    {"layers": [{"load": [0.31, 0.02, 0.05, ...]}, {"load": [...]}, ...]}

A load is the share of the layer's token-expert pairs that the expert got, or their count: only the
order within a layer matters here.
"""

import json
import math
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mixtral.config import ModelConfig
from mixtral.errors import ConfigError
from mixtral.model.adapter import ATTENTION_LINEARS, EXPERT_LINEARS, adaptable_linears
from mixtral.model.lora import LoraSpec
from mixtral.validation import require_int, require_positive_number

TARGETS: Mapping[str, tuple[str, ...]] = {
    "attention": ATTENTION_LINEARS,
    "router": ("gate",),
    "experts": EXPERT_LINEARS,
    **{linear: (linear,) for linear in (*ATTENTION_LINEARS, "gate", *EXPERT_LINEARS)},
}
"""Name of a target -> the linears that it means."""

_MAX_RANK = 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class LoraSettings:
    """What is adapted, and with how much.

    Raises:
        ConfigError: A field is outside its allowed values, or two fields disagree.
    """

    rank: int = 16
    """r, width of the two matrices beside each adapted weight; memory and work grow with it."""
    alpha: float = 32.0
    """The adapter's output is multiplied by alpha / rank."""
    use_rslora: bool = False
    """Multiply by alpha / sqrt(rank) instead, which suits ranks above 64 (arXiv:2312.03732)."""
    dropout: float = 0.0
    """Share of an adapter's inputs that are set to 0 while training, from 0 to below 1."""
    targets: Sequence[str] = ("attention", "experts")
    """What is adapted: attention, router, experts, or linears by name: q_proj, k_proj, v_proj,
    o_proj, gate, w1, w2, w3."""
    target_rank: Mapping[str, int] = field(default_factory=dict)
    """Another rank for some targets: {experts = 8}; a linear by name comes before its group."""
    target_alpha: Mapping[str, float] = field(default_factory=dict)
    """Another alpha for some targets: {router = 8}; a linear by name comes before its group."""
    experts: str = "all"
    """Which experts of each layer: all; busiest:4, the four with most work in expert_loads; or by
    number: 0,3."""
    expert_loads: str = ""
    """Routing report (.json) that says how busy each expert is, for busiest."""

    def __post_init__(self) -> None:
        """Check every field."""
        require_int("lora.rank", self.rank, low=1, high=_MAX_RANK)
        require_positive_number("lora.alpha", self.alpha)
        if not isinstance(self.use_rslora, bool):
            raise ConfigError(f"lora.use_rslora is {self.use_rslora!r}; it must be true or false.")
        is_number = isinstance(self.dropout, (int, float)) and not isinstance(self.dropout, bool)
        if not is_number or not 0 <= self.dropout < 1:
            raise ConfigError(
                f"lora.dropout is {self.dropout!r}; it must be a number from 0 to below 1."
            )
        self._check_targets()
        self._check_experts()

    @property
    def adapts_router(self) -> bool:
        """Whether the router is among the targets."""
        return "gate" in self._linears()

    def _check_targets(self) -> None:
        if isinstance(self.targets, str) or not isinstance(self.targets, Sequence):
            raise ConfigError(
                f'lora.targets is {self.targets!r}; it must be a list: ["attention"].'
            )
        if not self.targets:
            raise ConfigError(f"lora.targets is empty; name some of {', '.join(TARGETS)}.")
        for target in self.targets:
            if not isinstance(target, str) or target not in TARGETS:
                raise ConfigError(
                    f"lora.targets has {target!r}; it must be of {', '.join(TARGETS)}."
                )
        for name, values in (
            ("lora.target_rank", self.target_rank),
            ("lora.target_alpha", self.target_alpha),
        ):
            _check_by_target(name, values, self._linears())
        for target, rank in self.target_rank.items():
            require_int(f"lora.target_rank.{target}", rank, low=1, high=_MAX_RANK)
        for target, alpha in self.target_alpha.items():
            require_positive_number(f"lora.target_alpha.{target}", alpha)

    def _check_experts(self) -> None:
        if not isinstance(self.experts, str) or not isinstance(self.expert_loads, str):
            raise ConfigError(
                f"lora.experts is {self.experts!r} and lora.expert_loads is "
                f"{self.expert_loads!r}; both must be texts."
            )
        kind, _, count = self.experts.partition(":")
        if kind == "busiest":
            if not _is_number(count) or not int(count):
                raise ConfigError(
                    f"lora.experts is {self.experts!r:.60}; busiest needs a number of experts "
                    "above 0: busiest:4."
                )
            if not self.expert_loads:
                raise ConfigError(
                    f"lora.experts is {self.experts!r}, and lora.expert_loads is empty; name the "
                    "routing report that says which experts are busy."
                )
        elif self.experts != "all":
            _expert_numbers(self.experts)
        if kind != "busiest" and self.expert_loads:
            raise ConfigError(
                f"lora.expert_loads is given and lora.experts is {self.experts!r}; the report is "
                "for busiest only. Leave one of them out."
            )
        if self.experts != "all" and not set(self._linears()).intersection(EXPERT_LINEARS):
            raise ConfigError(
                f"lora.experts is {self.experts!r}, but lora.targets, {list(self.targets)}, has no "
                "expert. Add experts, or leave lora.experts out."
            )

    def specs(self, config: ModelConfig) -> dict[str, LoraSpec]:
        """Return rank and scale of each linear to adapt, in the order of the model.

        Reads ``expert_loads`` where the busiest experts are wanted.

        Raises:
            ConfigError: The settings or the report do not fit the model.
        """
        wanted = self._linears()
        if config.is_dense and ("gate" in wanted or self.experts != "all"):
            raise ConfigError(
                f"lora.targets is {list(self.targets)} and lora.experts is {self.experts!r}; this "
                "model is dense: it has no router and nothing to choose. Use attention and experts."
            )
        chosen = self._chosen_experts(config)
        found = {}
        for name in adaptable_linears(config):
            linear = name.rpartition(".")[2]
            if linear not in wanted:
                continue
            parts = name.split(".")
            if linear in EXPERT_LINEARS and int(parts[-2]) not in chosen[int(parts[2])]:
                continue
            found[name] = self._spec(linear)
        return found

    def _linears(self) -> list[str]:
        return [linear for target in self.targets for linear in TARGETS[target]]

    def _spec(self, linear: str) -> LoraSpec:
        rank = _by_target(self.target_rank, linear, self.rank)
        alpha = _by_target(self.target_alpha, linear, self.alpha)
        scale = alpha / (math.sqrt(rank) if self.use_rslora else rank)
        return LoraSpec(rank=int(rank), scale=scale)

    def _chosen_experts(self, config: ModelConfig) -> list[Collection[int]]:
        """Return the experts to adapt, layer by layer."""
        num_layers, num_experts = config.num_hidden_layers, config.num_experts
        if self.experts == "all":
            return [range(num_experts)] * num_layers
        if self.expert_loads:
            count = int(self.experts.partition(":")[2])
            require_int("lora.experts busiest", count, low=1, high=num_experts)
            loads = read_expert_loads(Path(self.expert_loads), config)
            return [sorted(range(num_experts), key=lambda e: -load[e])[:count] for load in loads]
        numbers = _expert_numbers(self.experts)
        if max(numbers) >= num_experts:
            raise ConfigError(
                f"lora.experts is {self.experts!r}; this model has the experts 0 to "
                f"{num_experts - 1}."
            )
        return [numbers] * num_layers


def read_expert_loads(path: Path, config: ModelConfig) -> list[list[float]]:
    """Read how busy each expert is from a routing report, see the module.

    Returns:
        L lists of E numbers of at least 0.

    Raises:
        ConfigError: The file cannot be read, or is not of this model.
    """
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
        loads = [list(layer["load"]) for layer in report["layers"]]
    except FileNotFoundError as error:
        raise ConfigError(f"{path} does not exist; lora.expert_loads needs the report.") from error
    except (OSError, ValueError, RecursionError, KeyError, TypeError) as error:
        raise ConfigError(
            f'{path} is no routing report; it must be JSON with {{"layers": [{{"load": [...]}}]}}.'
        ) from error
    num_layers, num_experts = config.num_hidden_layers, config.num_experts
    if len(loads) != num_layers:
        raise ConfigError(
            f"{path} has {len(loads)} layers; this model has {num_layers}. Is it of another model?"
        )
    for number, load in enumerate(loads):
        if len(load) != num_experts or not all(_is_load(value) for value in load):
            raise ConfigError(
                f"{path}: the load of layer {number} is {load!r:.200}; it must be {num_experts} "
                "numbers of at least 0, one for each expert."
            )
    return loads


def _check_by_target(name: str, values: object, wanted: Collection[str]) -> None:
    if not isinstance(values, Mapping):
        raise ConfigError(f"{name} is {values!r}; it must be a table: {{experts = 8}}.")
    for target in values:
        if target not in TARGETS:
            raise ConfigError(f"{name} has {target!r}; it must be of {', '.join(TARGETS)}.")
        if not set(TARGETS[target]).intersection(wanted):
            raise ConfigError(
                f"{name} has {target!r}, which lora.targets does not adapt; add it there, or leave "
                "it out here."
            )


def _by_target(values: Mapping[str, float], linear: str, default: float) -> float:
    if linear in values:
        return values[linear]
    groups = [target for target in values if linear in TARGETS[target]]
    return values[groups[0]] if groups else default


def _expert_numbers(text: str) -> list[int]:
    parts = [part.strip() for part in text.split(",")]
    if not all(map(_is_number, parts)) or len(set(parts)) != len(parts):
        raise ConfigError(
            f"lora.experts is {text!r:.60}; it must be all, busiest:4, or different numbers of "
            "experts: 0,3."
        )
    return [int(part) for part in parts]


def _is_number(text: str) -> bool:
    return text.isdecimal() and len(text) < 10  # of more digits than Python likes to read


def _is_load(value: Any) -> bool:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return is_number and 0 <= value <= sys.float_info.max
