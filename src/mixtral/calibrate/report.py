"""Compare a quantised model with the one it was made from.

Four views, from far to near: perplexity (does it predict the text as well), divergence of the
predictions (how far is each one, even where both are wrong), routing (does a token still visit the
same experts) and weights. Perplexity can improve by luck; the divergence cannot.
"""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mixtral.calibrate.draw import checked_sequences
from mixtral.config import ModelConfig
from mixtral.errors import ConfigError
from mixtral.kernels import formats
from mixtral.model import LanguageModel, Transformer

_PARTS = {".experts.": "experts", ".self_attn.": "attention", "lm_head.": "lm_head"}


@dataclass(frozen=True, kw_only=True, slots=True)
class QualityReport:
    """How a quantised model differs from its reference on the same tokens."""

    num_tokens: int
    """Tokens that both models predicted."""
    reference_perplexity: float
    """Exponential of the mean negative log-likelihood, in nats, of the reference."""
    perplexity: float
    """The same of the quantised model."""
    kl_divergence: float
    """Mean over tokens of KL(reference, quantised) of the next-token distributions, in nats."""
    same_best_token: float
    """Share of tokens for which both models would choose the same next one."""
    same_experts: tuple[float, ...]
    """Share of tokens whose set of experts stays the same, per layer; empty if dense."""
    same_order: tuple[float, ...]
    """Share of tokens whose experts stay the same and in the same order, per layer."""
    weight_errors: Mapping[str, float] = dataclasses.field(default_factory=dict)
    """Relative RMS error of the weights of each part (``weight_errors``)."""

    @property
    def perplexity_change(self) -> float:
        """Perplexity relative to the reference's, minus 1."""
        return self.perplexity / self.reference_perplexity - 1

    def to_json(self) -> dict[str, Any]:
        """Return all fields and the change."""
        return dataclasses.asdict(self) | {"perplexity_change": self.perplexity_change}


def compare_models(
    reference: LanguageModel,
    quantized: LanguageModel,
    sequences: Iterable[Sequence[int]],
    *,
    masks: Iterable[Sequence[int]] | None = None,
    weight_errors: Mapping[str, float] | None = None,
) -> QualityReport:
    """Run both models over held-out text.

    Args:
        reference: The model before quantisation.
        quantized: The model after it.
        sequences: Token ids, each a text of its own.
        masks: For each sequence, 1 at the tokens whose prediction counts (answers, in a chat);
            None counts all but the first. Routing is counted over all tokens.
        weight_errors: Taken into the report.

    Raises:
        ConfigError: A sequence cannot be run, a mask has another length, or no token counts.
    """
    config = reference.config
    predictions, routes = _Predictions(), _Routes(config)
    chosen = iter(masks) if masks is not None else None
    for sequence in checked_sequences(sequences, config):
        counts = _counted(sequence, None if chosen is None else next(chosen, ()))
        if counts.any():
            logits = (model.whole_logits(sequence) for model in (reference, quantized))
            predictions.add(sequence, counts, *logits)
        if not config.is_dense:
            routes.add(*(model.route(sequence).expert_ids for model in (reference, quantized)))
    if not predictions.count:
        raise ConfigError("no token of the evaluation text counts; give it longer sequences.")
    return QualityReport(
        **predictions.means(), **routes.shares(), weight_errors=dict(weight_errors or {})
    )


def weight_errors(model: Transformer, tensors: Iterable[tuple[str, Tensor]]) -> dict[str, float]:
    """Return the relative RMS error of the packed weights of each part.

    Args:
        model: The model in full precision.
        tensors: The quantised model's tensors; those that are not packed are passed over.

    Raises:
        ConfigError: A packed tensor has the size of no format.
    """
    error: dict[str, float] = {}
    size: dict[str, float] = {}
    for name, tensor in tensors:
        if not name.endswith(".packed"):
            continue
        weight_name = name.removesuffix("packed") + "weight"
        weight = model.get_parameter(weight_name).detach().double()
        rows, cols = weight.shape
        form = formats.format_of_packed(tensor, rows=rows, cols=cols)
        decoded = formats.dequantize(tensor, form, rows=rows, cols=cols)
        part = next(part for mark, part in _PARTS.items() if mark in weight_name)
        error[part] = error.get(part, 0.0) + float((decoded - weight).square().sum())
        size[part] = size.get(part, 0.0) + float(weight.square().sum())
    return {part: math.sqrt(error[part] / size[part]) if size[part] else 0.0 for part in error}


def _counted(sequence: Sequence[int], mask: Sequence[int] | None) -> Tensor:
    """Return whether the token after each position counts, [T - 1], bool."""
    if mask is None:
        return torch.ones(len(sequence) - 1, dtype=torch.bool)
    if len(mask) != len(sequence):
        raise ConfigError(
            f"a mask has {len(mask)} entries for {len(sequence)} tokens; they must be as many."
        )
    return torch.tensor(mask[1:], dtype=torch.bool)


class _Predictions:
    """Sums over the predicted tokens."""

    def __init__(self) -> None:
        self.count = 0
        self._losses = [0.0, 0.0]
        self._divergence = 0.0
        self._same = 0

    def add(
        self, sequence: Sequence[int], counts: Tensor, reference: Tensor, quantized: Tensor
    ) -> None:
        """Add one sequence: logits of both models, [T, V]."""
        counts = counts.to(reference.device)
        targets = torch.tensor(sequence[1:], device=reference.device)[counts, None]
        expected, found = (
            logits[:-1][counts].float().log_softmax(dim=-1)
            for logits in (reference, quantized.to(reference.device))
        )
        self.count += len(targets)
        for i, scores in enumerate((expected, found)):
            self._losses[i] -= float(scores.gather(1, targets).double().sum())
        self._divergence += float((expected.exp() * (expected - found)).double().sum())
        self._same += int((expected.argmax(dim=-1) == found.argmax(dim=-1)).sum())

    def means(self) -> dict[str, Any]:
        """Return the fields of the report."""
        return {
            "num_tokens": self.count,
            "reference_perplexity": math.exp(self._losses[0] / self.count),
            "perplexity": math.exp(self._losses[1] / self.count),
            "kl_divergence": self._divergence / self.count,
            "same_best_token": self._same / self.count,
        }


class _Routes:
    """Tokens whose experts stay the same, per layer."""

    def __init__(self, config: ModelConfig) -> None:
        self._num_layers = 0 if config.is_dense else config.num_hidden_layers
        self._count = 0
        self._same_set = torch.zeros(self._num_layers, dtype=torch.int64)
        self._same_order = torch.zeros(self._num_layers, dtype=torch.int64)

    def add(self, reference: Tensor, quantized: Tensor) -> None:
        """Add one sequence: expert ids of both models, [T, L, A]."""
        expected, found = reference.cpu(), quantized.cpu()
        self._count += len(expected)
        self._same_order += (expected == found).all(dim=-1).sum(dim=0)
        is_same = expected.sort(dim=-1).values == found.sort(dim=-1).values
        self._same_set += is_same.all(dim=-1).sum(dim=0)

    def shares(self) -> dict[str, Any]:
        """Return the fields of the report."""
        total = max(1, self._count)
        return {
            "same_experts": tuple((self._same_set / total).tolist()),
            "same_order": tuple((self._same_order / total).tolist()),
        }
