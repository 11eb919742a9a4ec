"""Two models of one geometry on the same tokens: does a token still visit the same experts?

For a model and its quantised, fine-tuned or merged form. Expert 3 of the one must be expert 3 of
the other, so models that were trained apart cannot be compared.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from mixtral.config import ModelConfig
from mixtral.errors import ConfigError
from mixtral.routing.counts import visits_of
from mixtral.routing.experts_per_token import predicted_loss
from mixtral.routing.routed_model import RoutedModel, Step

_GEOMETRY = ("num_hidden_layers", "num_local_experts", "num_experts_per_tok", "vocab_size")


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerChange:
    """How the routing of one layer differs."""

    same_set: float
    """Share of tokens whose A experts are the same, in any order."""
    same_first: float
    """Share of tokens whose best expert is the same."""
    swap_rate: float
    """Share of the token-expert pairs of the first model that the second does not have."""
    kl: float
    """Mean over tokens of KL(first, second) of the softmax over all experts, in nats."""
    load_distance: float
    """Half the sum of the differences of the loads: the share of the work that moved, net."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RoutingComparison:
    """How the second model differs from the first on the same tokens."""

    first: str
    """Name of the first model."""
    second: str
    """Name of the second."""
    num_tokens: int
    """Tokens that both ran."""
    first_perplexity: float | None
    """Exponential of the mean negative log-likelihood, in nats; None where nothing is predicted."""
    second_perplexity: float | None
    """The same of the second model."""
    prediction_kl: float
    """Mean over tokens of KL(first, second) of the next-token distributions, in nats."""
    layers: list[LayerChange]
    """L entries."""

    def as_dict(self) -> dict[str, Any]:
        """Return all fields."""
        return asdict(self)


def compare_routing(
    first: RoutedModel, second: RoutedModel, sequences: Iterable[Sequence[int]]
) -> RoutingComparison:
    """Run both models over the same sequences and compare their routing, token by token.

    Args:
        first: The reference.
        second: Its other form.
        sequences: Token ids, each a text of its own.

    Raises:
        ConfigError: The models have different layers, experts or vocabularies, or there is no text.
    """
    require_same_geometry(first, second)
    sums = _Sums(first.config)
    for sequence in sequences:
        pairs = zip(
            first.steps(sequence, needs_logits=True),
            second.steps(sequence, needs_logits=True),
            strict=True,
        )
        for one, other in pairs:
            sums.add_routing(one, other)
            sums.add_predictions(sequence, one, other)
    if not sums.num_tokens:
        raise ConfigError("there is no token to compare; give a text.")
    return sums.result(first.name, second.name)


def require_same_geometry(first: RoutedModel, second: RoutedModel) -> None:
    """Check that expert e of layer l is the same thing in both models.

    Raises:
        ConfigError: Their layers, experts or vocabularies differ in number.
    """
    for name in _GEOMETRY:
        one, other = getattr(first.config, name), getattr(second.config, name)
        if one != other:
            raise ConfigError(
                f"{name} is {one} in {first.name} and {other} in {second.name}; only models of "
                "the same geometry can be compared."
            )


class _Sums:
    """Sums over the tokens of both models."""

    def __init__(self, config: ModelConfig) -> None:
        layers, self._experts = config.num_hidden_layers, config.num_local_experts
        self._chosen = config.num_experts_per_tok
        self.num_tokens = 0
        self._predicted = 0
        self._losses = [0.0, 0.0]
        self._prediction_kl = 0.0
        self._same_set, self._same_first, self._kept = torch.zeros(3, layers, dtype=torch.int64)
        self._kl = torch.zeros(layers, dtype=torch.float64)
        self._visits = torch.zeros(2, layers, self._experts, dtype=torch.int64)

    def add_routing(self, one: Step, other: Step) -> None:
        """Add the routing of a step of both models."""
        ids, other_ids = one.trace.expert_ids.cpu(), other.trace.expert_ids.cpu()
        visited, other_visited = (visits_of(i, num_experts=self._experts) for i in (ids, other_ids))
        self.num_tokens += len(ids)
        self._same_set += (visited == other_visited).all(dim=2).sum(dim=0)
        self._same_first += (ids[..., 0] == other_ids[..., 0]).sum(dim=0)
        self._kept += (visited & other_visited).sum(dim=(0, 2))
        self._kl += _divergence(one.trace.router_logits, other.trace.router_logits).sum(dim=0)
        self._visits += torch.stack([visited.sum(dim=0), other_visited.sum(dim=0)])

    def add_predictions(self, sequence: Sequence[int], one: Step, other: Step) -> None:
        """Add what both models say about the next tokens of a step."""
        assert one.logits is not None
        assert other.logits is not None
        following = sequence[one.begin + 1 : one.begin + 1 + len(one.logits)]
        targets = torch.tensor(following, dtype=torch.int64)
        logits = [step.cpu() for step in (one.logits, other.logits)]
        self._predicted += len(targets)
        for index, values in enumerate(logits):
            losses = predicted_loss(values[: len(targets)], targets)
            self._losses[index] += float(losses.double().sum())
        self._prediction_kl += float(_divergence(*logits).sum())

    def result(self, first: str, second: str) -> RoutingComparison:
        """Return the means."""
        tokens = self.num_tokens
        loads = self._visits / self._visits.sum(dim=2, keepdim=True)
        distances = (loads[0] - loads[1]).abs().sum(dim=1) / 2
        perplexities = [
            math.exp(loss / self._predicted) if self._predicted else None for loss in self._losses
        ]
        return RoutingComparison(
            first=first,
            second=second,
            num_tokens=tokens,
            first_perplexity=perplexities[0],
            second_perplexity=perplexities[1],
            prediction_kl=self._prediction_kl / tokens,
            layers=[
                LayerChange(
                    same_set=int(self._same_set[layer]) / tokens,
                    same_first=int(self._same_first[layer]) / tokens,
                    swap_rate=1 - int(self._kept[layer]) / (tokens * self._chosen),
                    kl=float(self._kl[layer]) / tokens,
                    load_distance=float(distances[layer]),
                )
                for layer in range(len(distances))
            ],
        )


def _divergence(first: Tensor, second: Tensor) -> Tensor:
    """Return KL(first, second) of the softmaxes of two sets of logits, float64, last axis gone."""
    expected = first.cpu().float().log_softmax(dim=-1)
    found = second.cpu().float().log_softmax(dim=-1)
    return (expected.exp() * (expected - found)).sum(dim=-1, dtype=torch.float64)
