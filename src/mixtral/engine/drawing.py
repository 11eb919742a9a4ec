"""One token from a distribution cut by temperature, top_k, min_p and top_p.

``token_probabilities`` is the specification; ``draw`` gives the same distribution without sorting
the whole vocabulary. Sources: top-p, arXiv:1904.09751; min-p, arXiv:2407.01082.
"""

import math

import torch
from torch import Tensor

from mixtral.engine.sampling_params import SamplingParams

# Below this, float32 quotients of logits lose what tells them apart.
_TINY_TEMPERATURE = 1e-3
# Tokens among which top_p is nearly always decided; sorting all of them takes ten times as long.
_LIKELY = 512


def token_probabilities(logits: Tensor, params: SamplingParams) -> Tensor:
    """Return the distribution that a token is drawn from.

    Args:
        logits: [V], float32, after bias and penalties.
        params: Temperature above 0, and the cuts top_k, min_p and top_p, applied in this order.

    Returns:
        [V], float32, sums to 1; the likeliest token is always kept.
    """
    # float64: a temperature of 0.001 would overflow float32 logits.
    scaled = (logits.double() - logits.max()) / params.temperature
    probabilities = scaled.softmax(dim=-1)
    if 0 < params.top_k < len(probabilities):
        kept = probabilities.topk(params.top_k)
        probabilities = torch.zeros_like(probabilities).scatter_(0, kept.indices, kept.values)
    if params.min_p > 0:
        floor = params.min_p * probabilities.max()
        probabilities = torch.where(probabilities < floor, 0.0, probabilities)
    if params.top_p < 1:
        ordered, indices = probabilities.sort(descending=True, stable=True)
        ordered = ordered / ordered.sum()
        before = ordered.cumsum(0) - ordered
        ordered = torch.where(before < params.top_p, ordered, 0.0)
        probabilities = torch.zeros_like(probabilities).scatter_(0, indices, ordered)
    return (probabilities / probabilities.sum()).float()


def draw(logits: Tensor, params: SamplingParams, chance: float) -> int:
    """Return the token at which the cumulated probabilities pass ``chance``.

    Args:
        logits: [V], float32, on the CPU, after bias, penalties and constraint.
        params: Temperature above 0, and the cuts.
        chance: Uniform number, 0 <= chance < 1.
    """
    weights, token_ids = candidates(logits, params)
    sums = weights.cumsum(0, dtype=torch.float64)
    total = float(sums[-1])
    # Below the total and right of equal sums: a candidate of weight 0 is never met.
    target = min(chance * total, math.nextafter(total, 0))
    place = int(torch.searchsorted(sums, target, right=True))
    return place if token_ids is None else int(token_ids[place])


def candidates(logits: Tensor, params: SamplingParams) -> tuple[Tensor, Tensor | None]:
    """Return the tokens that may be drawn with their weights, 1 for the likeliest.

    Returns:
        Weights [C], not normalised, and token ids [C]; None where place i is token i.
    """
    weights = logits - logits.max()
    if params.temperature < _TINY_TEMPERATURE:
        weights = weights.double()
    weights = (weights / params.temperature).exp()
    token_ids: Tensor | None = None
    if 0 < params.top_k < len(weights):
        weights, token_ids = weights.topk(params.top_k)
    if params.min_p > 0:
        weights = torch.where(weights < params.min_p, 0.0, weights)
    if params.top_p < 1:
        limit = params.top_p * weights.sum(dtype=torch.float64)
        if token_ids is None:
            weights, token_ids = weights.topk(min(_LIKELY, len(weights)))
            if weights.sum(dtype=torch.float64) < limit:
                return _sorted_candidates(logits, params)
        before = weights.cumsum(0, dtype=torch.float64) - weights
        weights = torch.where(before < limit, weights, 0.0)
    return weights, token_ids


def _sorted_candidates(logits: Tensor, params: SamplingParams) -> tuple[Tensor, Tensor]:
    weights, token_ids = token_probabilities(logits, params).sort(descending=True)
    return weights, token_ids
