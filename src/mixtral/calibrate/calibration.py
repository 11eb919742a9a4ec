"""Walk through a model, one layer at a time, and yield it in low-bit formats.

The states of all calibration tokens go from layer to layer; each layer is rounded on the states
that the rounded layers before it produce, so it makes up for some of their error as well. One
layer's rounded weights are in memory at a time; the model itself, which may be a memory map, stays
as it is. Nothing here knows files or text.
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from mixtral.calibrate.draw import DrawnText, draw_text
from mixtral.calibrate.layer import LayerCalibrator
from mixtral.calibrate.rounding import Rounder, second_moments
from mixtral.calibrate.settings import CalibrationSettings
from mixtral.errors import ConfigError
from mixtral.model import Transformer
from mixtral.model.transformer import DecoderLayer
from mixtral.quantization import QuantizationRecipe


@dataclass(frozen=True, kw_only=True, slots=True)
class StarvedExpert:
    """An expert that saw fewer tokens than asked for and borrowed from its layer's tokens."""

    layer: int
    """Its layer."""
    expert: int
    """Its number."""
    num_tokens: int
    """Tokens that it saw."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CalibrationReport:
    """What a calibration read."""

    recipe: str
    """Name of the recipe."""
    num_sequences: int
    """Sequences read."""
    num_tokens: int
    """Tokens read."""
    has_enough: bool
    """Whether the text sufficed for every expert."""
    min_tokens_per_expert: int
    """Tokens that each expert was to see."""
    tokens_per_expert: tuple[tuple[int, ...], ...]
    """Tokens that each expert of each layer saw, L x E."""

    @property
    def starved(self) -> tuple[StarvedExpert, ...]:
        """Experts with too few tokens; their rounding used those of the whole layer as well."""
        return tuple(
            StarvedExpert(layer=layer, expert=expert, num_tokens=count)
            for layer, counts in enumerate(self.tokens_per_expert)
            for expert, count in enumerate(counts)
            if count < self.min_tokens_per_expert
        )

    def to_json(self) -> dict[str, Any]:
        """Return all fields and the starved experts."""
        starved = [dataclasses.asdict(expert) for expert in self.starved]
        return dataclasses.asdict(self) | {"starved": starved}


class Calibration:
    """A calibrated quantisation of one model: iterate over it once, then read its report.

    Args:
        model: The model in full precision; it is not changed. Use bfloat16 or float32.
        recipe: Formats of its parts.
        sequences: Token ids of the text, best in random order; only as many as needed are drawn.
        settings: How much text to read and how to round.
        on_progress: Called with what is being done and the share of the work that is done.

    Raises:
        ConfigError: The model has a dtype or the text has a sequence that cannot be used.
    """

    def __init__(
        self,
        model: Transformer,
        recipe: QuantizationRecipe,
        sequences: Iterable[Sequence[int]],
        *,
        settings: CalibrationSettings | None = None,
        on_progress: Callable[[str, float], None] | None = None,
    ) -> None:
        dtype = model.model.embed_tokens.weight.dtype
        if dtype not in (torch.float32, torch.bfloat16):
            raise ConfigError(
                f"the model is in {dtype}; calibration needs torch.float32 or torch.bfloat16. "
                "Load it in one of these."
            )
        self._model = model
        self._settings = settings or CalibrationSettings()
        self._sequences = sequences
        self._on_progress = on_progress or (lambda what, share: None)
        self._rounder = Rounder(recipe=recipe, damping=self._settings.damping)
        self._report: CalibrationReport | None = None

    @property
    def report(self) -> CalibrationReport:
        """What was read, once all tensors were taken.

        Raises:
            ConfigError: They were not.
        """
        if self._report is None:
            raise ConfigError("the calibration has not ended; take all its tensors first.")
        return self._report

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        """Yield all tensors of the quantised model: names of ours, ``.packed`` where packed.

        The head comes with a name of its own even where it is tied to the embedding.
        """
        self._on_progress("drawing text", 0.0)
        text = draw_text(self._model, self._sequences, self._settings)
        model = self._model.model
        yield "model.embed_tokens.weight", model.embed_tokens.weight
        with torch.no_grad():
            states = [model.embed_tokens(batch.input_ids) for batch in text.batches]
        counts: list[list[int]] = []
        for index, layer in enumerate(model.layers):
            counts.append([])
            yield from self._layer(index, cast(DecoderLayer, layer), text, states, counts)
        yield "model.norm.weight", model.norm.weight
        yield from self._head(states)
        self._on_progress("done", 1.0)
        self._report = CalibrationReport(
            recipe=self._rounder.recipe.name,
            num_sequences=text.num_sequences,
            num_tokens=text.num_tokens,
            has_enough=text.has_enough,
            min_tokens_per_expert=self._settings.min_tokens_per_expert,
            tokens_per_expert=tuple(tuple(layer) for layer in counts),
        )

    def _layer(
        self,
        index: int,
        layer: DecoderLayer,
        text: DrawnText,
        states: list[Tensor],
        counts: list[list[int]],
    ) -> Iterator[tuple[str, Tensor]]:
        """Round one layer: yield its tensors, move the states on, note the experts' tokens."""
        config = self._model.config
        prefix = f"model.layers.{index}"
        work = LayerCalibrator(
            layer,
            index,
            config=config,
            text=text,
            states=states,
            rounder=self._rounder,
            min_tokens=self._settings.min_tokens_per_expert,
        )
        self._tell(index, 0.0)
        yield f"{prefix}.input_layernorm.weight", layer.input_layernorm.weight
        work.attention()
        yield from self._rounder.take()
        yield f"{prefix}.post_attention_layernorm.weight", layer.post_attention_layernorm.weight
        if not config.is_dense:
            yield f"{prefix}.block_sparse_moe.gate.weight", layer.block_sparse_moe.gate.weight
        for count in work.experts():
            counts[index].append(count)
            yield from self._rounder.take()
            self._tell(index, len(counts[index]) / config.num_experts)

    def _head(self, states: list[Tensor]) -> Iterator[tuple[str, Tensor]]:
        """Round the output head on the final states."""
        name = "lm_head.weight"
        factor = None
        with torch.no_grad():
            if self._rounder.wants(name):
                moments = second_moments(self._model.model.norm(x) for x in states)
                factor = self._rounder.factor(moments)
            self._rounder.round(name, self._model.lm_head.weight, factor)
        yield from self._rounder.take()

    def _tell(self, layer: int, share: float) -> None:
        layers = self._model.config.num_hidden_layers
        # The head counts as a layer.
        self._on_progress(f"layer {layer + 1} of {layers}", (layer + share) / (layers + 1))
